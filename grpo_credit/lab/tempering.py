"""Temperature on whole strings, exactly: what look-ahead and resampling make of it.

The target is p^{1/τ} over whole strings, normalised. Next-token temperature is another
distribution, as it drops what the rest of the string can still be worth:

    p_τ(v | s) ∝ p(v | s)^{1/τ} Z(s v)        Z(s) = Σ p(continuation | s)^{1/τ} over all of them
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.lab.enumerable import Language, TabularPolicy, going_on, log_probabilities

STEP = 0.25  # of the integral, in log s: the error of this integrand is below 1e-16
NOTHING = 40.0  # e-folds: what is so much smaller is lost in rounding


@dataclass(frozen=True)
class Tempering:
    """Policies to be tempered.

    Args:
        language: what they say.
        reference: log p of each, by event.
        tau: the temperature of whole strings.

    Raises:
        ValueError: if there are fewer than 2 policies, or tau is no finite number above 0.
    """

    language: Language
    reference: Float[Tensor, "R P V"]
    tau: float

    def __post_init__(self) -> None:
        if len(self.reference) < 2 or not 0 < self.tau < math.inf:
            raise ValueError(
                f"tau is {self.tau:g}, for {len(self.reference)} policies; expected a finite "
                "number above 0, and at least 2, for standard errors."
            )

    @cached_property
    def strings(self) -> Float[Tensor, "R M"]:
        """Log p of every string."""
        return log_probabilities(self.language, self.reference)

    @cached_property
    def target(self) -> Float[Tensor, "R M"]:
        """The log of p^{1/τ} / Z."""
        return target(self.strings, self.tau)

    def ahead(self, horizon: int) -> Float[Tensor, "R M"]:
        """Return the log-probability of every string with a look-ahead of some tokens."""
        events = look_ahead(self.language, self.reference, self.tau, horizon)
        return log_probabilities(self.language, events)


def random_policies(
    language: Language, count: int, spread: float, seed: int
) -> Float[Tensor, "R P V"]:
    """Return log p of tabular policies, by event; their seeds are `seed`, `seed` + 1, ...

    Raises:
        ValueError: if there is none, or the spread is below 0.
    """
    if count < 1:
        raise ValueError(f"there are {count} policies, expected at least 1.")
    if spread < 0:
        raise ValueError(f"spread is {spread:g}, expected at least 0.")
    policies = [TabularPolicy(language, seed + number, spread)() for number in range(count)]
    return torch.stack(policies).detach()


class LookAhead(NamedTuple):
    """How distributions compare with a target: means over policies.

    Args:
        itself: KL(target ‖ p), nats.
        horizons: KL(target ‖ .) with a look-ahead of 1, 2, ... tokens, the longest string's last.
        lengths: expected lengths, in tokens, by p, by next-token temperature, and by the target.
    """

    itself: float
    horizons: Sequence[float]
    lengths: Sequence[float]


def measure(problem: Tempering) -> LookAhead:
    """Measure look-ahead against the target; all figures are exact."""
    language = problem.language
    ahead = [problem.ahead(horizon) for horizon in range(1, language.length + 1)]
    distances = [divergence(problem.target, q).mean().item() for q in [problem.strings, *ahead]]
    tokens = language.mask.sum(dim=1).double()
    compared = (problem.strings, ahead[0], problem.target)
    return LookAhead(
        distances[0], distances[1:], [float((q.exp() @ tokens).mean()) for q in compared]
    )


def target(strings: Float[Tensor, "... M"], tau: float) -> Float[Tensor, "... M"]:
    """Return the log of p^{1/τ} / Z from the log-probability of every string, nats."""
    return (strings / tau).log_softmax(dim=-1)


def look_ahead(
    language: Language, logps: Float[Tensor, "... P V"], tau: float, horizon: int
) -> Float[Tensor, "... P V"]:
    """Return next-token log-probabilities that look some tokens ahead, nats.

        q(v | s) ∝ p(v | s)^{1/τ} Z_{h-1}(s v)        Z_h(s) = Σ p(next h tokens | s)^{1/τ}

    A horizon of 1 is next-token (myopic) temperature; one of the longest length is the target. It
    is where long-horizon temperature scaling ends with chunks of h tokens (arXiv:2302.03686), but
    for its clamp.
    """
    scaled = going_on(logps) / tau
    worth = torch.zeros_like(scaled[..., 0])
    for _ in range(horizon - 1):
        worth = (scaled + worth[..., language.successors]).logsumexp(dim=-1)
    return (scaled + worth[..., language.successors]).log_softmax(dim=-1)[..., :-1, :]


def divergence(p: Float[Tensor, "... M"], q: Float[Tensor, "... M"]) -> Float[Tensor, "..."]:
    """Return KL(p ‖ q) of log-probabilities of strings, nats; not below 0 by rounding."""
    return (p.exp() * (p - q)).sum(dim=-1).clamp(min=0)


def resampled(
    proposal: Float[Tensor, " M"], weight: Float[Tensor, " M"], samples: int
) -> Float[Tensor, " M"]:
    """Return what comes of drawing `samples` strings and keeping one by its weight, log.

        q(x) = K p(x) w(x) E[1 / (w(x) + Σ of K - 1 others' weights)]
        E[1 / (w + W)] = ∫ e^{-s w} E[e^{-s w'}]^{K-1} ds,  s > 0

    The integral is taken in log s, where the trapezoidal rule is as exact as the numbers are.

    Args:
        proposal: log-probability of every string.
        weight: its log-weight, in any unit.
        samples: K, at least 1.
    """
    weight = weight - weight.max()
    last = math.log(750) - float(weight.min())  # e^-750 is 0
    s = torch.arange(-NOTHING, last, STEP, dtype=weight.dtype).exp()
    decay = (-s[:, None] * weight.exp()).exp()
    others = (decay @ proposal.exp()) ** (samples - 1)
    return proposal + weight + (samples * STEP * (s * others) @ decay).log()
