"""Two strategies over the same seeds: tests of their differences, and how often one wins."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtr

from grpo_credit.experiments.report.intervals import (
    SAME,
    USUAL,
    Interval,
    Numbers,
    Settings,
    all_equal,
    percentiles,
    standard_error,
)

ENUMERATED_PAIRS = 16  # up to here, all sign patterns are visited
SIGN_PATTERNS = 99_999  # drawn beyond


def differences(values: Numbers, baseline: Numbers) -> np.ndarray:
    """Subtract pair by pair, `(n,)`, and take for equal what differs by rounding only.

    0.3 - 0.2 and 0.8 - 0.7 are not the same float: left alone, a spread of 1e-17 would look like
    certainty.
    """
    deltas, rounding = _subtract(np.subtract, values, baseline)
    if len(deltas) and np.ptp(deltas) <= rounding:
        deltas[:] = deltas[0]
    return deltas


def paired_t_p(deltas: Numbers) -> float:
    """Return the two-sided p of the paired t test, or its counterpart for equal differences.

        p = 2 P(T_{n-1} > |mean| √n / s),    without a spread: p = min(1, 2 / 3^n)

    Without a spread t is infinite and means nothing. But two strategies that do the same rarely
    differ by one d ≠ 0 in all pairs: let their results at a seed be independent with the same
    distribution q. Then P(d) = Σ_x q(x) q(x - d) ≤ Σ q² = P(0) and 2 P(d) + P(0) ≤ 1, so that
    P(d) ≤ 1/3, and over all d the probability of n equal ones is at most 2 / 3^n.

    Args:
        deltas: Differences `(n,)`, from `differences`.

    Returns:
        A probability; 1 for fewer than two pairs, or when all differences are zero.
    """
    deltas = np.asarray(deltas, dtype=float)
    if len(deltas) < 2 or not deltas.any():
        return 1.0
    if all_equal(deltas):
        return 2 / 3 ** len(deltas)
    t = abs(float(deltas.mean())) / standard_error(deltas)
    return 2 * float(stdtr(len(deltas) - 1, -t))


def sign_flip_p(deltas: Numbers, seed: int = 0) -> float:
    """Return the two-sided p of the paired permutation test, which assumes symmetric differences.

        p = share of the sign patterns s ∈ {-1, 1}^n with |Σ s_i d_i| ≥ |Σ d_i|

    Exact under the hypothesis that swapping the two strategies of a pair changes nothing, so that d
    and -d are equally likely. That is more than equal means: where means are equal and shapes are
    not (one strategy fails now and then, the other never), small p come far too often, at any n.
    All patterns are visited up to 16 pairs; beyond, 99,999 are drawn and p = (1 + hits) / 100,000.

    Args:
        deltas: Differences `(n,)`.
        seed: Of the draws.

    Returns:
        A probability; 1 without pairs. See `smallest_p` for how small it can get.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0])  # only +++ and --- reach 6, out of 8
        0.25
    """
    deltas = np.asarray(deltas, dtype=float)
    observed = abs(deltas.sum()) - SAME * np.abs(deltas).sum()
    # not scipy's permutation_test: the same p, a hundred times slower at 16 pairs
    hits = np.abs(_signs(len(deltas), seed) @ deltas) >= observed
    if len(deltas) <= ENUMERATED_PAIRS:
        return float(hits.mean())
    return float((1 + hits.sum()) / (1 + SIGN_PATTERNS))


def smallest_p(pairs: int) -> float:
    """Return the smallest p that `sign_flip_p` can reach.

        2 / 2^n,  but never below 1 / 100,000 where patterns are drawn

    Example:
        >>> [smallest_p(n) for n in (3, 4, 5, 6)]
        [0.25, 0.125, 0.0625, 0.03125]
    """
    floor = 0.0 if pairs <= ENUMERATED_PAIRS else 1 / (1 + SIGN_PATTERNS)
    return max(min(1.0, 2 / 2**pairs), floor)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, step by step from the smallest.

        p̃_(j) = max_{k ≤ j} min(1, (m - k + 1) p_(k))

    Whoever rejects at p̃ ≤ α makes one or more false claims with a probability of at most α.

    Args:
        p_values: m probabilities.

    Returns:
        The adjusted ones, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])  # 3 · 0.01; 2 · 0.03; max(0.06, 1 · 0.04)
        [0.03, 0.06, 0.06]
    """
    adjusted, reached = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def holm_steps(p_values: Sequence[float], alpha: float) -> list[int]:
    """Return the h by which Holm's procedure divides α for each p value.

        h_(j) = m - min(j - 1, number of p̃ ≤ α)      so that  p̃ ≤ α  ⇔  p ≤ α / h

    An interval at the level 1 - α/h excludes zero exactly where Holm rejects.

    Args:
        p_values: m probabilities.
        alpha: The chance of one or more false claims.

    Returns:
        m divisors, from 1 to m, in the same order.

    Example:
        >>> holm_steps([0.01, 0.04, 0.03], alpha=0.05)  # p̃ = 0.03, 0.06, 0.06
        [3, 2, 2]
    """
    rejected = sum(each <= alpha for each in holm(p_values))
    ranks = np.argsort(np.argsort(p_values, kind="stable"), kind="stable")
    return [len(p_values) - min(int(rank), rejected) for rank in ranks]


