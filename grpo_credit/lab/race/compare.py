"""Strategies, true advantages and the exact gradient against each other in one race."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.headroom import CURVATURE, captured, predicted_gain
from grpo_credit.credit.parse import resolve_text
from grpo_credit.credit.strategy import Strategy
from grpo_credit.experiments.report.intervals import percentiles
from grpo_credit.lab.race.racing import Race, Start, at_start, tell, tune
from grpo_credit.lab.race.rules import Rule, missing, through, truth
from grpo_credit.lab.race.runs import OPTIMIZERS
from grpo_credit.lab.sampling import Progress

SEQ, TRUTH, EXACT = "seq", "truth", "exact gradient"
RESAMPLES = 1000
SLOW, PATIENT = 1.5, 100  # steps that are waited for: times those of `seq`, and at least
LEAST = 0.1  # of the steps of `seq`: what true advantages must save, for shares of it to mean much


@dataclass(frozen=True)
class Told:
    """How a rule did.

    Args:
        race: in which.
        rate: the learning rate that was chosen.
        start: its update before training; None for the exact gradient.
        curve: E[R] before each step, on the seeds that are told.
    """

    race: Race
    rate: float
    start: Start | None
    curve: Float[Tensor, "steps seeds"]

    @property
    def arrived(self) -> bool:
        """Whether the mean over the seeds came to the target."""
        return bool((self.curve.mean(1) >= self.race.chain.target).any())

    @property
    def steps(self) -> int:
        """Steps until the mean over the seeds is at the target; the limit if it never is."""
        return int(self._steps(np.arange(self.curve.shape[1])[None])[0])

    @cached_property
    def resampled(self) -> np.ndarray:
        """`steps` for resamples of the seeds, the same ones for every rule."""
        shape = RESAMPLES, self.curve.shape[1]
        return self._steps(np.random.default_rng(0).integers(0, shape[1], shape))

    def _steps(self, seeds: np.ndarray) -> np.ndarray:
        means = self.curve.double().numpy()[:, seeds].mean(-1)
        there = means >= self.race.chain.target - 1e-9
        return np.where(there.any(0), there.argmax(0), len(means) - 1)

    def heights(self, horizon: int) -> Float[Tensor, " seeds"]:
        """Return E[R] on average over the steps up to a horizon, for each seed."""
        rest = self.curve[-1:].expand(max(0, horizon + 1 - len(self.curve)), -1)
        return torch.cat([self.curve[: horizon + 1], rest]).mean(0)


@dataclass(frozen=True)
class Ratio:
    """A number with its percentile bootstrap interval of 95 % over the seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Raced:
    """A race that was run.

    Args:
        race: the race.
        told: what came of each rule, with `SEQ`, `TRUTH` and `EXACT`.
        lacks: strategy -> what it needs and the task does not tell; nothing for those in `told`.
    """

    race: Race
    told: Mapping[str, Told]
    lacks: Mapping[str, list[str]]

    @property
    def headroom(self) -> Ratio:
        """How many times fewer steps true advantages need than `seq`."""
        return _ratio(self.told[SEQ], self.told[TRUTH])

    @property
    def room(self) -> bool:
        """Whether true advantages save enough for shares of it to mean anything."""
        return self.told[TRUTH].arrived and self.headroom.low > 1 / (1 - LEAST)

    def tokens(self, rule: str) -> Ratio:
        """Return the tokens that a rule generates until the target over those of `seq`."""
        return _ratio(self.told[rule], self.told[SEQ])

    def captured(self, rule: str) -> Ratio | None:
        """Return the share of what true advantages save (`headroom.captured`) that a rule saves.

        None without room, or where neither the rule nor `seq` came to the target.
        """
        told, seq = self.told[rule], self.told[SEQ]
        if not self.room or not (told.arrived or seq.arrived):
            return None
        columns = zip(seq.resampled, told.resampled, self.told[TRUTH].resampled, strict=True)
        shares = [captured(s / max(1, n), s / max(1, best)) for s, n, best in columns]
        value = captured(seq.steps / max(1, told.steps), self.headroom.value)
        return _with_interval(value, np.array(shares))

    def predicted(self, rule: str) -> float | None:
        """Return the gain over `seq` that the variance before training predicts."""
        start, seq = self.told[rule].start, self.told[SEQ].start
        return predicted_gain(seq.variance, start.variance) if start and seq else None

    def height(self, rule: str) -> Float[Tensor, " seeds"]:
        """Return E[R] on average over the steps that `seq` takes to the target, for each seed."""
        return self.told[rule].heights(self.told[SEQ].steps)


def _ratio(above: Told, below: Told) -> Ratio:
    resampled = above.resampled / np.maximum(1, below.resampled)
    return _with_interval(above.steps / max(1, below.steps), resampled)


def _with_interval(value: float, resampled: np.ndarray) -> Ratio:
    interval = percentiles(resampled[np.isfinite(resampled)], 0.95)
    return Ratio(value, interval.low, interval.high)


def run(race: Race, strategies: Mapping[str, Strategy], progress: Progress = iter) -> Raced:
    """Race `seq`, true advantages, the exact gradient, and strategies, each at its best rate.

    Args:
        race: how; who needs `SLOW` times the steps of `seq` is not waited for.
        strategies: by the name to show.
        progress: wraps the iteration over rules, such as `tqdm`.
    """
    chain, asked = race.chain, race
    lacks = {name: missing(chain, strategy) for name, strategy in strategies.items()}
    fed = {name: through(chain, strategies[name]) for name, needs in lacks.items() if not needs}
    rules = {SEQ: through(chain, resolve_text(SEQ)), TRUTH: truth, EXACT: None, **fed}
    told: dict[str, Told] = {}
    for name in progress(rules):
        told[name] = _told(race, rules[name], told)
        if name == SEQ:
            race = replace(
                race, limit=min(race.limit, max(PATIENT, math.ceil(SLOW * told[SEQ].steps)))
            )
    return Raced(asked, told, lacks)


def _told(race: Race, rule: Rule | None, before: Mapping[str, Told]) -> Told:
    start = at_start(race.chain, rule) if rule else None
    guess = _guess(start, before[SEQ], before[TRUTH]) if start and TRUTH in before else None
    rate = tune(race, rule, guess)
    return Told(race, rate, start, tell(race, rule, rate))


def _guess(start: Start, seq: Told, best: Told) -> float:
    """Guess a rate between those of `seq` and of the truth, by the variance before training."""
    if seq.start is None or best.start is None or not start.factor > 0:
        return seq.rate
    noise = [math.log(CURVATURE + each.variance) for each in (start, seq.start, best.start)]
    share = float(np.interp(-noise[0], [-noise[1], -noise[2]], [0.0, 1.0]))
    stretch = 1 / start.factor if OPTIMIZERS[seq.race.optimizer].scales else 1.0
    return stretch * seq.rate ** (1 - share) * best.rate**share
