"""What a subclass of the trainer may bring of its own, and what would train on something else.

A `_compute_loss` or `compute_loss` of a subclass sees what TRL documents: advantages in TRL's
units, masks, TRL's micro-batches. The credit takes their place in
`CreditGRPOTrainer._compute_loss`, so a loss that does not come by there trains without it.
"""

import inspect
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grpo_credit.credit.strategy import CreditError, Strategy

if TYPE_CHECKING:
    from grpo_credit.trainer.config import Plan

LOSSES = ("compute_loss", "_compute_loss")


def check(trainer_class: type[Any], ours: type[Any], plan: "Plan") -> None:
    """Refuse a subclass whose loss would not be that of the credit.

    Args:
        trainer_class: of the trainer that is made.
        ours: `CreditGRPOTrainer`.
        plan: what is to be trained.

    Raises:
        CreditError: if a class between `CreditGRPOTrainer` and TRL's trainer has a loss of its own
            (it would be given credit for advantages), or if a strategy was named and the loss of a
            subclass cannot come by.
    """
    order = trainer_class.__mro__
    after = order[order.index(ours) : order.index(_trl_trainer(order))]
    for base in (b for b in after if not b.__module__.startswith("grpo_credit.")):
        if own := next((name for name in LOSSES if name in vars(base)), None):
            raise CreditError(
                f"{base.__name__}.{own} comes after {ours.__name__} among the bases of "
                f"{trainer_class.__name__}, and would be given credit in place of advantages; name "
                f"{base.__name__} first."
            )
    leading = {*LOSSES, *(name for base in order[: order.index(ours)] for name in vars(base))}
    for name in LOSSES if plan.explicit else ():
        function = getattr(trainer_class, name)
        if function is not getattr(ours, name) and not _mentions(function, leading):
            raise CreditError(without_credit(trainer_class.__name__, name, plan))


def overrides(trainer: Any, ours: type[Any], method: str) -> bool:
    """Return whether a subclass, or an attribute of a trainer, overrides a method of ours.

    Args:
        trainer: of `ours`, or of a subclass.
        ours: `CreditGRPOTrainer`.
        method: name of the method.
    """
    known = getattr(ours, method)
    here = known.__module__.startswith(("grpo_credit.", "trl.", "transformers."))
    return not here or getattr(getattr(trainer, method), "__func__", None) is not known


def refuse_second_allocation(trainer: str, advantages: Tensor, strategy: Strategy) -> None:
    """Refuse advantages of tokens, which are an allocation, beside a strategy that allocates.

    Args:
        trainer: name of the class.
        advantages: as a generation batch holds them, (B, 1) or (B, T).
        strategy: of the training.

    Raises:
        CreditError: if both allocate.
    """
    if advantages.size(1) > 1 and not strategy.even:
        raise CreditError(
            f"{trainer}._generate_and_score_completions returned advantages of shape (B, T), which "
            f"are an allocation, and so is credit={strategy.name!r}; name an aggregation alone, "
            "such as credit='seq', or return one advantage per completion."
        )


class HandedOut:
    """A micro-batch as it was when its credit had been computed.

    Args:
        batch: as `_prepare_inputs` returns it; the dict and its tensors may be changed later.
        strategy: of the training; with `even`, advantages may change, and are trained on.
    """

    def __init__(self, batch: dict[str, Any], strategy: Strategy) -> None:
        fixed = ["completion_mask", "tool_mask"]
        fixed += [] if strategy.even else ["completion_ids", "advantages"]
        kept = {name: batch.get(name) for name in fixed}
        self._kept = {n: (v, v._version if v is not None else 0) for n, v in kept.items()}
        self.reached = False  # whether a loss was computed of it by way of the credit

    def check(self, inputs: dict[str, Any]) -> None:
        """Refuse inputs of `_compute_loss` that differ from what the credit was computed from.

        Raises:
            CreditError: naming the first entry that was replaced, or changed in place.
        """
        self.reached = True
        for name, (then, version) in self._kept.items():
            now = inputs.get(name)
            if now is None or then is None:
                same = now is then
            else:
                same = then._version == version and (now is then or torch.equal(now, then))
            if not same:
                raise CreditError(
                    f"inputs[{name!r}] was changed after the credit of the optimizer step had been "
                    "computed from it; override _generate_and_score_completions to change it."
                )


def without_credit(trainer: str, method: str, plan: "Plan") -> str:
    """Return the sentence that refuses a loss which does not come by the credit."""
    return (
        f"{trainer}.{method} computes a loss of its own, where credit={plan.strategy.name!r} has "
        f"no effect; let it call super().{method}(), or leave credit out to train as with TRL."
    )


def _trl_trainer(order: tuple[type[Any], ...]) -> type[Any]:
    return next(base for base in order if base.__module__.startswith("trl."))


def _mentions(function: Any, names: set[str]) -> bool:
    """Return whether a function's code has one of the names; True where it has no code to read."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is None or _code_mentions(code, names)


def _code_mentions(code: CodeType, names: set[str]) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return bool(names & set(code.co_names)) or any(_code_mentions(c, names) for c in inner)
