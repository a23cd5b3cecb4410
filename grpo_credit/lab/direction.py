"""Where an expected update points, from windows that were all listed or only sampled.

For updates u and the gradient g:

    factor f = <E[u], g> / |g|²    signed cosine = <E[u], g> / (|E[u]| |g|)
    directional error = |E[u] - f g| / |f g| = √(1/cosine² - 1)

The directional error is the tangent of the angle between E[u] and the line through g, so it says
nothing about the length of the step, and nothing about its sign: that is the cosine's.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CONFIDENCE = 1.96  # standard errors: intervals of 95 %
ROUNDING = 1e-9  # relative: an exact figure below it is 0 but for rounding


class Direction(NamedTuple):
    """Where an expected update points.

    Args:
        factor: length of the expected update along the gradient, in gradients.
        factor_error: its standard error; 0 where every window was listed.
        error: directional error; infinite where nothing goes along the gradient.
        low: lower end of its interval, 0 where an unbiased rule could have shown the same.
        high: upper end; `low` where every window was listed.
    """

    factor: float
    factor_error: float
    error: float
    low: float
    high: float

    @property
    def cosine(self) -> float:
        """The signed cosine between expected update and gradient."""
        size = (1 + self.error**2) ** -0.5
        return size if self.factor > 0 else -size

    @property
    def uncertainty(self) -> float:
        """About one standard error of the directional error; of 0 where `low` is 0."""
        return (self.high - self.low) / (2 * CONFIDENCE if self.low else CONFIDENCE)

    @property
    def moves(self) -> bool:
        """Whether a step along the gradient, or against it, was seen at all."""
        return abs(self.factor) > max(CONFIDENCE * self.factor_error, ROUNDING)


def exact_direction(mean: Float[Tensor, " D"], truth: Float[Tensor, " D"]) -> Direction:
    """Compare an expected update that is known exactly with the gradient."""
    factor = mean @ truth / truth.square().sum()
    length = float(factor.abs() * truth.norm())
    across = float((mean - factor * truth).norm())
    error = across / length if length > ROUNDING * float(mean.norm()) else torch.inf
    error = 0.0 if error < ROUNDING else error
    return Direction(float(factor), 0.0, error, error, error)


def paired(
    updates: Float[Tensor, "W D"], yardstick: Float[Tensor, "W D"], expected: Float[Tensor, " D"]
) -> Float[Tensor, "W D"]:
    """Take from updates the noise that they share with another rule of known expectation.

        u' = u - β (s - E[s]),  β = tr Cov[u, s] / tr Cov[s]

    E[u'] = E[u] for any β, and this one leaves the least noise. That β is estimated on the same
    windows shifts the mean by one part in their number, which is less than its own noise.
    """
    noise = yardstick - yardstick.mean(0)
    beta = (updates * noise).sum() / noise.square().sum().clamp(min=torch.finfo().tiny)
    return updates - beta * (yardstick - expected)


def sampled_direction(updates: Float[Tensor, "W D"], truth: Float[Tensor, " D"]) -> Direction:
    """Estimate where the expectation of sampled updates points, without the noise of the sample.

    Let a be the part of u / |f g| across the gradient. A mean over n windows is longer than the
    expectation, by its own noise, so that an unbiased rule would show an error, too. Therefore

        error² = |mean a|² - tr Cov[a] / n = Σ_{v≠w} <a_v, a_w> / (n (n - 1)), at least 0

    whose expectation is |E[a]|². The interval holds those x = error² from which the estimate is
    less than `CONFIDENCE` standard deviations away, with their variance at x:

        2 tr Cov[a]² / n² + 4 x · Var[slope] / n

    `slope` is what one window adds to the error, by its part across (along the mean) and by its
    part along the gradient (through f).
    """
    windows = len(updates)
    along = updates @ truth / truth.square().sum()
    factor = along.mean()
    factor_error = float(along.std() / windows**0.5)
    if not factor:
        return Direction(0.0, factor_error, torch.inf, torch.inf, torch.inf)
    across = (updates - along[:, None] * truth) / (factor.abs() * truth.norm())
    mean = across.mean(0)
    noise, size = across - mean, mean.norm()
    covariance = noise.T @ noise / (windows - 1)
    square = size.square() - covariance.trace() / windows
    slope = noise @ (mean / size.clamp(min=torch.finfo().tiny)) - size * (along / factor - 1)
    wider = 2 * CONFIDENCE**2 * slope.var() / windows
    spread = 2 * CONFIDENCE**2 * covariance.square().sum() / windows**2
    half = (spread + wider * (2 * square.clamp(min=0) + wider)).sqrt()
    ends = torch.stack([square, square + wider - half, square + wider + half]).clamp(min=0).sqrt()
    error, low, high = torch.where(ends < ROUNDING, 0.0, ends).tolist()
    return Direction(float(factor), factor_error, error, low, high)
