"""Measuring a credit rule against the truth: exact gradients, known causes, frozen batches.

* `exact`: policies small enough to list every completion, so that bias and variance are numbers;
* `oracle`: tasks whose deciding tokens are known, so that a rule is scored;
* `replay`: one saved window of a real run, several strategies, real gradients;
* `race`: chains whose true advantages are known, raced to a target next to perfect credit;
* `strings`: next-token losses and searches against whole strings, which are all listed;
* `temper`: ways to reach a temperature of whole strings.

In Python `exact` and `temper` are functions that return what the commands of that name print; they
are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_credit.lab.asked import Exact, Temper
    from grpo_credit.lab.commands import exact
    from grpo_credit.lab.string_commands import temper

__all__ = ["Exact", "Temper", "exact", "temper"]

_HOME = {"Exact": "asked", "Temper": "asked", "exact": "commands", "temper": "string_commands"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
