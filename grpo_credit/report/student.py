"""Student's t distribution, without scipy: its tail and its quantiles."""

import math
from functools import lru_cache

_PRECISION = 1e-15
_TERMS = 10_000
_TINY = 1e-300  # keeps the continued fraction from dividing by zero


def upper_tail(t: float, df: int) -> float:
    """Give the probability that Student's t exceeds a value.

        P(T > t) = I_x(df/2, 1/2) / 2    for t ≥ 0,   x = df / (df + t²)

    Args:
        t: The value; infinity is allowed.
        df: Degrees of freedom, at least 1.

    Returns:
        A probability, with a relative error below 1e-12.

    Raises:
        ValueError: If there is no degree of freedom, or t is NaN.

    Example:
        >>> round(upper_tail(1.0, df=1), 12)  # Cauchy: 1/2 - arctan(1) / π
        0.25
    """
    if df < 1 or math.isnan(t):
        raise ValueError(f"t = {t}, df = {df}, expected a number and at least one degree")
    if t < 0:
        return 1 - upper_tail(-t, df)
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t)) / 2


@lru_cache
def t_quantile(probability: float, df: int) -> float:
    """Give the value that Student's t stays below with a probability.

        t such that P(T ≤ t) = probability, by bisection of `upper_tail`

    Args:
        probability: Strictly between 0 and 1.
        df: Degrees of freedom, at least 1.

    Returns:
        The quantile, with a relative error below 1e-9 (checked against scipy).

    Raises:
        ValueError: If the probability is not strictly between 0 and 1, or `df` is below 1.

    Example:
        >>> round(t_quantile(0.975, df=5), 6)
        2.570582
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability {probability}, expected more than 0 and less than 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, df)
    low, high = 0.0, 1.0
    while upper_tail(high, df) > 1 - probability:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if upper_tail(middle, df) > 1 - probability else (low, middle)
    return middle


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Give the regularised incomplete beta function I_x(a, b), with y = 1 - x."""
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _incomplete_beta(b, a, y, x)
    if x == 0:
        return 0.0
    beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * math.log(y) - beta)
    return front * _continued_fraction(a, b, x) / a


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Evaluate 1/(1 + d_1/(1 + d_2/(1 + ...))) of the incomplete beta function (Lentz's way)."""
    below = 1.0
    above = 1 / _TINY
    value = 1.0
    for term in range(1, _TERMS):
        step = _coefficient(term, a, b, x)
        below = 1 / (1 + step * below or _TINY)
        above = 1 + step / above or _TINY
        value *= above * below
        if abs(above * below - 1) < _PRECISION:
            return value
    raise ArithmeticError(f"I_{x}({a}, {b}): no value after {_TERMS} terms")


def _coefficient(term: int, a: float, b: float, x: float) -> float:
    """Give d_1, d_2, ...: Abramowitz and Stegun 26.5.8."""
    half, odd = divmod(term, 2)
    if odd:
        return -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
    return half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
