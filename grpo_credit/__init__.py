"""Which token earned this reward? Pluggable credit assignment for TRL's GRPOTrainer.

Names are loaded when they are first used: importing this package imports neither torch nor trl.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_credit.config import CreditGRPOConfig
    from grpo_credit.errors import CreditError
    from grpo_credit.registry import aggregation, allocation, list_credit
    from grpo_credit.resolve import chain, compute_credit, mix, resolve_credit
    from grpo_credit.rollouts import Rollouts
    from grpo_credit.trainer import CreditGRPOTrainer

__version__ = "0.1.0"
__all__ = [
    "CreditError",
    "CreditGRPOConfig",
    "CreditGRPOTrainer",
    "Rollouts",
    "aggregation",
    "allocation",
    "chain",
    "compute_credit",
    "list_credit",
    "mix",
    "resolve_credit",
]

_HOME = {
    "CreditError": "errors",
    "CreditGRPOConfig": "config",
    "CreditGRPOTrainer": "trainer",
    "Rollouts": "rollouts",
    "aggregation": "registry",
    "allocation": "registry",
    "list_credit": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'resolve')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
