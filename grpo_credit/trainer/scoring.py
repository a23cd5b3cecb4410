"""What TRL's fused head computes beside the log-probabilities."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from grpo_credit.trainer.seams import piece

add_fused_lm_head = piece("add_fused_lm_head")


def add_sum_sq_probs(trainer: Any) -> None:
    """Have TRL's own fused head give one output more, log Σ_v π_v²."""
    add_fused_lm_head(
        base_of(trainer.model),
        temperature=trainer.temperature,
        cast_lm_head_to_fp32=trainer.args.cast_lm_head_to_fp32,
        outputs=("log_probs", "entropy", "log_sum_sq_probs"),
    )


def base_of(model: Any) -> Any:
    """Return the model that the fused head sits on, beneath any adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def fused_outputs(model: nn.Module, field: str, width: int) -> Generator[list[Tensor], None, None]:
    """Keep one field of every fused forward pass, its last `width` columns.

    Args:
        model: the model that the fused head was added to.
        field: of TRL's `FusedCausalLMOutput`.
        width: columns of the completion, in tokens.

    Yields:
        A list that grows by a `(b, width)` tensor with each pass; it stays empty where the head
        does not compute the field.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        value = getattr(output, field, None)
        if value is not None:
            kept.append(value[:, -width:])

    handle = model.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
