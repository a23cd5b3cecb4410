"""A strategy minus the baseline over paired seeds: all the numbers of one comparison."""

from dataclasses import dataclass

import numpy as np

from grpo_credit.experiments.report.intervals import Interval

Pair = tuple[np.ndarray, np.ndarray]  # a strategy and the baseline over the same seeds, (n,) each


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
