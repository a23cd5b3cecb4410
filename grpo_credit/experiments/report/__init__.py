"""Reports over strategies and seeds: the statistics, the data, the offline page.

Imports neither torch nor trl: a report can be rendered again where nothing was trained. `read` and
`write` are what `grpo-credit report` does, `pictures` what a notebook shows of a study, `compare`
what decides.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_credit.experiments.report.page import pictures, read, write
    from grpo_credit.experiments.report.statistics import compare

__all__ = ["compare", "pictures", "read", "write"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "statistics" if name == "compare" else "page"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
