"""Strategies compared over seeds: `compare`. The methods are in the modules beside this one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

import numpy as np

from grpo_credit.experiments.report.difference import Difference, Pair, Settings, compare_pairs
from grpo_credit.experiments.report.intervals import (
    Interval,
    bootstrap_interval,
    iqm,
    present,
    t_interval,
)
from grpo_credit.experiments.report.verdict import Verdict, decide, limits, summarise
from grpo_credit.text import did_you_mean

Cells = Mapping[int, float | None]  # seed -> metric; None, NaN and infinities are missing


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
    values: Mapping[str, Cells],
    baseline: str,
    higher_is_better: bool = True,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    others: Mapping[str, Iterable[Difference]] = MappingProxyType({}),
) -> Comparison:
    """Compare strategies with a baseline over paired seeds.

    Seeds that only one of the two has count for its own mean and not for the difference.

    Args:
        values: Strategy to seed to metric.
        baseline: The strategy that the others are compared with.
        higher_is_better: False for a metric such as a loss.
        level: Of the intervals; 1 - level is the chance of one or more false winners.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        others: Study to its comparisons, where several studies are of one question: Holm's
            correction is then over all of them.

    Returns:
        Everything that the report prints.

    Raises:
        ValueError: If the baseline is not among the strategies, or the level not in (0, 1).
    """
    if baseline not in values:
        known = ", ".join(values)
        hint = did_you_mean(baseline, values)
        raise ValueError(f"baseline {baseline!r}, expected one of the strategies: {known}.{hint}")
    if not 0 < level < 1:
        raise ValueError(f"level {level}, expected more than 0 and less than 1, such as 0.95")
    settings = Settings(higher_is_better, level, resamples, seed)
    pairs = {
        name: _pair(cells, values[baseline]) for name, cells in values.items() if name != baseline
    }
    found = compare_pairs(pairs, settings, chain.from_iterable(others.values()))
    verdicts = {name: decide(difference, settings) for name, difference in found.items()}
    seeds = sorted({seed for cells in values.values() for seed in cells})
    results = tuple(
        _result(name, cells, seeds, found.get(name), verdicts.get(name), settings)
        for name, cells in values.items()
    )
    return Comparison(
        baseline=baseline,
        higher_is_better=higher_is_better,
        level=level,
        comparisons=max((each.comparisons for each in found.values()), default=0),
        results=results,
        verdict=summarise(baseline, verdicts),
        limits=(*_gaps(results, settings), *limits(found, settings, others)),
    )


def _result(
    name: str,
    cells: Cells,
    seeds: list[int],
    difference: Difference | None,
    verdict: Verdict | None,
    settings: Settings,
) -> Result:
    """Put together what is known of one strategy."""
    found = present([cells[seed] for seed in sorted(cells)])  # drawn alike in any order
    return Result(
        strategy=name,
        n=len(found),
        missing=tuple(seed for seed in seeds if not _has(cells, seed)),
        mean=float(found.mean()) if len(found) else None,
        iqm=float(iqm(found)) if len(found) else None,
        t_interval=t_interval(found, settings.level),
        bootstrap=bootstrap_interval(found, np.mean, **settings.draw),
        iqm_bootstrap=bootstrap_interval(found, iqm, **settings.draw),
        difference=difference,
        verdict=verdict,
    )


def _pair(cells: Cells, baseline: Cells) -> Pair:
    """Return the values of the seeds that both have, in the order of the seeds."""
    both = [seed for seed in sorted(cells) if _has(cells, seed) and _has(baseline, seed)]
    return present([cells[seed] for seed in both]), present([baseline[seed] for seed in both])


def _has(cells: Cells, seed: int) -> bool:
    """Say whether a seed has a finite value."""
    return len(present([cells.get(seed)])) == 1


def _gaps(results: tuple[Result, ...], settings: Settings) -> list[str]:
    """Say which values are missing and what that can do, and which strategies have no spread."""
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


_STOPPING = (
    "Where bad runs are those that fail, a strategy without them looks better than it is; and "
    "whoever stops a study, or adds seeds to it, by what the verdict says so far makes false "
    "claims in more than {:.2g} % of studies."
)
