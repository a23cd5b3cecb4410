"""One value of each metric per optimizer step, from the passes that it was made of.

TRL appends a value per micro-batch and logs their plain mean. Passes are uneven, so a step's values
are weighed here before they are logged: means over tokens by tokens, the others by rows; a least or
largest value over rows is the step's. Rows that were skipped have no clipped token, because their
advantage has no sign, so clip ratios are over all rows; everything else is over the rows that ran.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

TOKEN_MEANS = ("kl", "entropy")  # TRL's means over counted tokens, whatever the ratio's level
CLIPPED = "clip_ratio"  # in the name of every share of clipped tokens


class Counts(NamedTuple):
    """What a value is a mean over, all ranks together."""

    rows: int
    tokens: int


class PassMetrics(NamedTuple):
    """Metrics of one pass, as TRL appended them, and what they are over."""

    counts: Counts
    values: dict[str, list[float]]


def merge(passes: list[PassMetrics], skipped: Counts, per_sequence_ratio: bool) -> dict[str, float]:
    """Return one value per metric.

    Args:
        passes: of one optimizer step.
        skipped: rows that no pass ran, and their counted tokens.
        per_sequence_ratio: whether TRL has one ratio per completion, and so takes clip ratios and
            VESPO's weights over completions instead of tokens.
    """
    names = dict.fromkeys(name for found in passes for name in found.values)
    return {name: _merge_one(name, passes, skipped, per_sequence_ratio) for name in names}


def _merge_one(
    name: str, passes: list[PassMetrics], skipped: Counts, per_sequence_ratio: bool
) -> float:
    values = [(value, p.counts) for p in passes for value in p.values.get(name, [])]
    zero = [(0.0, skipped)] if CLIPPED in name else []
    if name.endswith(("_min", "_max")):
        told = [(v, c.rows if per_sequence_ratio else c.tokens) for v, c in values + zero]
        seen = [value for value, count in told if count and not math.isnan(value)]
        extreme = min if name.endswith("_min") else max
        return extreme(seen, default=math.nan)
    by_token = name in TOKEN_MEANS or (CLIPPED in name and not per_sequence_ratio)
    return _mean((v, c.tokens if by_token else c.rows) for v, c in values + zero)


def _mean(weighed: Iterable[tuple[float, int]]) -> float:
    kept = [(value, weight) for value, weight in weighed if not math.isnan(value)]
    total = max(1, sum(weight for _, weight in kept))  # without any token TRL says 0
    return sum(value * weight for value, weight in kept) / total if kept else math.nan
