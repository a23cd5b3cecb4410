"""How well a credit rule finds the tokens that really decide, on tasks where they are known.

The policy of a task is known state by state, so the truth about a token is its true advantage
Q(s, a) - V(s): by how much writing it changed the expected reward. A rule sees what it would see in
training; its |credit| is held against the tokens that decide, its sign against theirs.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.annotations import NEEDS, TOLD_BY, Annotations, tells
from grpo_credit.lab.enumerable import character_tokenizer
from grpo_credit.lab.process import Solved, Task, Walk, solve, walk
from grpo_credit.rollouts import Rollouts, group_advantages
from grpo_credit.strategy import Strategy

CPU = torch.device("cpu")
DECISIVE = 0.01  # of a reward of 1: what moves the expected reward by less decides nothing
ROWS = 256  # completions whose tokens are compared at once, pair by pair
SAME = 1e-9  # of a completion's largest |credit|: less is no difference but rounding


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn.

    Args:
        batches: independent batches, each with its own prompts; at least 2.
        groups: prompts per batch.
        num_generations: completions per prompt; at least 2.
        seed: of prompts and completions; the same seed gives every rule the same ones.

    Raises:
        ValueError: if a number is too small.
    """

    batches: int = 10
    groups: int = 16
    num_generations: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batches < 2 or self.groups < 1 or self.num_generations < 2:
            raise ValueError(
                f"there are {self.batches} batches of {self.groups} groups of "
                f"{self.num_generations}; expected at least 2 batches, for standard errors, 1 "
                "group, and 2 completions in it, to compare."
            )


@dataclass(frozen=True)
class Batch:
    """Completions of a task, and the truth about each token.

    Args:
        rollouts: what a rule may see, whole groups.
        advantage: Q(s, a) - V(s) of each token, in units of reward; 0 after the completion.
    """

    rollouts: Rollouts
    advantage: Float[Tensor, "B T"]

    @cached_property
    def decisive(self) -> Bool[Tensor, "B T"]:
        """The tokens that move the expected reward by more than `DECISIVE`."""
        return self.advantage.abs() > DECISIVE

    @cached_property
    def sign(self) -> Float[Tensor, "B T"]:
        """1 where a deciding token helped, -1 where it hurt, 0 elsewhere."""
        return self.advantage.sign() * self.decisive


class Scores(NamedTuple):
    """How a credit matrix fits the truth.

    Tokens are compared with those of the same completion only. How completions weigh against each
    other is the aggregation's and the advantage's business, so `even` under any aggregation has
    AUROC 0.5: it does not say which token it was.

    Args:
        auroc: the chance that of two tokens of a completion, one deciding and one not, the deciding
            one has more |credit|; equal ones count half. Over all such pairs of the batch.
        precision: of the tokens that a rule picks, the share that decide. It picks in each
            completion the k with the most |credit|, k being how many decide there; those that tie
            with the last one get in too, those without credit never. So precision and recall differ
            where a rule does not tell tokens apart, or credits fewer than decide. 0 if it picks
            nothing.
        recall: of the tokens that decide, the share that it picks.
        sign: of the tokens that decide, the share whose credit has the true sign; one without
            credit counts half. NaN where none decides, as is `auroc` then.
        correlation: Pearson's, of credit and true advantage over all tokens of the batch; this one
            depends on the aggregation, too. 0 where one of them is constant.
    """

    auroc: float
    precision: float
    recall: float
    sign: float
    correlation: float


class Estimate(NamedTuple):
    """A mean over the independent batches that have the score, and its standard error.

    NaN where no batch has one, and the error where a single one has.
    """

    mean: float
    error: float


Rule = Callable[[Batch], Tensor]


def truth(batch: Batch) -> Float[Tensor, "B T"]:
    """Credit each token with its true advantage: what a rule could give at best."""
    return batch.advantage


def by_chance(seed: int) -> Rule:
    """Make a rule that credits every token by chance: what a rule gives that knows nothing."""
    generator = torch.Generator().manual_seed(seed)

    def credit(batch: Batch) -> Float[Tensor, "B T"]:
        mask = batch.rollouts.mask
        return torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask

    return credit


def measure(
    task: Task,
    strategies: Mapping[str, Strategy],
    sampling: Sampling,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, dict[str, Estimate]]:
    """Score strategies, and the references `truth` and `random`, on the same batches.

    Args:
        task: what is written and earned.
        strategies: by the name to show; none that the task cannot feed (`missing`).
        sampling: how many batches of what size.
        progress: wraps the iteration over batches, such as `tqdm`.

    Returns:
        Rule -> score -> estimate, the references first.
    """
    rules = {"truth": truth, "random": by_chance(sampling.seed)}
    rules |= {name: _rule(strategy) for name, strategy in strategies.items()}
    found: dict[str, list[Scores]] = {name: [] for name in rules}
    for number in progress(range(sampling.batches)):
        batch = draw(task, sampling, number)
        for name, rule in rules.items():
            found[name].append(score(rule(batch), batch))
    return {name: _estimates(scores) for name, scores in found.items()}


def missing(task: Task, strategy: Strategy) -> list[str]:
    """List what a strategy needs and the task cannot tell."""
    untold = {need for need in TOLD_BY if not tells(task.reward, need)} | {"privileged_logps"}
    return sorted(strategy.needs & untold)


def _rule(strategy: Strategy) -> Rule:
    return lambda batch: strategy.credit(batch.rollouts)


