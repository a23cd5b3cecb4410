"""Whether the weights that are trained have the digits for updates of the learning rate."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grpo_credit.preflight.findings import Finding

if TYPE_CHECKING:
    from grpo_credit.trainer.seams import Seams

SOME, NEARLY_ALL = 0.1, 0.9


def lost_share(parameters: Iterable[Tensor], step: float) -> float:
    """Return the share of numbers that a step away from zero leaves as they are.

    AdamW moves a number by about the learning rate. Where that is less than half a unit in its last
    place, it is rounded away, and the number does not move:

        w + η = w    if    η < 2^(⌊log2 |w|⌋ - 8)    in bfloat16

    Args:
        parameters: any shapes and types.
        step: the learning rate, η.

    Example:
        >>> weights = torch.tensor([1.0, 0.01, 0.0])
        >>> lost_share([weights], 1e-6), round(lost_share([weights.bfloat16()], 1e-6), 2)
        (0.0, 0.67)
    """
    lost, count = 0, 0
    for parameter in parameters:
        moved = parameter.detach().float()
        moved = moved + step * torch.where(moved < 0, -1.0, 1.0)
        lost += int((moved.to(parameter.dtype) == parameter.detach()).sum())
        count += parameter.numel()
    return lost / max(1, count)


def check_precision(trainer: "Seams") -> list[Finding]:
    """Tell of updates that are rounded away.

    Looked at after the generation of the preflight, because TRL's continuous batching casts the
    weights then. Sharded training, which keeps weights of its own in float32, is left out.
    """
    rate = trainer.args.learning_rate
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded or rate == 0 or "adam" not in trainer.args.optim:
        return []
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    share = lost_share(trained, rate)
    if share < SOME:
        return []
    types = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in trained}))
    remedy = "Load it with --dtype float32 (its passes run in bfloat16 all the same, by --bf16)."
    if trainer.args.use_transformers_continuous_batching:
        remedy = (
            "Leave out --use_transformers_continuous_batching: with --bf16 it casts the weights "
            "that are trained. vLLM (--use_vllm) does not."
        )
    return [
        Finding(
            "error" if share > NEARLY_ALL else "warning",
            "precision",
            f"the weights are trained in {types}, where a step of the learning rate {rate:g} is "
            f"rounded away for {share:.0%} of them: these do not move.",
            remedy,
        )
    ]
