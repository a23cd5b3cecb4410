"""How much credit can help: what the variance of a step says of the steps that learning takes.

For a reward that the completion decides, true advantages divide one variance among the tokens,
Σ_t E[A*_t²] = Var R, where `seq` pays it at every token.
"""

import math

CURVATURE = 0.5  # what a step costs beside its noise, in units of the gradient squared

LAW_ERROR = 2.4  # factor that nine in ten of 36 fresh settings came within (docs/lab.md)


def predicted_gain(baseline: float, variance: float) -> float:
    """Predict how many times fewer steps a rule needs than another, each at its best rate.

        gain = √((1/2 + variance of the baseline) / (1/2 + variance))

    Variances are of one step before training, relative to its expectation along the gradient
    squared (`lab exact`). The form was found on 25 settings of `lab race` and tried on others by
    `scripts/predict_gain.py`; docs/lab.md has what came out, and where it fails.

    Example:
        >>> round(predicted_gain(48.9, 2.1), 1)
        4.4
    """
    if math.isinf(variance):
        return 0.0
    return math.sqrt((CURVATURE + baseline) / (CURVATURE + variance))


def captured(gain: float, ceiling: float) -> float:
    """Return which share a rule saves of the steps that true advantages would save.

        captured = (1 - 1/gain) / (1 - 1/ceiling),   gain = steps of `seq` / steps

    Example:
        >>> captured(2.0, 4.0)
        0.6666666666666666
    """
    return (1 - 1 / gain) / (1 - 1 / ceiling) if gain > 0 and ceiling != 1 else math.nan
