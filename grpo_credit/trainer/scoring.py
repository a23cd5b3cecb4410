"""What TRL's fused head computes beside the log-probabilities."""

from typing import Any

import torch
from torch import Tensor

from grpo_credit.trainer.seams import piece

add_fused_lm_head = piece("add_fused_lm_head")


def add_sum_sq_probs(trainer: Any) -> None:
    """Have TRL's own fused head give one output more, log Σ_v π_v², where somebody reads it."""
    if "sum_sq_probs" not in trainer.plan.strategy.needs and not trainer.save_every:
        return
    add_fused_lm_head(
        base_of(trainer.model),
        temperature=trainer.temperature,
        cast_lm_head_to_fp32=trainer.args.cast_lm_head_to_fp32,
        outputs=("log_probs", "entropy", "log_sum_sq_probs"),
    )


def base_of(model: Any) -> Any:
    """Return the model that the fused head sits on, beneath any adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class Keeping:
    """A model that keeps what its fused head puts out, for the fields that TRL does not hand on.

    Args:
        model: may be wrapped.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._outputs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        self._outputs.append(self._model(*args, **kwargs))
        return self._outputs[-1]

    def field(self, name: str, width: int) -> Tensor | None:
        """Return the last `width` columns of a field; None where the head does not compute it.

        It is read late: where rows are packed, outputs are unpacked in place.
        """
        values: list[Any] = [getattr(outputs, name, None) for outputs in self._outputs]
        if any(value is None for value in values):
            return None
        return torch.cat([value[:, -width:] for value in values])
