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


def gini(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Say how unequally |credit| is spread over the n counted tokens.

        Σ_j Σ_k | |C_j| - |C_k| | / (2 n Σ_k |C_k|)

    0 when all have the same |credit|, 1 - 1/n when one has it all, and 0 when there is no credit.
    """
    size, order = credit[rollouts.mask].abs().sort()
    times = rollouts.window_count[:, None].expand_as(rollouts.mask)[rollouts.mask][order]
    rank = times.cumsum(0)  # of the last copy of each token
    sizes, total = times * size, times.sum()
    if not sizes.sum() > 0:
        return 0.0
    spread = (sizes * (2 * rank - times - total)).sum() / (sizes.sum() * total)
    return float(spread.clamp(min=0))  # rounding


def zero_share(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Give the share of counted tokens whose credit is exactly zero; 0 without counted tokens."""
    return _share((credit == 0) & rollouts.mask, rollouts.mask, rollouts)


def sign_flip_rate(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Give the share of tokens that `even` would push the other way.

        share of  sign C[i, t] = -sign A_i  among the counted tokens with A_i ≠ 0

    0 when no completion has an advantage. A token without credit is not flipped.
    """
    signed = rollouts.mask & (rollouts.advantages != 0)[:, None]
    flipped = signed & (credit.sign() * rollouts.advantages.sign()[:, None] < 0)
    return _share(flipped, signed, rollouts)


def mass_by_position(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> list[float]:
    """Give the share of |credit| in each tenth of a completion, the first tokens first.

        decile[i, t] = ⌊10 · position[i, t] / L_i⌋

    Ten numbers that sum to 1, or zeros when there is no credit. Under `even` they are uneven where
    completions have fewer than ten tokens: compare with what `even` gives on the same rollouts.
    """
    decile = 10 * rollouts.position // rollouts.mask.sum(dim=1, keepdim=True).clamp(min=1)
    size = credit.abs()
    return [_share(size * (decile == k), size, rollouts) for k in range(10)]


def mass_by_length(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> list[float]:
    """Give the share of |credit| in each quarter of the window's completions, the shortest first.

    The quarters are cut at the quartiles of `L_i`; a completion as long as a quartile belongs below
    it, so equally long completions are all in the first. Four numbers that sum to 1, or zeros when
    there is no credit.
    """
    used = rollouts.lengths.float().repeat_interleave(rollouts.window_count)
    if not used.numel():
        return [0.0] * 4
    quartiles = used.quantile(used.new_tensor([0.25, 0.5, 0.75]))
    quarter = torch.bucketize(rollouts.lengths.float(), quartiles)[:, None]
    size = credit.abs()
    return [_share(size * (quarter == k), size, rollouts) for k in range(4)]


def mass_before_decided(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Give the share of |credit| on tokens up to and including the one that settled the reward.

        Σ |C[i, t]|, t < max_k decided[i, k]  /  Σ |C|

    The reward is settled with the last of its functions; those of weight 0 do not count. What is
    left lies on tokens that could not change it any more. 0 when there is no credit.

    Raises:
        ValueError: if the rollouts lack `decided`.
    """
    if rollouts.decided is None:
        raise ValueError("rollouts.decided is None; expected (B, K), see `Rollouts`.")
    counts = rollouts.decided.new_tensor([weight != 0 for weight in rollouts.reward_weights])
    settled = (rollouts.decided * counts).amax(dim=1, keepdim=True)
    before = torch.arange(credit.shape[1], device=credit.device) < settled
    return _share(credit.abs() * before, credit.abs(), rollouts)


def norm_ratio(
    credit: Float[Tensor, "B T"], rollouts: Rollouts, even_credit: Float[Tensor, "B T"]
) -> float:
    """Compare the size of the credit with that of `even` under the same aggregation.

        √( Σ C² / Σ C_even² )

    An estimate of the ratio of their gradient norms that needs no model: it is that ratio where the
    tokens' score vectors ∇ log π are orthogonal and equally long, and each row is used at most
    once. Real score vectors are neither. 0 when `even` gives no credit.
    """
    return math.sqrt(_share(credit.square(), even_credit.square(), rollouts))


def _share(part: Tensor, whole: Tensor, rollouts: Rollouts) -> float:
    """Divide two sums over the window; nothing is no share of nothing."""
    total = rollouts.window_sum(whole.sum(dim=1))
    return float(rollouts.window_sum(part.sum(dim=1)) / total) if total > 0 else 0.0


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


def summary(
    credit: Float[Tensor, "B T"],
    rollouts: Rollouts,
    midpoint: float,
    even_credit: Float[Tensor, "B _"] | None = None,
) -> dict[str, float]:
    """Collect what the trainer logs as `credit/*`.

    Args:
        credit: the window's credit.
        rollouts: the window.
        midpoint: see `dead_groups`.
        even_credit: what `even` gives under the same aggregation, per token or per row; None for
            a strategy without an aggregation, which has no `norm_ratio`.

    Returns:
        Name -> number; `before_decided` only where the rollouts have `decided`.
    """
    credit = torch.where(rollouts.mask, credit, 0.0)
    found = {
        **mass(credit, rollouts),
        "effective_tokens": effective_tokens(credit, rollouts),
        "gini": gini(credit, rollouts),
        "zero_share": zero_share(credit, rollouts),
        "sign_flip_rate": sign_flip_rate(credit, rollouts),
        **_numbered("position", mass_by_position(credit, rollouts)),
        **_numbered("length", mass_by_length(credit, rollouts)),
        **dead_groups(rollouts, midpoint),
    }
    if rollouts.decided is not None:
        found["before_decided"] = mass_before_decided(credit, rollouts)
    if even_credit is not None:
        even_credit = torch.where(rollouts.mask, even_credit, 0.0)
        found["norm_ratio"] = norm_ratio(credit, rollouts, even_credit)
    return found


def _numbered(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}_{number}": value for number, value in enumerate(values, start=1)}
