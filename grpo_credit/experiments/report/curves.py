"""One number from a learning curve: its mean height, and when it reaches a threshold."""

import math
from collections.abc import Sequence

import numpy as np

Curve = Sequence[float | None] | np.ndarray


def area_under_curve(
    steps: Sequence[float], values: Curve, span: tuple[float, float] | None = None
) -> float | None:
    """Return the mean height of a curve.

        1 / (s_b - s_a) · ∫ value ds    between s_a and s_b, straight lines between the points

    In the unit of the values, whatever the grid. Missing values (None, NaN, infinite) are bridged
    by the straight line between their neighbours.

    Args:
        steps: Steps, tokens or seconds `(k,)`, increasing.
        values: The curve `(k,)`.
        span: From where to where; by default from the first value to the last. Curves that are
            compared need the same span.

    Returns:
        The mean height; the height itself where the span is a point. None where there is no value,
        or where the values do not cover the span: a run that stopped early is not compared.

    Raises:
        ValueError: If the steps do not increase, or are not as many as the values.

    Example:
        >>> area_under_curve([0, 1, 4], [0.0, 1.0, 1.0])  # (1/2 + 3) / 4
        0.875
    """
    at, height = _points(steps, values)
    if not len(at):
        return None
    start, stop = span or (at[0], at[-1])
    if start < at[0] or stop > at[-1]:
        return None
    inside = np.unique(np.concatenate([[start, stop], at[(at > start) & (at < stop)]]))
    curve = np.interp(inside, at, height)
    if start == stop:
        return float(curve[0])
    return float((np.diff(inside) * (curve[1:] + curve[:-1]) / 2).sum() / (stop - start))


def steps_to_threshold(
    steps: Sequence[float],
    values: Curve,
    threshold: float,
    *,
    higher_is_better: bool = True,
    window: int = 1,
) -> float | None:
    """Return the first step at which a curve reaches a threshold.

        min { s_j : mean of the last `window` values up to s_j ≥ threshold }    (≤, lower is better)

    A noisy curve touches a threshold by luck: a window of several points asks it to stay. Missing
    values are left out, so that a window holds as many values as it says.

    Args:
        steps: Steps, tokens or seconds `(k,)`, increasing.
        values: The curve `(k,)`.
        threshold: In the unit of the values.
        higher_is_better: Whether to reach it from below.
        window: Values in the running mean, at least 1. No step before the window is full counts.

    Returns:
        The step; None if the threshold is never reached. Such a run is not a missing one: leaving
        it out would flatter the strategy. See `median_steps`.

    Raises:
        ValueError: If the window is below 1, the steps do not increase, or lengths differ.

    Example:
        >>> steps_to_threshold([10, 20, 30, 40], [0.2, 0.9, 0.3, 0.8], threshold=0.55, window=2)
        20.0
    """
    if window < 1:
        raise ValueError(f"window {window}, expected at least 1 value")
    at, height = _points(steps, values)
    if len(at) < window:
        return None
    running = np.lib.stride_tricks.sliding_window_view(height, window).mean(axis=1)
    sign = 1 if higher_is_better else -1
    reached = np.flatnonzero(sign * running >= sign * threshold)
    return float(at[window - 1 :][reached[0]]) if len(reached) else None


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
