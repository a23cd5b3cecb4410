"""Numbers about a credit matrix. Each is a pure function of credit and rollouts.

A row counts as often as it is trained on in the window (`rollouts.window_count`).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.rollouts import Rollouts


def mass(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> dict[str, float]:
    """Sum the credit of the window, by sign.

        mass = Σ C      mass_positive = Σ max(C, 0)      mass_negative = Σ min(C, 0)

    `mass` is the net pressure on log-probabilities: below zero, the step makes what was sampled
    less likely on the whole. Dimensionless.
    """
    per_row = {"": credit, "_positive": credit.clamp(min=0), "_negative": credit.clamp(max=0)}
    return {f"mass{k}": float(rollouts.window_sum(v.sum(dim=1))) for k, v in per_row.items()}


def effective_tokens(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Count the tokens that the credit is spread over.

        (Σ |C|)² / Σ C²

    Equal to the number of counted tokens when all have the same |credit|, 1 when one has it all,
    and 0 when there is no credit.
    """
    first = rollouts.window_sum(credit.abs().sum(dim=1))
    second = rollouts.window_sum(credit.square().sum(dim=1))
    return float(first.square() / second) if second > 0 else 0.0


def zero_share(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Give the share of counted tokens whose credit is exactly zero; 0 without counted tokens."""
    zeros = ((credit == 0) & rollouts.mask).sum(dim=1).to(credit.dtype)
    return float(rollouts.window_sum(zeros) / rollouts.num_tokens)


def dead_groups(rollouts: Rollouts, midpoint: float) -> dict[str, float]:
    """Give the share of groups that have no advantage and so teach nothing.

    A group is dead where no advantage exceeds 1e-6, or where each reward function gives all the
    completions that it scores the same reward (what advantage is left is then float noise). It is
    `low` where its reward lies at or below `midpoint`, otherwise `high`: too hard, or too easy. A
    group in which nothing was scored is low.

    Args:
        rollouts: whole groups; groups outside the window are left out.
        midpoint: what separates low from high, in units of the reward.
    """
    low, high = 0, 0
    groups = rollouts.group[rollouts.window_count > 0].unique()
    for group in groups:
        member = rollouts.group == group
        if _dead(rollouts.advantages[member], rollouts.rewards_per_func[member]):
            scored = rollouts.rewards[member & ~rollouts.rewards.isnan()]
            is_high = scored.numel() > 0 and bool(scored.max() > midpoint)
            high, low = high + is_high, low + (not is_high)
    total = max(1, len(groups))
    return {
        "dead_groups": (low + high) / total,
        "dead_groups_low": low / total,
        "dead_groups_high": high / total,
    }


def _dead(advantages: Float[Tensor, " n"], rewards: Float[Tensor, "n K"]) -> bool:
    spread = rewards.nan_to_num(nan=-math.inf).amax(0) - rewards.nan_to_num(nan=math.inf).amin(0)
    return bool((advantages.abs().max() <= 1e-6) | (spread <= 0).all())  # -inf: never scored


@dataclass
class RewardRange:
    """The rewards seen so far: what is low and what is high for a group without variance."""

    low: float = math.inf
    high: float = -math.inf

    def midpoint(self, rewards: Float[Tensor, " B"]) -> float:
        """Take in new rewards; return the middle of the range, or 0 while all were equal."""
        scored = rewards[~rewards.isnan()]
        if scored.numel():
            self.low = min(self.low, float(scored.min()))
            self.high = max(self.high, float(scored.max()))
        return (self.low + self.high) / 2 if self.low < self.high else 0.0


def summary(credit: Float[Tensor, "B T"], rollouts: Rollouts, midpoint: float) -> dict[str, float]:
    """Collect what the trainer logs as `credit/*`."""
    credit = torch.where(rollouts.mask, credit, 0.0)
    return {
        **mass(credit, rollouts),
        "effective_tokens": effective_tokens(credit, rollouts),
        "zero_share": zero_share(credit, rollouts),
        **dead_groups(rollouts, midpoint),
    }
