"""The same gradient from fewer padded tokens: which rows of a window share a forward pass.

The credit of a window is computed before its first forward pass, with totals of the whole window,
so that the gradient is a plain sum over rows. Any way of cutting the rows into passes gives it, and
rows without credit may be left out. Sorted by length, cut where padding is least, and trimmed to
the longest row of their pass, they fill fewer padded tokens.

Everything here is planning on numbers, the same on every rank; `grpo_credit.passes` carries it out.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PASS_COST = {"cpu": 64, "accelerator": 2048}
"""Padded tokens that one more pass must save to be worth it: launching its kernels and adding up
its gradients take time however few rows it has."""

RELATIVE_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies do not depend on the width
RELATIVE_LAYERS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Budget:
    """What one forward pass may hold, and what it costs.

    Args:
        tokens: rows x padded width, at most; a row that is wider by itself is let through.
        completion_tokens: rows x padded width of the completions, at most, likewise.
        pass_cost: of one more pass, in padded tokens.
        multiple: widths are rounded up to it, as TRL pads.
    """

    tokens: int
    completion_tokens: int
    pass_cost: int
    multiple: int = 1

    def rounded(self, lengths: Any) -> Any:
        """Round widths up to `multiple`; an empty half keeps a column, as TRL's code needs one."""
        return np.maximum(-(-lengths // self.multiple), 1) * self.multiple


class Lengths(NamedTuple):
    """Tokens of each row, padding apart; each of shape (N,)."""

    prompt: np.ndarray
    completion: np.ndarray

    @classmethod
    def of(cls, prompt_mask: Tensor, completion_mask: Tensor) -> "Lengths":
        """Measure rows padded on the left (prompts) and on the right (completions)."""
        prompt, completion = prompt_mask.flip(1) != 0, completion_mask != 0
        return cls(_last(prompt), _last(completion))

    def take(self, index: Any) -> "Lengths":
        """Pick rows."""
        return Lengths(self.prompt[index], self.completion[index])

    def longest_first(self) -> np.ndarray:
        """Order rows by all their tokens, longest first; equal ones stay in order."""
        return np.argsort(-(self.prompt + self.completion), kind="stable")


def _last(mask: Tensor) -> np.ndarray:
    """Give the place after the last set column; 0 where there is none."""
    places = torch.arange(1, mask.size(1) + 1, device=mask.device)
    return (mask * places).amax(dim=1).cpu().numpy()


def cut(lengths: Lengths, budget: Budget) -> list[slice]:
    """Cut rows, in the order given, into consecutive passes at the least cost.

        cost = Σ over passes of  rows · (longest prompt + longest completion) + pass_cost

    Args:
        lengths: of the rows; sorted, or nothing is gained.
        budget: what a pass may hold.

    Returns:
        One slice per pass. Exact, by dynamic programming over the last cut: O(rows · rows a pass).

    Example:
        >>> rows = Lengths(np.array([2, 2, 2, 2]), np.array([8, 8, 1, 1]))
        >>> cut(rows, Budget(tokens=40, completion_tokens=40, pass_cost=1))
        [slice(0, 2, None), slice(2, 4, None)]
    """
    prompt, completion = budget.rounded(lengths.prompt), budget.rounded(lengths.completion)
    rows = len(prompt)
    reach = max(1, budget.tokens // int((prompt + completion).min())) if rows else 0
    least, begins = np.zeros(rows + 1), np.zeros(rows + 1, dtype=int)
    for end in range(1, rows + 1):
        begin = max(0, end - reach)
        widest = np.maximum.accumulate(completion[begin:end][::-1])
        width = np.maximum.accumulate(prompt[begin:end][::-1]) + widest
        count = np.arange(1, len(width) + 1)
        fits = (count * width <= budget.tokens) & (count * widest <= budget.completion_tokens)
        fits[0] = True
        cost = least[begin:end][::-1] + count * width + budget.pass_cost
        best = int(np.argmin(np.where(fits, cost, np.inf)))
        least[end], begins[end] = cost[best], end - best - 1
    return _slices(begins)


def _slices(begins: np.ndarray) -> list[slice]:
    found, end = [], len(begins) - 1
    while end > 0:
        found.append(slice(int(begins[end]), end))
        end = int(begins[end])
    return found[::-1]


def plan(
    lengths: Lengths, live: np.ndarray, ranks: int, budget: Budget, passes: int | None = None
) -> list[np.ndarray]:
    """Deal the live rows of a window to ranks and passes.

    Sorted by length, every rank takes each `ranks`-th row: all have as many rows, nearly equally
    long, in as many passes, so that their collectives stay in step. Where rows do not divide, the
    shortest rows without credit fill up; where no row is live, one per rank is run all the same,
    because the gradient is zero then, and not missing.

    Args:
        lengths: of all rows of all ranks.
        live: which rows must be run, (N,) bool; N is a multiple of `ranks`.
        ranks: number of processes.
        budget: of one rank's pass.
        passes: this many exactly, of nearly as many rows each, instead of the least cost.

    Returns:
        For each pass the row numbers, (rows, ranks).
    """
    order = lengths.longest_first()
    least = max(1, passes or 1)
    count = max(-(-int(live.sum()) // ranks), least) * ranks
    dead = order[~live[order]]
    run = live.copy()
    run[dead[len(dead) - (count - int(live.sum())) :]] = True
    dealt = order[run[order]].reshape(-1, ranks)
    if passes is not None:
        return np.array_split(dealt, passes)
    widest = Lengths(lengths.prompt[dealt].max(axis=1), lengths.completion[dealt].max(axis=1))
    return [dealt[part] for part in cut(widest, budget)]


def spread(passes: list[Any], turns: int) -> list[list[Any]]:
    """Spread passes over the turns of the accumulation loop; the last turn has one at least."""
    ends = [turn * len(passes) // turns for turn in range(turns + 1)]
    return [passes[begin:end] for begin, end in pairwise(ends)]


def positions_are_relative(config: Any) -> bool:
    """Say whether padding on the left of a prompt leaves the log-probabilities as they are.

    So it is with rotary positions whose frequencies do not depend on the width, and attention that
    sees all or the last tokens. Of other models nothing is assumed.

    Args:
        config: of the model, as transformers has it.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = list(rope.values()) if all(isinstance(v, dict) for v in rope.values()) else [rope]
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        bool(rope)
        and all(one.get("rope_type", "default") in RELATIVE_ROPE for one in by_layer)
        and all(layer in RELATIVE_LAYERS for layer in layers)
    )
