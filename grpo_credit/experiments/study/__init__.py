"""Studies: a recipe, several credit strategies, several seeds, and a process for each of them.

The state of a study is its directory (see `cells`); nothing else is kept. No torch here: a runner
that lives as long as a hundred recipes should weigh nothing, and start at once. `run` is what
`grpo-credit ablate` does with a `Study`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_credit.experiments.design import Study
    from grpo_credit.experiments.study.ablate import run

__all__ = ["Study", "run"]

_HOME = {"Study": "grpo_credit.experiments.design", "run": f"{__name__}.ablate"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