def _estimates(scores: Sequence[Scores]) -> dict[str, Estimate]:
    columns = torch.tensor(scores, dtype=torch.float64).unbind(1)
    return dict(zip(Scores._fields, map(_estimate, columns), strict=True))


def _estimate(values: Float[Tensor, " n"]) -> Estimate:
    known = values[~values.isnan()]
    error = known.std() / len(known) ** 0.5 if len(known) > 1 else torch.nan
    return Estimate(float(known.mean()), float(error))


# ---- drawing ----------------------------------------------------------------------------------


def draw(task: Task, sampling: Sampling, number: int = 0) -> Batch:
    """Draw a batch: prompts, completions by the task's policy, and what each token was worth."""
    rng = random.Random(f"{task.name} {sampling.seed} {number}")
    starts = [task.start(rng) for _ in range(sampling.groups)]
    solved = solve(task, starts)
    rows = solved.starts.repeat_interleave(sampling.num_generations)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    written = walk(solved, rows, task.length, generator)
    prompts = [task.prompt(start) for start in starts for _ in range(sampling.num_generations)]
    advantage = solved.advantages[written.states, written.tokens]
    return Batch(
        _rollouts(task, solved, written, prompts, sampling.num_generations),
        torch.where(written.mask, advantage, 0.0),
    )


def _rollouts(
    task: Task, solved: Solved, written: Walk, prompts: Sequence[str], size: int
) -> Rollouts:
    """Build what a trainer would: the reward is called, and tells what it does, by the texts."""
    tokens, states, mask = written.tokens, written.states, written.mask
    end = len(task.alphabet)
    ids = torch.where(mask, tokens, end)
    texts = ["".join(task.alphabet[i] for i in row if i < end) for row in ids.tolist()]
    rewards = torch.tensor(task.reward(completions=texts, prompts=prompts), dtype=torch.float64)
    rows = [row[:n] for row, n in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
    told = Annotations(
        [(task.name, task.reward)], [1.0], texts, rows, task.length,
        character_tokenizer(task.alphabet), {"prompts": prompts},
    ).find(NEEDS, CPU)  # fmt: skip
    group = torch.arange(len(rows)) // size
    probs = solved.probs
    entropies, squares = torch.special.entr(probs).sum(1), probs.square().sum(1)
    return Rollouts(
        completion_ids=ids,
        mask=mask,
        advantages=group_advantages(rewards, group, "none"),
        rewards=rewards,
        rewards_per_func=rewards[:, None],
        reward_names=(task.name,),
        group=group,
        truncated=~(ids == end).any(1),
        max_completion_length=task.length,
        scale_rewards="none",
        old_logps=torch.where(mask, probs[states, tokens].log(), 0.0),
        entropies=torch.where(mask, entropies[states], 0.0),
        sum_sq_probs=torch.where(mask, squares[states], 1.0),
        **told,
    )


# ---- scoring ----------------------------------------------------------------------------------


def score(credit: Float[Tensor, "B T"], batch: Batch) -> Scores:
    """Hold a credit matrix against the truth."""
    mask, decisive = batch.rollouts.mask, batch.decisive
    size = _size(credit, mask)
    picked = pick(size, mask, decisive.sum(1))
    hits = float((picked & decisive).sum())
    agrees = torch.where(size == 0, 0.5, (credit.sign() == batch.sign).double())
    return Scores(
        auroc=auroc(size, decisive, mask & ~decisive),
        precision=hits / max(1, int(picked.sum())),
        recall=hits / max(1, int(decisive.sum())),
        sign=float(agrees[decisive].mean()),
        correlation=_correlation(credit[mask], batch.advantage[mask]),
    )


def _size(credit: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return |credit| over the completion's largest, rounded so that equal is equal."""
    size = torch.where(mask, credit.abs().double(), 0.0)
    largest = size.amax(dim=1, keepdim=True)
    return (size / torch.where(largest > 0, largest, 1.0) / SAME).round()


def auroc(
    size: Float[Tensor, "B T"], positive: Bool[Tensor, "B T"], negative: Bool[Tensor, "B T"]
) -> float:
    """Return the share of pairs of a row in which the positive token has the larger size.

        AUROC = Σ_i Σ_{p, n} ([x_p > x_n] + ½ [x_p = x_n]) / Σ_i |positive_i| · |negative_i|

    NaN where no row has both.
    """
    wins, ties, pairs = 0, 0, 0
    for x, yes, no in zip(*(v.split(ROWS) for v in (size, positive, negative)), strict=True):
        compared = yes[:, :, None] & no[:, None, :]
        wins += int(((x[:, :, None] > x[:, None, :]) & compared).sum())
        ties += int(((x[:, :, None] == x[:, None, :]) & compared).sum())
        pairs += int(compared.sum())
    return (wins + ties / 2) / pairs if pairs else float("nan")


def pick(
    size: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], count: Int[Tensor, " B"]
) -> Bool[Tensor, "B T"]:
    """Pick in each row the `count` largest, all that tie with the last of them, none of size 0."""
    ordered = torch.where(mask, size, 0.0).sort(dim=1, descending=True).values
    last = ordered.gather(1, (count - 1).clamp(min=0)[:, None])
    return mask & (size >= last) & (size > 0) & (count > 0)[:, None]


def _correlation(one: Float[Tensor, " n"], two: Float[Tensor, " n"]) -> float:
    one, two = one.double() - one.double().mean(), two - two.mean()
    norms = one.norm() * two.norm()
    return float(one @ two / norms) if norms > 0 else 0.0
