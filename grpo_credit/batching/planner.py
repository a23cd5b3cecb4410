"""The same gradient from fewer tokens: which rows of a window share a forward pass.

The credit of a window is computed before its first forward pass, with totals of the whole window,
so that the gradient is a plain sum over rows. Any way of cutting the rows into passes gives it, and
rows without credit may be left out. Everything here is planning on numbers, the same on every rank;
`grpo_credit.trainer.passes.engine` carries it out.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from grpo_credit.batching.rows import Rows, number_prompts

PASS_COST = {"cpu": 64}
PASS_FLOPS = 2.8e13


def pass_cost(device: str, parameters: int) -> int:
    """Return how many tokens one more pass must save to be worth it.

    A pass takes time however few rows it has: its kernels are launched, its gradients added up. On
    the CPU that is what 32 to 68 tokens take, for widths of 128 to 512: `PASS_COST`. An
    accelerator waits for its launches: on an H200 a pass of 0.5 billion parameters took as long
    with 5,500 tokens as with 9,200, which at 6 operations per parameter and token are
    `PASS_FLOPS`. A larger model does as much on fewer tokens. Packed rows fill their passes anyhow.

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


def token_pairs(model: Any, parameters: int) -> int:
    """Return how many pairs of tokens take an attention as long as a token takes all the rest.

        2 · parameters / (4 · layers · width)

    which are multiplications and additions of a token, and of a pair: the scores, and the values.
    """
    config = model.config.get_text_config()
    return max(1, parameters // (2 * config.num_hidden_layers * config.hidden_size))


@dataclass(frozen=True)
class Budget:
    """What one forward pass may hold, and what it costs.

    Args:
        tokens: of all its rows, padding included, at most; one row that has more is let through.
            A packed row has two thirds of it at most.
        pass_cost: of one more pass, in tokens; see `pass_cost`.
        pairs: of tokens that a packed row may have, seen or not, where each is computed; else 0.
        token_pairs: pairs of tokens that take as long as a token.
        prompt_columns: as wide as padded prompts are at least.
        multiple: lengths are rounded up to it, as TRL pads.
        few_sizes: whether packed rows are so long as a power of two, or three quarters of one, so
            that few shapes are compiled; then nothing is padded.
    """

    tokens: int
    pass_cost: int
    pairs: int = 0
    token_pairs: int = 1
    prompt_columns: int = 0
    multiple: int = 1
    few_sizes: bool = False

    @property
    def packed_tokens(self) -> int:
        """Tokens of a packed row, at most: keys and values of prompts are copied, run by run."""
        return self.tokens * 2 // 3

    @property
    def longest_packed(self) -> int:
        """The longest packed row, in tokens, of whose pairs there may be too many."""
        return min(self.packed_tokens, math.isqrt(self.pairs or self.tokens**2))

    def padded(self, widths: Any) -> Any:
        """Round widths of padded rows up; an empty half keeps a column, as TRL's code needs one."""
        return np.maximum(-(-widths // self.multiple), 1) * self.multiple


def packed_length(tokens: Any, multiple: int, *, few_sizes: bool) -> Any:
    """Round lengths of packed rows up, as TRL pads; or to powers of two, and three quarters."""
    if not few_sizes:
        return -(-tokens // multiple) * multiple
    power = 2 ** np.ceil(np.log2(tokens)).astype(int)
    return np.where(tokens <= power * 3 // 4, power * 3 // 4, power)


class Lengths(NamedTuple):
    """Tokens of each row, padding apart, and the number of its prompt; each of shape (N,).

    Dealt to ranks they are (n, ranks): row k of every rank.
    """

    prompt: np.ndarray
    completion: np.ndarray
    prompt_of: np.ndarray

    @classmethod
    def of(cls, rows: Rows) -> "Lengths":
        """Measure rows; a completion that is masked as a whole keeps a token, as TRL needs one."""
        tokens = (rows[name].sum(dim=1).clamp(min=1) for name in ("prompt_mask", "completion_mask"))
        numbers = number_prompts(rows["prompt_ids"], rows["prompt_mask"])
        return cls(*(value.cpu().numpy() for value in (*tokens, numbers)))

    @property
    def packed(self) -> int:
        """Tokens of all rows in one packed row."""
        first = np.unique(self.prompt_of, return_index=True)[1]
        return int(self.completion.sum() + (self.prompt[first] - 1).sum())

    def take(self, index: Any) -> "Lengths":
        """Pick rows."""
        return Lengths(*(value[index] for value in self))

    def longest_first(self, ranks: int) -> np.ndarray:
        """Deal rows (n, ranks) in turn, longest first, so that ranks have rows of like length."""
        return np.argsort(-(self.prompt + self.completion), kind="stable").reshape(-1, ranks)

    def by_prompt(self, ranks: int) -> np.ndarray:
        """Deal rows (n, ranks) by prompt: whole ones, but where ranks would have unlike numbers.

        Prompts with the most tokens go to the ranks in turn, back and forth; the longest completion
        of a prompt comes first.
        """
        numbers, of_row = np.unique(self.prompt_of, return_inverse=True)
        most = np.argsort(-np.bincount(of_row, self.completion + self.prompt), kind="stable")
        lap, place = np.divmod(np.arange(len(numbers)), ranks)
        rank = np.where(lap % 2, ranks - 1 - place, place)
        turn = np.empty_like(most)
        turn[most] = rank * len(numbers) + lap
        return np.lexsort((-self.completion, turn[of_row])).reshape(ranks, -1).T


# ---- tokens of a pass ---------------------------------------------------------------------------


def padded_tokens(rows: Lengths, budget: Budget) -> np.ndarray:
    """Count the tokens of the last k of some rows, each padded to the longest of them, k = 1, 2 ...

    Prompts and completions are padded apart: k · (longest prompt + longest completion).
    """
    halves = np.maximum(rows.prompt, budget.prompt_columns), rows.completion
    prompt, completion = (np.maximum.accumulate(budget.padded(half)[::-1]) for half in halves)
    return np.arange(1, len(prompt) + 1)[:, None] * (prompt + completion)


def packed_tokens(rows: Lengths, budget: Budget) -> np.ndarray:
    """Count the tokens of the last k of some rows in one packed row, k = 1, 2 ...

    Each prompt counts once, less its last token, which stands before each completion.
    """
    last = np.ones_like(rows.prompt_of)
    last[:-1] = rows.prompt_of[1:] != rows.prompt_of[:-1]
    tokens = np.cumsum((rows.completion + last * (rows.prompt - 1))[::-1], axis=0)
    return packed_length(tokens, budget.multiple, few_sizes=budget.few_sizes)


def cut(rows: Lengths, budget: Budget, *, packed: bool) -> list[slice]:
    """Cut rows, dealt to ranks, into consecutive passes at the least cost.

        cost of a pass = tokens + tokens² / token_pairs + pass_cost

    of the rank that has most, with the second term in packed rows only, and only where an attention
    computes every pair.

    Args:
        rows: their lengths, (n, ranks).
        budget: what a pass may hold.
        packed: whether a pass is one packed row, or rows padded to the longest.

    Returns:
        The best cut; exact, by dynamic programming over the last cut: O(rows · rows of a pass).

    Example:
        >>> rows = Lengths(*np.array([[[2, 2, 2, 2]], [[8, 8, 1, 1]], [[0, 0, 0, 1]]]).mT)
        >>> cut(rows, Budget(tokens=40, pass_cost=1), packed=False)
        [slice(0, 2, None), slice(2, 4, None)]
        >>> cut(rows, Budget(tokens=40, pass_cost=1), packed=True)
        [slice(0, 4, None)]
    """
    reach = budget.tokens // int(rows.completion.min()) + 1
    least, begins = np.zeros(len(rows.prompt) + 1), np.zeros(len(rows.prompt) + 1, dtype=int)
    for end in range(1, len(least)):
        last = slice(max(0, end - reach), end)  # below, index k is of the pass of k + 1 rows
        cost = least[last][::-1] + _costs(rows.take(last), budget, packed=packed)
        best = int(np.argmin(cost))
        least[end], begins[end] = cost[best], end - best - 1
    passes, end = [], len(begins) - 1
    while end > 0:
        passes.append(slice(int(begins[end]), end))
        end = int(begins[end])
    return passes[::-1]


def _costs(rows: Lengths, budget: Budget, *, packed: bool) -> np.ndarray:
    """Return the cost of the last k rows as a pass, k = 1, 2 ...; infinite if they do not fit."""
    tokens = (packed_tokens if packed else padded_tokens)(rows, budget).max(axis=1)
    fits = tokens <= (budget.packed_tokens if packed else budget.tokens)
    cost = tokens + budget.pass_cost
    if packed and budget.pairs:
        fits, cost = fits & (tokens**2 <= budget.pairs), cost + tokens**2 / budget.token_pairs
    return np.where(fits | (np.arange(len(fits)) == 0), cost, np.inf)


# ---- passes of all ranks ------------------------------------------------------------------------


class Passes(NamedTuple):
    """What every pass runs, of each rank.

    Args:
        cost: of all, in tokens.
        packed: whether the rows of a pass are one packed row.
        rows: for each pass the numbers of its rows, (n, ranks); TRL needs as many of every rank.
    """

    cost: float
    packed: bool
    rows: list[np.ndarray]


def plan(
    lengths: Lengths,
    run: np.ndarray,
    budget: Budget,
    *,
    packs: bool,
    ranks: int = 1,
    passes: int | None = None,
) -> Passes:
    """Deal the rows of a window to passes and ranks, packed if that costs less.

    Every rank has as many rows in as many passes, so that their collectives stay in step. Where
    rows with credit do not divide, the shortest of the others fill up; where no row has credit, one
    per rank is run all the same, because the gradient is zero then, and not missing.

    Args:
        lengths: of all rows of all ranks.
        run: which rows must be run, (N,) bool; N is a multiple of `ranks`.
        budget: of one rank's pass.
        packs: whether rows may be packed.
        ranks: number of processes.
        passes: this many exactly, of nearly as many rows each if the best cut has more.
    """
    rows = np.flatnonzero(run | _filled_up(lengths, run, ranks * (passes or 1), ranks))
    own = lengths.take(rows)
    plans = []
    if packs:
        plans.append(_passes(own, own.by_prompt(ranks), budget, passes, packed=True))
    if not (packs and budget.few_sizes):
        plans.append(_passes(own, own.longest_first(ranks), budget, passes, packed=False))
    best = min(reversed(plans), key=lambda plan: plan.cost)
    return best._replace(rows=[rows[part] for part in best.rows])


def _passes(
    own: Lengths, dealt: np.ndarray, budget: Budget, passes: int | None, *, packed: bool
) -> Passes:
    parts = [dealt[part] for part in cut(own.take(dealt), budget, packed=packed)]
    if passes is not None and len(parts) > passes:
        parts = np.array_split(dealt, passes)
    while passes is not None and len(parts) < passes:  # halves fit where the whole does
        most = max(range(len(parts)), key=lambda part: len(parts[part]))
        parts[most : most + 1] = np.array_split(parts[most], 2)
    costs = [_costs(own.take(part), budget, packed=packed)[-1] for part in parts]
    return Passes(float(sum(costs)), packed, parts)


def _filled_up(lengths: Lengths, run: np.ndarray, least: int, ranks: int) -> np.ndarray:
    """Choose the shortest rows without credit that make as many for every rank, `least` in all."""
    count = int(run.sum())
    wanted = max(-(-count // ranks) * ranks, least) - count
    order = lengths.longest_first(1).ravel()
    dead = order[~run[order]]
    filled = np.zeros_like(run)
    filled[dead[len(dead) - wanted :]] = True
    return filled


def spread(passes: list[Any], microsteps: int) -> list[list[Any]]:
    """Spread passes over the microsteps of the accumulation loop; the last one has one at least."""
    ends = [microstep * len(passes) // microsteps for microstep in range(microsteps + 1)]
    return [passes[begin:end] for begin, end in pairwise(ends)]
