"""Strategies compared over seeds: `compare`. The methods are in the modules beside this one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np

from grpo_credit.experiments.report import paired
from grpo_credit.experiments.report.difference import Difference, Pair
from grpo_credit.experiments.report.intervals import (
    USUAL,
    Interval,
    Settings,
    bootstrap_interval,
    iqm,
    present,
    t_interval,
)
from grpo_credit.experiments.report.verdict import Verdict, decide, limits, summarise

BySeed = Mapping[int, float | None]  # metric; None, NaN and infinities are missing
_STOPPING = (
    "Where bad runs are those that fail, a strategy without them looks better than it is; and "
    "whoever stops a study, or adds seeds to it, by what the verdict says so far makes false "
    "claims in more than {:.2g} % of studies."
)


@dataclass(frozen=True)
class Result:
    """What is known of one strategy.

    Attributes:
        strategy: Its name.
        n: Seeds with a value.
        missing: Seeds that another strategy has and this one has not.
        mean: None without values, like the rest.
        iqm: Interquartile mean; equals the mean for n < 4.
        t_interval: Student's interval of the mean.
        bootstrap: Percentile bootstrap interval of the mean.
        iqm_bootstrap: Percentile bootstrap interval of the IQM.
        difference: To the baseline; None for the baseline itself.
        verdict: Against the baseline; None for the baseline itself.
    """

    strategy: str
    n: int
    missing: tuple[int, ...]
    mean: float | None
    iqm: float | None
    t_interval: Interval | None
    bootstrap: Interval | None
    iqm_bootstrap: Interval | None
    difference: Difference | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Comparison:
    """Strategies against a baseline. `dataclasses.asdict` gives plain JSON, without NaN.

    Attributes:
        baseline: Its name.
        higher_is_better: The direction of the metric.
        level: Of the intervals.
        comparisons: m, all that are made together: the strategies that are compared with the
            baseline, and the comparisons of other studies.
        results: One for each strategy, in the order given.
        verdict: One sentence.
        limits: What these numbers cannot tell, one sentence each: to be printed beside them.
    """

    baseline: str
    higher_is_better: bool
    level: float
    comparisons: int
    results: tuple[Result, ...]
    verdict: str
    limits: tuple[str, ...]

    @property
    def differences(self) -> list[Difference]:
        """The comparisons with the baseline."""
        return [each.difference for each in self.results if each.difference is not None]


def compare(
    values: Mapping[str, BySeed],
    baseline: str,
    settings: Settings = USUAL,
    others: Mapping[str, Iterable[Difference]] = MappingProxyType({}),
) -> Comparison:
    """Compare strategies with a baseline over paired seeds.

    Seeds that only one of the two has count for its own mean and not for the difference.

    Args:
        values: Strategy to seed to metric.
        baseline: The strategy that the others are compared with, one of these.
        settings: How to compare.
        others: Study to its comparisons, where several studies are of one question: Holm's
            correction is then over all of them.

    Returns:
        Everything that the report prints.

    Example:
        >>> found = compare({"seq": {0: 0.5, 1: 0.75}, "dapo": {0: 0.25, 1: 0.5}}, "seq")
        >>> [round(each.mean, 3) for each in found.differences]
        [-0.25]
    """
    pairs = {
        name: _pair(cells, values[baseline]) for name, cells in values.items() if name != baseline
    }
    differences = compare_pairs(pairs, settings, chain.from_iterable(others.values()))
    verdicts = {name: decide(difference, settings) for name, difference in differences.items()}
    seeds = sorted({seed for cells in values.values() for seed in cells})
    results = tuple(
        _result(name, cells, seeds, differences.get(name), verdicts.get(name), settings)
        for name, cells in values.items()
    )
    return Comparison(
        baseline=baseline,
        higher_is_better=settings.higher_is_better,
        level=settings.level,
        comparisons=max((each.comparisons for each in differences.values()), default=0),
        results=results,
        verdict=summarise(baseline, verdicts),
        limits=(*_gaps(results, settings), *limits(differences, settings, others)),
    )


def _result(
    name: str,
    cells: BySeed,
    seeds: list[int],
    difference: Difference | None,
    verdict: Verdict | None,
    settings: Settings,
) -> Result:
    """Put together what is known of one strategy."""
    numbers = present([cells[seed] for seed in sorted(cells)])  # drawn alike in any order
    return Result(
        strategy=name,
        n=len(numbers),
        missing=tuple(seed for seed in seeds if not _has(cells, seed)),
        mean=float(numbers.mean()) if len(numbers) else None,
        iqm=float(iqm(numbers)) if len(numbers) else None,
        t_interval=t_interval(numbers, settings.level),
        bootstrap=bootstrap_interval(numbers, np.mean, settings),
        iqm_bootstrap=bootstrap_interval(numbers, iqm, settings),
        difference=difference,
        verdict=verdict,
    )


def _pair(cells: BySeed, baseline: BySeed) -> Pair:
    """Return the values of the seeds that both have, in the order of the seeds."""
    both = [seed for seed in sorted(cells) if _has(cells, seed) and _has(baseline, seed)]
    return present([cells[seed] for seed in both]), present([baseline[seed] for seed in both])


def _has(cells: BySeed, seed: int) -> bool:
    """Return whether a seed has a finite value."""
    return len(present([cells.get(seed)])) == 1


def _gaps(results: tuple[Result, ...], settings: Settings) -> list[str]:
    """Return which values are missing and what that can do, and which strategies have no spread."""
    missing = [
        f"{each.strategy} has no value for seed {', '.join(map(str, each.missing))}: left out of "
        "the pairs."
        for each in results
        if each.missing
    ]
    constant = [
        f"{each.strategy}: {each.t_interval.note}."
        for each in results
        if each.t_interval and each.t_interval.degenerate
    ]
    return missing + ([_STOPPING.format(100 * settings.alpha)] if missing else []) + constant


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
    deltas = {name: paired.differences(*pair) for name, pair in pairs.items()}
    alone = {name: _alone(each, settings) for name, each in deltas.items()}
    tested = [name for name, each in deltas.items() if len(each) > 1]
    elsewhere = [each for each in others if each.n > 1]
    t = [*(alone[name]["p"] for name in tested), *(each.p for each in elsewhere)]
    flips = [
        *(alone[name]["sign_flip_p"] for name in tested),
        *(each.sign_flip_p for each in elsewhere),
    ]
    p_holm = _of(pairs, tested, 1.0, paired.holm(t))
    steps = _of(pairs, tested, 1, paired.holm_steps(t, settings.alpha))
    flip_steps = _of(pairs, tested, 1, paired.holm_steps(flips, settings.alpha))
    return {
        name: Difference(
            comparisons=len(t),
            holm_step=steps[name],
            flip_step=flip_steps[name],
            p_holm=p_holm[name],
            holm_interval=_labelled(
                t_interval(deltas[name], 1 - settings.alpha / steps[name]),
                f", widened for {steps[name]} of {len(t)} comparisons",
            ),
            **alone[name],
            **_how_often(pair, deltas[name], settings),
        )
        for name, pair in pairs.items()
    }


def _of(
    names: Iterable[str], tested: Sequence[str], untested: float, results: Sequence[object]
) -> dict[str, Any]:
    """Give each strategy what was found; those of other studies come last, and are left out."""
    return dict.fromkeys(names, untested) | dict(zip(tested, results, strict=False))


def _alone(deltas: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Return the numbers that do not depend on other comparisons."""
    return {
        "n": len(deltas),
        "mean": float(deltas.mean()) if len(deltas) else None,
        "interval": _labelled(t_interval(deltas, settings.level)),
        "bootstrap": _labelled(bootstrap_interval(deltas, settings=settings)),
        "p": paired.paired_t_p(deltas),
        "sign_flip_p": paired.sign_flip_p(deltas, settings.seed),
        "smallest_p": paired.smallest_p(len(deltas)),
    }


def _how_often(pair: Pair, deltas: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Return how often the strategy is better, in the direction of the metric."""
    if not len(deltas):
        return {"improvement": None, "improvement_interval": None, "win_rate": None}
    sign = 1 if settings.higher_is_better else -1
    values, baseline = (sign * each for each in pair)
    return {
        "improvement": paired.probability_of_improvement(values, baseline),
        "improvement_interval": paired.improvement_interval(values, baseline, settings),
        "win_rate": paired.win_rate(sign * deltas),
    }


def _labelled(interval: Interval | None, more: str = "") -> Interval | None:
    """Label an interval of differences as such."""
    return interval and replace(interval, kind=f"paired {interval.kind}{more}")
