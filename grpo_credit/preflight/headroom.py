"""How much a rule that knows where credit belongs could save of the steps of `seq`.

Bound and estimate are told apart. Both are of a reward that the completion decides: where a judge
wavers there is more to save. `grpo_credit.credit.headroom` has the equations.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grpo_credit.credit.headroom import (
    CURVATURE,
    effective_tokens,
    even_stakes,
    least_stakes,
    predicted_gain,
)
from grpo_credit.preflight.sample import Sample

LITTLE = 1.2  # a gain that is no reason to choose a rule


@dataclass(frozen=True)
class Headroom:
    """What a sample says about how much credit can help.

    Args:
        tokens: of a completion on average.
        uncertain: how many of them were open, Σ_t (1 - Σ_v π_v²).
        most: T_eff at most, wherever the reward is decided.
        guessed: T_eff if what is at stake at a token goes with its uncertainty.
        low: variance of one completion's `seq` gradient over the squared mean, at least: two
            standard errors below what was measured.
        noise: the same, measured; infinite where no common direction was seen.
        high: two standard errors above.
    """

    tokens: float
    uncertain: float
    most: float
    guessed: float
    low: float
    noise: float
    high: float

    @property
    def bound(self) -> float:
        """How many times fewer steps than `seq` any rule could need, however noisy a step is."""
        return math.sqrt(self.most)

    def gain(self, batch: float, noise: float) -> float:
        """Predict how many times fewer steps perfect credit needs than `seq`.

        Args:
            batch: completions of an optimizer step.
            noise: of one completion, as `low`, `noise` or `high`.
        """
        if math.isinf(noise):
            return math.sqrt(self.guessed)
        return predicted_gain(noise / batch, noise / batch / self.guessed)

    @property
    def enough(self) -> float:
        """The batch from which on the predicted gain is at most `LITTLE`; 0 where it always is.

        (1/2 + v/N) / (1/2 + v/(N T)) = LITTLE²
        """
        excess = 1 - LITTLE**2 / self.guessed
        return max(0.0, excess) * self._seen / (CURVATURE * (LITTLE**2 - 1))

    @property
    def _seen(self) -> float:
        return self.low if math.isinf(self.noise) else self.noise


def headroom(sample: Sample) -> Headroom | None:
    """Judge a sample; None where the model was not asked, or no group has rewards that differ."""
    rewards = torch.tensor(sample.groups, dtype=torch.float64)
    if not sample.uncertainty or any(reward.failures for reward in sample.rewards):
        return None
    scored = ~rewards.isnan().any(1)
    if not scored.any() or float(rewards[scored].std(1).max()) == 0:
        return None
    rows = [torch.from_numpy(row).double() for row in sample.uncertainty]
    uncertainty = pad_sequence(rows, batch_first=True).view(*rewards.shape, -1)[scored]
    most, guessed = _tokens(rewards[scored], uncertainty)
    return Headroom(
        float(np.mean([len(row) for row in rows])),
        float(uncertainty.sum(-1).mean()),
        most,
        min(most, guessed),
        *_noise(sample.products, sample.unit),
    )


def _tokens(
    rewards: Float[Tensor, "P G"], uncertainty: Float[Tensor, "P G T"]
) -> tuple[float, float]:
    """Return T_eff at most, and where what is at stake goes with uncertainty."""
    size = rewards.shape[1]
    deviation = (rewards - rewards.mean(1, keepdim=True)) * math.sqrt(size / (size - 1))
    spread = float(rewards.max() - rewards.min())
    most, guessed = (
        effective_tokens(
            torch.full((rewards.numel(),), 1 / rewards.numel(), dtype=torch.float64),
            deviation.flatten(),
            uncertainty.flatten(0, 1),
            stakes.flatten(0, 1),
        )
        for stakes in (
            least_stakes(rewards.var(1), uncertainty, spread),
            even_stakes(rewards.var(1), uncertainty),
        )
    )
    return most, guessed


def _noise(products: np.ndarray, unit: int) -> tuple[float, float, float]:
    """Return n (E|g_u|² - |g|²) / |g|² of gradients of n completions each: low, as seen, high.

    |g|² is the mean product of two different ones, its error that of a jackknife over them.
    """
    count = len(products)
    if count < 3:
        return 0.0, math.inf, math.inf
    signal = _mean_product(products)
    kept = (np.arange(count) != left for left in range(count))
    without = np.array([_mean_product(products[np.ix_(k, k)]) for k in kept])
    error = math.sqrt((count - 1) * float(without.var()))
    energy = float(products.trace()) / count

    def relative(of: float) -> float:
        return unit * max(0.0, energy / of - 1) if of > 0 else math.inf

    found = relative(signal) if signal > 2 * error else math.inf
    return relative(signal + 2 * error), found, relative(signal - 2 * error)


def _mean_product(products: np.ndarray) -> float:
    count = len(products)
    return float(products.sum() - products.trace()) / (count * (count - 1))


# ---- in words ---------------------------------------------------------------------------------


def told(found: Headroom, batch: float, *, tools: bool = False) -> list[str]:
    """Say in lines what optimizer steps of so many completions can gain by better credit.

    With `tools`, rules are named that accept them: nothing is settled before the loop has ended.
    """
    return [
        f"headroom: {found.uncertain:.1f} of the {found.tokens:.0f} tokens of a completion are "
        "uncertain, Σ (1 - Σπ²); credit cannot matter at the others",
        f"headroom in steps, next to seq: bound x {_short(found.bound)} (any rule, any batch); "
        f"estimate {_estimate(found, batch)} in a batch of {batch:,.0f}",
        f"headroom: {_noise_line(found)}",
        f"headroom: {_advice(found, batch, tools)}",
    ]


def _estimate(found: Headroom, batch: float) -> str:
    low, high = (_short(found.gain(batch, noise)) for noise in (found.low, found.high))
    between = f"x {low}" if low == high else f"x {low} to {high}"
    if math.isinf(found.noise):
        return between
    return f"x {_short(found.gain(batch, found.noise))} ({between})"


def _noise_line(found: Headroom) -> str:
    stops = f"noise stops mattering (x {LITTLE} or less)"
    if found.guessed <= LITTLE**2:
        return "about one token is at stake, so that noise does not matter in any batch"
    if math.isinf(found.noise):
        return (
            f"the sample's gradients have no common direction that can be seen; {stops} in a "
            f"batch of {found.enough:,.0f} at the earliest"
        )
    return f"{stops} in a batch of about {found.enough:,.0f} (gradients of the last layer)"


def _advice(found: Headroom, batch: float, tools: bool) -> str:
    most = min(found.bound, found.gain(batch, found.high))
    if most <= LITTLE:
        return f"at most x {_short(most)}: choose a rule by other reasons"
    rules = "turns, gigpo and spans" if tools else "automaton, known and spans"
    return (
        f"up to x {_short(most)}: rules that know where a reward is decided come nearest, such as "
        f"{rules}; see `grpo-credit list`"
    )


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
