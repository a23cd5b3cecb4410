"""One number from a learning curve: its mean height, and when it reaches a threshold."""

import math
from collections.abc import Sequence

import numpy as np

Curve = Sequence[float | None] | np.ndarray


def area_under_curve(steps: Sequence[float], values: Curve) -> float | None:
    """Return the mean height of a curve.

        1 / (s_k - s_1) · ∫ value ds    from the first value to the last, straight lines between

    In the unit of the values, whatever the grid. Missing values (None, NaN, infinite) are bridged
    by the straight line between their neighbours.

    Args:
        steps: Steps, tokens or seconds `(k,)`, increasing.
        values: The curve `(k,)`.

    Returns:
        The mean height; the height itself of a single value, None where there is none.

    Raises:
        ValueError: If the steps do not increase, or are not as many as the values.

    Example:
        >>> area_under_curve([0, 1, 4], [0.0, 1.0, 1.0])  # (1/2 + 3) / 4
        0.875
    """
    at, height = _points(steps, values)
    if len(at) < 2:
        return float(height[0]) if len(at) else None
    return float((np.diff(at) * (height[1:] + height[:-1]) / 2).sum() / (at[-1] - at[0]))


def steps_to_threshold(
    steps: Sequence[float], values: Curve, threshold: float, *, higher_is_better: bool = True
) -> float | None:
    """Return the first step at which a curve reaches a threshold.

        min { s_j : value_j ≥ threshold }    (≤, lower is better)

    Args:
        steps: Steps, tokens or seconds `(k,)`, increasing.
        values: The curve `(k,)`; missing values are left out.
        threshold: In the unit of the values.
        higher_is_better: Whether to reach it from below.

    Returns:
        The step; None if the threshold is never reached. Such a run is not a missing one: leaving
        it out would flatter the strategy. See `median_steps`.

    Raises:
        ValueError: If the steps do not increase, or are not as many as the values.

    Example:
        >>> steps_to_threshold([10, 20, 30], [0.2, 0.9, 0.3], threshold=0.55)
        20.0
    """
    at, height = _points(steps, values)
    reached = at[height >= threshold] if higher_is_better else at[height <= threshold]
    return float(reached[0]) if len(reached) else None


def median_steps(reached: Sequence[float | None]) -> float | None:
    """Return the median of steps to a threshold; a run that never reached it counts as infinite.

    Args:
        reached: One number or None for each run, from `steps_to_threshold`.

    Returns:
        The median; None if half of the runs or more never got there, or if there is no run.

    Example:
        >>> median_steps([30, None, 10]), median_steps([30, None, None])
        (30.0, None)
    """
    if not reached:
        return None
    median = float(np.median([math.inf if step is None else step for step in reached]))
    return median if math.isfinite(median) else None


def _points(steps: Sequence[float], values: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a curve that have a value."""
    at = np.asarray(steps, dtype=float)
    height = np.array([math.nan if value is None else value for value in values], dtype=float)
    if len(at) != len(height):
        raise ValueError(f"{len(at)} steps and {len(height)} values, expected as many of each")
    if not (np.diff(at) > 0).all():
        raise ValueError("the steps do not increase; sort them, and keep one value for each step")
    return at[np.isfinite(height)], height[np.isfinite(height)]
