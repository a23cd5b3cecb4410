"""The same gradient from fewer padded tokens: which rows of a window share a forward pass.

The credit of a window is computed before its first forward pass, with totals of the whole window,
so that the gradient is a plain sum over rows. Any way of cutting the rows into passes gives it, and
rows without credit may be left out. Sorted by length, cut where padding is least, and trimmed to
the longest row of their pass, they fill fewer padded tokens.

Everything here is planning on numbers, the same on every rank; `grpo_credit.trainer.passes` carries
it out.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

PASS_COST = {"cpu": 64}
PASS_FLOPS = 2.8e13


def pass_cost(device: str, parameters: int) -> int:
    """Return how many padded tokens one more pass must save to be worth it.

    A pass takes time however few rows it has: its kernels are launched, its gradients added up. On
    the CPU that is what 32 to 68 tokens take, for widths of 128 to 512: `PASS_COST`. An
    accelerator waits for its launches: on an H200 a pass of 0.5 billion parameters took as long
    with 5,500 tokens as with 9,200, which at 6 operations per parameter and token are
    `PASS_FLOPS`. A larger model does as much on fewer tokens.

    Args:
        device: its type, such as "cuda".
        parameters: of the model.

    Example:
        >>> pass_cost("cpu", 500_000), pass_cost("cuda", 7_000_000_000)
        (64, 667)
    """
    if device in PASS_COST:
        return PASS_COST[device]
    return round(PASS_FLOPS / (6 * max(1, parameters)))


def count_parameters(model: nn.Module) -> int:
    """Count the numbers of a model: also of what DeepSpeed holds in parts or bitsandbytes packed.

    A model that FSDP has sharded counts as what this rank holds of it: count before.
    """
    return sum(_numbers(parameter) for parameter in model.parameters())


def _numbers(parameter: Any) -> int:
    packed = getattr(parameter, "quant_state", None)  # of 4 bits, once it is on its device
    whole = parameter.numel() if packed is None else math.prod(packed.shape)
    return getattr(parameter, "ds_numel", whole)


@dataclass(frozen=True)
class Budget:
    """What one forward pass may hold, and what it costs.

    Args:
        tokens: rows x padded width, at most; a row that is wider by itself is let through.
        completion_tokens: rows x padded width of the completions, at most, likewise.
        pass_cost: of one more pass, in padded tokens; see `pass_cost`.
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
    """Tokens of each row, padding apart, and which prompt it has; each of shape (N,).

    Where no prompts are shared, every row has a number of its own in `prompt_of`.
    """

    prompt: np.ndarray
    completion: np.ndarray
    prompt_of: np.ndarray

    @classmethod
    def of(cls, prompt_mask: Tensor, completion_mask: Tensor) -> "Lengths":
        """Measure rows padded on the left (prompts) and on the right (completions)."""
        prompt, completion = _last(prompt_mask.flip(1)), _last(completion_mask)
        return cls(prompt, completion, np.arange(len(prompt)))

    def take(self, index: Any) -> "Lengths":
        """Pick rows."""
        return Lengths(*(value[index] for value in self))

    def longest_first(self) -> np.ndarray:
        """Order rows by all their tokens, longest first; equal ones stay in order."""
        return np.argsort(-(self.prompt + self.completion), kind="stable")

    def by_prompt(self) -> np.ndarray:
        """Order rows by prompt, that of the longest row first, and longest first within each."""
        tokens = self.prompt + self.completion
        numbers, of_row = np.unique(self.prompt_of, return_inverse=True)
        longest = np.zeros(len(numbers), dtype=int)
        np.maximum.at(longest, of_row, tokens)
        return np.lexsort((-tokens, of_row, -longest[of_row]))


def _last(mask: Tensor) -> np.ndarray:
    """Return the place after the last set column; 0 where there is none."""
    places = torch.arange(1, mask.size(1) + 1, device=mask.device)
    return ((mask != 0) * places).amax(dim=1).cpu().numpy()


def places(lengths: Lengths, dealt: np.ndarray) -> np.ndarray:
    """Measure the widest row of all ranks at each place of an order.

    Args:
        lengths: of the rows.
        dealt: row numbers, (n, ranks).

    Returns:
        (3, n): tokens of the prompt; of the completion; 1 where the prompt is not that of the place
        before, 0 where it is.
    """
    own = lengths.take(dealt)
    fresh = np.ones(dealt.shape, dtype=int)
    fresh[1:] = own.prompt_of[1:] != own.prompt_of[:-1]
    return np.stack([own.prompt, own.completion, fresh]).max(axis=2)


class Cut(NamedTuple):
    """Consecutive passes, and what they cost, in padded tokens."""

    cost: float
    passes: list[slice]