def probability_of_improvement(values: Numbers, baseline: Numbers) -> float:
    """Return the probability that a random run of one strategy beats a random run of the other.

        P(X > Y) + P(X = Y) / 2  over all n · m pairs of runs     (= Mann-Whitney's U / (n m))

    Unpaired: seeds do not matter. Agarwal et al. 2021.

    Args:
        values: Finite numbers `(n,)`, n ≥ 1, higher is better.
        baseline: Finite numbers `(m,)`, m ≥ 1.

    Returns:
        A probability; 1/2 means no difference.
    """
    return float(_wins(values, baseline).mean())


def improvement_interval(
    values: Numbers, baseline: Numbers, settings: Settings = USUAL
) -> Interval | None:
    """Return the percentile bootstrap interval of `probability_of_improvement`.

    The runs of either strategy are drawn with return, independently. None where a strategy has
    fewer than two runs. Too narrow with few seeds, and without width when all runs win.
    """
    wins = _wins(values, baseline)
    if min(wins.shape) < 2:
        return None
    rng = np.random.default_rng(settings.seed)
    rows, columns = (
        rng.multinomial(count, np.full(count, 1 / count), settings.resamples).astype(float)
        for count in wins.shape
    )
    return percentiles(((rows @ wins) * columns).sum(axis=1) / wins.size, settings.level)


def win_rate(deltas: Numbers) -> float:
    """Return the share of the pairs (one or more) that are won; a tie is half a win.

        mean of 1[d > 0] + 1[d = 0] / 2

    Paired: the counterpart of `probability_of_improvement` that keeps the seeds together.
    """
    return float((np.sign(deltas) + 1).mean() / 2)


def _wins(values: Numbers, baseline: Numbers) -> np.ndarray:
    """Return 1, 1/2 or 0 for every pair of runs, `(n, m)`."""
    deltas, _ = _subtract(np.subtract.outer, values, baseline)
    return (np.sign(deltas) + 1) / 2


def _subtract(
    how: Callable[..., np.ndarray], values: Numbers, baseline: Numbers
) -> tuple[np.ndarray, float]:
    """Return differences, zero where they are rounding, and how large that can be."""
    values, baseline = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    rounding = SAME * max(np.abs(values).max(initial=0), np.abs(baseline).max(initial=0))
    deltas = how(values, baseline)
    return np.where(np.abs(deltas) <= rounding, 0.0, deltas), rounding


def _signs(pairs: int, seed: int) -> np.ndarray:
    """Return patterns `(patterns, pairs)`: half of all, or random ones where pairs are many.

    The other half is the mirror image of the first: it reaches what that reaches.
    """
    if pairs <= ENUMERATED_PAIRS:
        return 1.0 - 2 * (np.arange(2 ** max(0, pairs - 1))[:, None] >> np.arange(pairs) & 1)
    return 2.0 * np.random.default_rng(seed).integers(0, 2, (SIGN_PATTERNS, pairs)) - 1
