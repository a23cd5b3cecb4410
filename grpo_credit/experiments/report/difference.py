"""A strategy minus the baseline over paired seeds: all the numbers of one comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from grpo_credit.experiments.report.intervals import Interval, bootstrap_interval, t_interval
from grpo_credit.experiments.report.paired import (
    differences,
    holm,
    holm_steps,
    improvement_interval,
    paired_t_p,
    probability_of_improvement,
    sign_flip_p,
    smallest_p,
    win_rate,
)

Pair = tuple[np.ndarray, np.ndarray]  # a strategy and the baseline over the same seeds, (n,) each


class Draw(TypedDict):
    """Keywords of the bootstrap."""

    level: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class Settings:
    """How to compare.

    Attributes:
        higher_is_better: The direction of the metric.
        level: Of the intervals; 1 - level is the chance of one or more false claims.
        resamples: Of the bootstrap.
        seed: Of the bootstrap, and of the sign patterns where not all are visited.
    """

    higher_is_better: bool = True
    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    @property
    def alpha(self) -> float:
        """The chance of one or more false claims."""
        return 1 - self.level

    @property
    def draw(self) -> Draw:
        """What the bootstrap is told."""
        return Draw(level=self.level, resamples=self.resamples, seed=self.seed)


@dataclass(frozen=True)
class Difference:
    """A strategy minus the baseline, over the seeds that both have.

    Attributes:
        n: Pairs.
        comparisons: m, the comparisons that are made together, those of other studies included.
        holm_step: h, from 1 to m: the verdict tests t at (1 - level)/h.
        flip_step: The same for the sign flips, in the order of their own p values.
        mean: Mean difference, in the unit of the metric; None without pairs.
        interval: Paired Student t at the level of one comparison; None below two pairs.
        holm_interval: Paired Student t at 1 - (1 - level)/h: it excludes zero where p_holm is at
            most 1 - level. It decides, and stands in the verdict.
        bootstrap: Percentile bootstrap of the mean difference.
        p: Two-sided p of the paired t test (for equal differences, see `paired_t_p`).
        p_holm: The same, adjusted for m comparisons.
        sign_flip_p: Exact paired permutation test: differences are assumed to be symmetric.
        smallest_p: The smallest `sign_flip_p` that n pairs can reach.
        improvement: P(better) + P(equal)/2 for two random runs, seeds unpaired; None without pairs.
        improvement_interval: Its percentile bootstrap interval.
        win_rate: Share of the paired seeds where the strategy is better; a tie is half a win.
    """

    n: int
    comparisons: int
    holm_step: int
    flip_step: int
    mean: float | None
    interval: Interval | None
    holm_interval: Interval | None
    bootstrap: Interval | None
    p: float
    p_holm: float
    sign_flip_p: float
    smallest_p: float
    improvement: float | None
    improvement_interval: Interval | None
    win_rate: float | None


def compare_pairs(
    pairs: Mapping[str, Pair], settings: Settings, others: Iterable[Difference] = ()
) -> dict[str, Difference]:
    """Compare several strategies with one baseline, each over its own pairs.

    Args:
        pairs: Strategy to its pair; a strategy with fewer than two pairs is not counted in m.
        settings: How to compare.
        others: Comparisons of other studies that are made together with these, counted in m.

    Returns:
        Strategy to its difference.
    """
    found = {name: differences(*pair) for name, pair in pairs.items()}
    alone = {name: _alone(each, settings) for name, each in found.items()}
    tested = [name for name, each in found.items() if len(each) > 1]
    elsewhere = [each for each in others if each.n > 1]
    t = [*(alone[name]["p"] for name in tested), *(each.p for each in elsewhere)]
    flips = [
        *(alone[name]["sign_flip_p"] for name in tested),
        *(each.sign_flip_p for each in elsewhere),
    ]
    p_holm = _of(pairs, tested, 1.0, holm(t))
    steps = _of(pairs, tested, 1, holm_steps(t, settings.alpha))
    flip_steps = _of(pairs, tested, 1, holm_steps(flips, settings.alpha))
    return {
        name: Difference(
            comparisons=len(t),
            holm_step=steps[name],
            flip_step=flip_steps[name],
            p_holm=p_holm[name],
            holm_interval=_paired(
                t_interval(found[name], 1 - settings.alpha / steps[name]),
                f", widened for {steps[name]} of {len(t)} comparisons",
            ),
            **alone[name],
            **_how_often(pair, found[name], settings),
        )
        for name, pair in pairs.items()
    }


def _of(
    names: Iterable[str], tested: Sequence[str], untested: float, found: Sequence[Any]
) -> dict[str, Any]:
    """Give each strategy what was found; those of other studies come last, and are left out."""
    return dict.fromkeys(names, untested) | dict(zip(tested, found, strict=False))


def _alone(found: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Give the numbers that do not depend on other comparisons."""
    return {
        "n": len(found),
        "mean": float(found.mean()) if len(found) else None,
        "interval": _paired(t_interval(found, settings.level)),
        "bootstrap": _paired(bootstrap_interval(found, **settings.draw)),
        "p": paired_t_p(found),
        "sign_flip_p": sign_flip_p(found, settings.seed),
        "smallest_p": smallest_p(len(found)),
    }


def _how_often(pair: Pair, found: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Say how often the strategy is better, in the direction of the metric."""
    if not len(found):
        return {"improvement": None, "improvement_interval": None, "win_rate": None}
    sign = 1 if settings.higher_is_better else -1
    values, baseline = (sign * each for each in pair)
    return {
        "improvement": probability_of_improvement(values, baseline),
        "improvement_interval": improvement_interval(values, baseline, **settings.draw),
        "win_rate": win_rate(sign * found),
    }


def _paired(interval: Interval | None, more: str = "") -> Interval | None:
    """Label an interval of differences as such."""
    return interval and replace(interval, kind=f"paired {interval.kind}{more}")
