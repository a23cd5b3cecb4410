"""Averages over seeds and their intervals, each labelled by what it is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

Numbers = Sequence[float] | np.ndarray
Statistic = Callable[..., np.ndarray]
SAME = 1e-12  # values that differ by less than this share of the largest are equal


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end, in the unit of the values.
        high: Upper end.
        level: The probability of covering that the method aims at; docs/statistics.md says what it
            reaches with few seeds.
        kind: The method, in words.
        note: Why the interval has no width and means nothing; empty when it has a width.
    """

    low: float
    high: float
    level: float
    kind: str
    note: str = ""

    @property
    def degenerate(self) -> bool:
        """Whether nothing was estimated: such an interval never excludes a value."""
        return bool(self.note)

    def excludes(self, value: float) -> bool:
        """Return whether a value lies outside; never, if nothing was estimated."""
        return not self.degenerate and not self.low <= value <= self.high


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


USUAL = Settings()


def present(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """Return the finite values `(n,)`: None, NaN and infinities are missing."""
    numbers = np.array([math.nan if value is None else value for value in values], dtype=float)
    return numbers[np.isfinite(numbers)]


def mean(values: Iterable[float | None]) -> float | None:
    """Average the numbers that there are; None without any."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def iqm(values: Numbers, axis: int = -1) -> np.ndarray:
    """Average what is left after cutting a quarter of the values at either end.

        IQM = mean of x_(k+1) ... x_(n-k),   k = ⌊n / 4⌋

    The interquartile mean of Agarwal et al. 2021: one run that diverged does not move it.

    Args:
        values: Finite numbers, at least one along the axis.
        axis: The axis to average over.

    Returns:
        The average, one dimension less than the values; the mean for n < 4, where nothing is cut.

    Deviation: for n not divisible by 4, less than a quarter is cut (as `scipy.stats.trim_mean` and
    rliable do), not a fraction of a value.

    Example:
        >>> float(iqm([0.0, 0.5, 0.7, 0.6, 0.8, 9.0]))  # k = 1
        0.65
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=axis)
    count = ordered.shape[axis]
    return np.take(ordered, range(count // 4, count - count // 4), axis=axis).mean(axis=axis)


def t_interval(values: Numbers, level: float = 0.95) -> Interval | None:
    """Return Student's interval of the mean.

        mean ± t_{(1 + level)/2, n-1} · s / √n,    s² = Σ (x - mean)² / (n - 1)

    Exact for normal values, at any n.

    Args:
        values: Finite numbers `(n,)`.
        level: Strictly between 0 and 1.

    Returns:
        The interval; None for fewer than two values. Without a spread it has no width, and says so.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    mean, kind = float(values.mean()), "Student t"
    if all_equal(values):
        return Interval(mean, mean, level, kind, f"all {len(values)} values are equal: {_NOTHING}")
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * standard_error(values)
    return Interval(mean - half, mean + half, level, kind)


def bootstrap_interval(
    values: Numbers,
    statistic: Statistic = np.mean,
    settings: Settings = USUAL,
) -> Interval | None:
    """Return the percentile bootstrap interval of a statistic of one sample.

        quantiles (1 - level)/2 and (1 + level)/2 of statistic(x*),   x* drawn from x with return

    Too narrow with few seeds (docs/statistics.md): shown because people expect it.

    Args:
        values: Finite numbers `(n,)`.
        statistic: A function of an array and `axis`, such as `np.mean` and `iqm`.
        settings: Of the draws; the same give the same interval.

    Returns:
        The interval; None for fewer than two values. Without a width it says why.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    size = settings.resamples, len(values)
    drawn = np.random.default_rng(settings.seed).integers(0, len(values), size)
    return percentiles(statistic(values[drawn], axis=-1), settings.level)


def percentiles(estimates: np.ndarray, level: float) -> Interval:
    """Return the interval between two percentiles of resampled estimates."""
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2]).tolist()
    note = f"the resamples are equal: {_NOTHING}" if all_equal([low, high]) else ""
    return Interval(low, high, level, "percentile bootstrap", note)


def standard_error(values: np.ndarray) -> float:
    """Return s / √n of at least two values that are not all equal."""
    largest = float(np.abs(values).max())  # scaled by it, or squares of tiny values vanish
    return largest * float((values / largest).std(ddof=1)) / math.sqrt(len(values))


def all_equal(values: Numbers) -> bool:
    """Return whether the values differ by rounding at most."""
    return bool(np.ptp(values) <= SAME * np.abs(values).max())


_NOTHING = "no interval can be estimated"
