"""One number from a learning curve: its mean height, and when it reaches a threshold.

A curve is steps `(k,)`, increasing, and finite values `(k,)`, as `series.Points` has them.
"""

import math
from collections.abc import Sequence

import numpy as np


def area_under_curve(steps: np.ndarray, values: np.ndarray) -> float:
    """Return the mean height of a curve, k ≥ 1.

        1 / (s_k - s_1) · ∫ value ds    from the first value to the last, straight lines between

    In the unit of the values, whatever the grid; the height itself of a single value.

    Example:
        >>> area_under_curve(np.array([0, 1, 4]), np.array([0.0, 1.0, 1.0]))  # (1/2 + 3) / 4
        0.875
    """
    if len(steps) == 1:
        return float(values[0])
    area = np.diff(steps) @ (values[1:] + values[:-1]) / 2
    return float(area / (steps[-1] - steps[0]))


def steps_to_threshold(
    steps: np.ndarray, values: np.ndarray, threshold: float, *, higher_is_better: bool = True
) -> float | None:
    """Return the first step at which a curve reaches a threshold.

        min { s_j : value_j ≥ threshold }    (≤, lower is better)

    None if it is never reached. Such a run is not a missing one: leaving it out would flatter the
    strategy. See `median_steps`.

    Example:
        >>> steps_to_threshold(np.array([10, 20, 30]), np.array([0.2, 0.9, 0.3]), threshold=0.55)
        20.0
    """
    reached = steps[values >= threshold if higher_is_better else values <= threshold]
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
