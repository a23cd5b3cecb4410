"""Which fields of `Rollouts` have which shape, and whether what they hold fits together."""

from typing import Any

import torch
from torch import Tensor

from grpo_credit.credit.turns import check_turns

# What more padding holds, for every field that has a value per token.
PADDING = {
    "completion_ids": 0,
    "mask": False,
    "old_logps": 0.0,
    "entropies": 0.0,
    "sum_sq_probs": 1.0,
    "ref_logps": 0.0,
    "privileged_logps": 0.0,
    "step_rewards": float("nan"),
}
OF_PREFIXES = ("prefix_values", "answer_logps")  # one value more than tokens, NaN where unknown
PER_ROW = ("advantages", "rewards", "group", "truncated", "window_count", "generation")
ROWWISE = ("texts", "turns")  # one object per row


def check_fields(rollouts: Any, tensors: dict[str, Tensor]) -> None:
    """Raise a ValueError where fields do not fit together; see `Rollouts`.

    Args:
        rollouts: a `Rollouts`, which is made with this.
        tensors: those that are tensors, by name.
    """
    rows, columns = _two_dimensional(rollouts.completion_ids)
    names = len(rollouts.reward_names)
    shapes = {
        **dict.fromkeys(PADDING, (rows, columns)),
        **dict.fromkeys(PER_ROW, (rows,)),
        **dict.fromkeys(("rewards_per_func", "decided"), (rows, names)),
        **dict.fromkeys(("states", *OF_PREFIXES), (rows, columns + 1)),
        "offsets": (rows, columns, 2),
    }
    for name, shape in shapes.items():
        _expect(rollouts, name, shape)
    _expect_lengths(rollouts, rows)
    check_turns(rollouts.turns or (), columns)
    _expect_constants(rollouts, tensors)
    if rollouts.max_completion_length < 1 or (rollouts.window_count < 0).any():
        raise ValueError(
            f"max_completion_length is {rollouts.max_completion_length} and the smallest "
            f"window_count {int(rollouts.window_count.min())}; expected >= 1 and >= 0."
        )


def _two_dimensional(ids: Tensor) -> tuple[int, int]:
    if ids.dim() != 2:
        raise ValueError(f"completion_ids has shape {tuple(ids.shape)}, expected (B, T).")
    return ids.shape[0], ids.shape[1]


def _expect(rollouts: Any, name: str, shape: tuple[int, ...]) -> None:
    value = getattr(rollouts, name)
    if value is not None and tuple(value.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected {shape} to match completion_ids "
            f"{tuple(rollouts.completion_ids.shape)} and reward_names {rollouts.reward_names}."
        )


def _expect_lengths(rollouts: Any, rows: int) -> None:
    if len(rollouts.reward_weights) != len(rollouts.reward_names):
        raise ValueError(
            f"there are {len(rollouts.reward_weights)} reward_weights for the reward functions "
            f"{rollouts.reward_names}; expected one each."
        )
    for name in ROWWISE:
        if (value := getattr(rollouts, name)) is not None and len(value) != rows:
            raise ValueError(f"there are {len(value)} {name} for {rows} completions.")
    for name, tokens in (rollouts.spans or {}).items():
        if tuple(tokens.shape) != tuple(rollouts.mask.shape):
            raise ValueError(
                f"span {name!r} has shape {tuple(tokens.shape)}, expected "
                f"{tuple(rollouts.mask.shape)} like mask."
            )


def _expect_constants(rollouts: Any, tensors: dict[str, Tensor]) -> None:
    if rollouts.mask.dtype != torch.bool:
        raise ValueError(
            f"mask has dtype {rollouts.mask.dtype}, expected torch.bool; pass mask.bool()."
        )
    if tracked := [n for n, v in tensors.items() if v.requires_grad]:
        raise ValueError(f"{tracked[0]} carries a gradient, credit is a constant; detach it.")
    if not torch.isfinite(rollouts.advantages).all():
        row = int((~torch.isfinite(rollouts.advantages)).nonzero()[0])
        raise ValueError(
            f"advantages[{row}] is {rollouts.advantages[row].item()}, expected a finite number; "
            "a completion that no reward function scored has advantage 0."
        )
