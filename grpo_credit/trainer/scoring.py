"""What the policy thinks of completions: what TRL's fused head computes, and Σ_v π_v² beside."""

import inspect
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOTrainer

from grpo_credit.batching.rows import Rows, as_input
from grpo_credit.trainer.seams import piece
from grpo_credit.trainer.turns import Told

add_fused_lm_head = piece("add_fused_lm_head")


class Scored(NamedTuple):
    """A generation batch of this rank as TRL scored it; the rewards are of all ranks."""

    inputs: list[dict[str, Any]]
    prompts: list[Any]
    completions: list[Any]
    ids: list[list[int]]
    rewards: Tensor
    told: Told | None


def add_sum_sq_probs(trainer: Any) -> None:
    """Have TRL's own fused head give one output more, log Σ_v π_v², where somebody reads it."""
    if "sum_sq_probs" in trainer.plan.strategy.needs or trainer.save_every:
        _add_output(trainer)


@contextmanager
def sum_sq_probs_added(trainer: Any) -> Generator[None]:
    """Have the head give log Σ_v π_v² for a while; nothing of it stays on the model."""
    base = base_of(trainer.model)
    before = base.forward
    _add_output(trainer)
    try:
        yield
    finally:
        base.forward = before


def _add_output(trainer: Any) -> None:
    add_fused_lm_head(
        base_of(trainer.model),
        temperature=trainer.temperature,
        cast_lm_head_to_fp32=trainer.args.cast_lm_head_to_fp32,
        outputs=("log_probs", "entropy", "log_sum_sq_probs"),
    )


def images_of(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a generation batch TRL hands to the model beside token ids."""
    accepted = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    return {name: value for name, value in output.items() if name in accepted}


def padded(
    ids: Sequence[Sequence[int]], filler: int, side: Literal["left", "right"], device: Any
) -> tuple[Tensor, Tensor]:
    """Return token ids, padded on a side, and the mask of those that are there."""
    rows = [torch.tensor(row, device=device, dtype=torch.long) for row in ids]
    there = [torch.ones_like(row) for row in rows]
    return pad_sequence(rows, True, filler, side), pad_sequence(there, True, 0, side)


def scored_rows(
    trainer: Any, rows: Rows, batch_size: int | None, images: Mapping[str, Any]
) -> tuple[Tensor | None, ...]:
    """Return log-probabilities, entropies and Σ_v π_v² of completions; None where not computed."""
    model = Keeping(trainer.model)
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
        model, *as_input(rows), batch_size=batch_size, compute_entropy=True, **images
    )
    log_sum_sq_probs = model.field("log_sum_sq_probs", rows["completion_ids"].size(1))
    return logps, entropies, None if log_sum_sq_probs is None else log_sum_sq_probs.exp()


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