def cut(places: np.ndarray, budget: Budget) -> Cut:
    """Cut rows, in the order given, into consecutive passes at the least cost.

        cost of a pass = min(rows · (P + T), prompts · P + rows · T + pass_cost) + pass_cost

    with its longest prompt P and completion T; the second form is that of shared prompts, which
    take a pass of their own within the pass.

    Args:
        places: (3, n) prompt and completion lengths, and where a prompt is new: see `places`.
        budget: what a pass may hold.

    Returns:
        The best cut; exact, by dynamic programming over the last cut: O(rows · rows of a pass).

    Example:
        >>> rows = np.array([[2, 2, 2, 2], [8, 8, 1, 1], [1, 1, 1, 1]])
        >>> cut(rows, Budget(tokens=40, completion_tokens=40, pass_cost=1))
        Cut(cost=28.0, passes=[slice(0, 2, None), slice(2, 4, None)])
    """
    prompt, completion, fresh = budget.rounded(places[0]), budget.rounded(places[1]), places[2]
    reach = max(1, budget.tokens // int((prompt + completion).min()))
    least, begins = np.zeros(len(prompt) + 1), np.zeros(len(prompt) + 1, dtype=int)
    for end in range(1, len(least)):
        last = slice(max(0, end - reach), end)  # below, index k is of the pass of k + 1 rows
        rows = np.arange(1, last.stop - last.start + 1)
        before = np.maximum.accumulate(prompt[last][::-1])
        after = np.maximum.accumulate(completion[last][::-1])
        changes = fresh[last][::-1]
        prompts = 1 + np.cumsum(changes) - changes
        plain, shared = rows * (before + after), prompts * before + rows * after + budget.pass_cost
        cost = least[last][::-1] + np.minimum(plain, shared) + budget.pass_cost
        fits = (plain <= budget.tokens) & (rows * after <= budget.completion_tokens)
        best = int(np.argmin(np.where(fits | (rows == 1), cost, np.inf)))
        least[end], begins[end] = cost[best], end - best - 1
    return Cut(float(least[-1]), _slices(begins))


def _slices(begins: np.ndarray) -> list[slice]:
    found, end = [], len(begins) - 1
    while end > 0:
        found.append(slice(int(begins[end]), end))
        end = int(begins[end])
    return found[::-1]


def deal(
    lengths: Lengths,
    live: np.ndarray,
    ranks: int,
    budget: Budget,
    passes: int | None = None,
    rows: int = 1,
) -> list[np.ndarray]:
    """Deal the live rows of a window to ranks and passes.

    Sorted by length, every rank takes each `ranks`-th row: all have as many rows, nearly equally
    long, in as many passes, so that their collectives stay in step. Where rows do not divide, the
    shortest rows without credit fill up; where no row is live, one per rank is run all the same,
    because the gradient is zero then, and not missing. Sorted by prompt, ranks take whole prompts;
    that is chosen where sharing them costs less.

    Args:
        lengths: of all rows of all ranks.
        live: which rows must be run, (N,) bool; N is a multiple of `ranks`.
        ranks: number of processes.
        budget: of one rank's pass.
        passes: this many exactly, of nearly as many rows each, instead of the least cost.
        rows: of a pass and rank, at least, if the number of passes is given.

    Returns:
        For each pass the row numbers, (rows, ranks).
    """
    run = np.flatnonzero(live | _filled_up(lengths, live, rows * (passes or 1), ranks))
    longest_first = run[lengths.take(run).longest_first()].reshape(-1, ranks)
    if passes is not None:
        return np.array_split(longest_first, passes)
    deals = [longest_first, *_whole_prompts(lengths.take(run), run, ranks)]
    cuts = [cut(places(lengths, dealt), budget) for dealt in deals]
    best, dealt = min(zip(cuts, deals, strict=True), key=lambda pair: pair[0].cost)
    return [dealt[part] for part in best.passes]


def _filled_up(lengths: Lengths, live: np.ndarray, least: int, ranks: int) -> np.ndarray:
    """Choose the shortest rows without credit that every rank needs to have as many rows."""
    count = int(live.sum())
    wanted = max(-(-count // ranks), least) * ranks - count
    order = lengths.longest_first()
    dead = order[~live[order]]
    filled = np.zeros_like(live)
    filled[dead[len(dead) - wanted :]] = True
    return filled


def _whole_prompts(rows: Lengths, numbers: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Deal whole prompts to ranks, if each gets as many and all have as many rows."""
    _, sizes = np.unique(rows.prompt_of, return_counts=True)
    if sizes.max() == 1 or (ranks > 1 and (len(set(sizes)) > 1 or len(sizes) % ranks)):
        return []
    order = numbers[rows.by_prompt()]
    size = int(sizes[0]) if ranks > 1 else 1
    return [order.reshape(-1, ranks, size).transpose(0, 2, 1).reshape(-1, ranks)]


def spread(passes: list[Any], microsteps: int) -> list[list[Any]]:
    """Spread passes over the microsteps of the accumulation loop; the last one has one at least."""
    ends = [microstep * len(passes) // microsteps for microstep in range(microsteps + 1)]
    return [passes[begin:end] for begin, end in pairwise(ends)]
