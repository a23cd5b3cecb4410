"""Which token earned this reward? Pluggable credit assignment for TRL's trainers.

Names are loaded when they are first used: importing this package imports neither torch nor trl.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_credit.credit.conformance import check
    from grpo_credit.credit.heat_map import HeatMap
    from grpo_credit.credit.parse import chain, compute_credit, mix, resolve_credit
    from grpo_credit.credit.registry import aggregation, allocation, list_credit
    from grpo_credit.credit.rollouts import Rollouts
    from grpo_credit.credit.saved import load_rollouts
    from grpo_credit.errors import CreditError
    from grpo_credit.run.lifecycle import Run
    from grpo_credit.trainer.config import CreditGRPOConfig
    from grpo_credit.trainer.credit_tables import load_credit
    from grpo_credit.trainer.sft import CreditSFTTrainer
    from grpo_credit.trainer.sft_config import CreditSFTConfig
    from grpo_credit.trainer.trainer import CreditGRPOTrainer

__version__ = "0.2.0"
__all__ = [
    "CreditError",
    "CreditGRPOConfig",
    "CreditGRPOTrainer",
    "CreditSFTConfig",
    "CreditSFTTrainer",
    "HeatMap",
    "Rollouts",
    "Run",
    "aggregation",
    "allocation",
    "chain",
    "check",
    "compute_credit",
    "list_credit",
    "load_credit",
    "load_rollouts",
    "mix",
    "resolve_credit",
]

_HOME = {
    "CreditError": "errors",
    "CreditGRPOConfig": "trainer.config",
    "CreditGRPOTrainer": "trainer.trainer",
    "CreditSFTConfig": "trainer.sft_config",
    "CreditSFTTrainer": "trainer.sft",
    "HeatMap": "credit.heat_map",
    "Rollouts": "credit.rollouts",
    "Run": "run.lifecycle",
    "aggregation": "credit.registry",
    "allocation": "credit.registry",
    "check": "credit.conformance",
    "list_credit": "credit.registry",
    "load_credit": "trainer.credit_tables",
    "load_rollouts": "credit.saved",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'credit.parse')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
