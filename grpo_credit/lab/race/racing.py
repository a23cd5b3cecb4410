"""Races: learning curves of a rule, at rates that are tuned for it on seeds of their own."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.lab.race.chain import Chain
from grpo_credit.lab.race.rules import Rule
from grpo_credit.lab.race.runs import OPTIMIZERS, Runs

NARROW, FURTHER = 2.0, 4  # factor between rates, and how many are tried beyond the first
TUNING, FINER, TOLD, START, STREAMS = 0, 1, 2, 3, 10  # streams of seeds, and their number
TASKS_AT_START, DRAWS_AT_START = 24, 16
BEYOND, PATIENCE = 2.0, 1.25  # a told race ends so many standard errors above the target, or late
STILL = 1e-12  # |f| below it: no step along the gradient

Curves = Float[Tensor, "steps R seeds"]  # E[R] before each step, by rate


@dataclass(frozen=True)
class Race:
    """How to race.

    Args:
        chain: the task.
        optimizer: `"sgd"` or `"adamw"`.
        limit: steps after which a race is given up.
        seeds: runs that are told.
        tuning_seeds: runs per rate that is tried, on other tasks.
        seed: of everything that is drawn.

    Raises:
        ValueError: if a number is too small.
    """

    chain: Chain
    optimizer: str = "sgd"
    limit: int = 800
    seeds: int = 12
    tuning_seeds: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1 or self.seeds < 2 or self.tuning_seeds < 1:
            raise ValueError(
                f"there are {self.seeds} seeds, {self.tuning_seeds} to tune on, and {self.limit} "
                "steps at most; expected 2 seeds, for intervals, and 1 of the others."
            )

    def run(
        self, rule: Rule | None, rates: list[float], seeds: int, first: int,
        over: Callable[[list[Tensor]], bool], limit: int,
    ) -> Curves:  # fmt: skip
        """Learn by a rule, None being the exact gradient, until `over` says so of the heights."""
        runs = Runs(self.chain, rates, seeds, self.optimizer, STREAMS * self.seed + first)
        heights: list[Tensor] = []
        while True:
            pi = runs.policy()
            heights.append(runs.height(pi))
            if len(heights) > limit or over(heights):
                return torch.stack(heights)
            if rule is None:
                runs.step(runs.gradient(pi))
            else:
                draw = runs.draw(pi)
                runs.step(runs.update(draw, rule(draw)))

    def arrived(self, heights: list[Tensor]) -> bool:
        """Return whether runs at one of the rates have come to the target, on average."""
        return bool((heights[-1].mean(1) >= self.chain.target).any())


@dataclass(frozen=True)
class Tried:
    """What came of a rate: fewer steps are better, then more height on the way.

    Args:
        steps: to the target, or those that were waited.
        arrived: whether it came there.
        height: mean E[R] on the way.
        rate: the learning rate.
    """

    steps: int
    arrived: bool
    height: float
    rate: float

    @property
    def rank(self) -> tuple[bool, int, float]:
        """The better, the smaller."""
        return not self.arrived, self.steps if self.arrived else 0, -self.height


def tune(race: Race, rule: Rule | None, guess: float | None = None) -> float:
    """Return the rate at which a rule comes to the target first.

    Without a guess the optimizer's `rates` are tried; then, on other seeds, the best or the guess,
    its neighbours `NARROW` away, and up to `FURTHER` more as long as each is better.
    """
    if guess is None:
        guess = min(_try(race, rule, [*OPTIMIZERS[race.optimizer].rates], TUNING), key=_rank).rate
    tried = _try(race, rule, [guess / NARROW, guess, guess * NARROW], FINER)
    best = min(tried, key=_rank)
    for edge, factor in ((tried[0], 1 / NARROW), (tried[-1], NARROW)):
        for _ in range(FURTHER):
            if best.rate != edge.rate:
                break
            edge = _try(race, rule, [edge.rate * factor], FINER, best.steps)[0]
            best = min(best, edge, key=_rank)
    return best.rate


def _rank(tried: Tried) -> tuple[bool, int, float]:
    return tried.rank


def _try(
    race: Race, rule: Rule | None, rates: list[float], first: int, limit: int | None = None
) -> list[Tried]:
    limit = race.limit if limit is None else limit
    curve = race.run(rule, rates, race.tuning_seeds, first, race.arrived, limit)
    means = curve.mean(2).T
    ends = (means[:, -1] >= race.chain.target).tolist()
    paired = zip(rates, ends, means.mean(1).tolist(), strict=True)
    return [Tried(len(curve) - 1, end, height, rate) for rate, end, height in paired]


def tell(race: Race, rule: Rule | None, rate: float) -> Float[Tensor, "steps seeds"]:
    """Race at a rate on seeds that nothing was tuned on.

    It goes on behind the target, so that most resamples of the seeds come there, too.
    """
    target, arrivals = race.chain.target, []

    def over(heights: list[Tensor]) -> bool:
        now = heights[-1]
        if now.mean() >= target:
            arrivals.append(len(heights))
        error = now.std() / now.numel() ** 0.5
        surely = now.mean() - BEYOND * error >= target
        return bool(surely) or bool(arrivals and len(heights) >= PATIENCE * arrivals[0])

    return race.run(rule, [rate], race.seeds, TOLD, over, race.limit)[:, 0]


@dataclass(frozen=True)
class Start:
    """A rule's update before training, as in `exact.Measurement`, over tasks of a kind.

    Args:
        variance: tr Cov[u] / |f g|² of one step, prompts being drawn too; infinite for f = 0.
        factor: f, the expected update along the gradient g, in gradients.
    """

    variance: float
    factor: float


def at_start(chain: Chain, rule: Rule) -> Start:
    """Measure a rule before the first step."""
    runs = Runs(chain, [0.0], TASKS_AT_START, first=START)
    pi = runs.policy()
    gradient = runs.gradient(pi).flatten(1)
    draws = (runs.draw(pi) for _ in range(DRAWS_AT_START))
    updates = torch.stack([runs.update(draw, rule(draw)).flatten(1) for draw in draws])
    square = gradient.square().sum(1).mean()
    factor = float((updates * gradient).sum(2).mean() / square)
    scatter = updates.var(0).sum(1).mean() / square
    return Start(float(scatter) / factor**2 if abs(factor) > STILL else math.inf, factor)
