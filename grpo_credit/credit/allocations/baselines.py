"""Baselines other than the group's mean: what a reward is compared with.

Each rule here takes the place of TRL's advantage: it starts from the rewards, in their own units,
and divides by no standard deviation. Baselines are over whole groups, over all ranks, whichever
optimizer step a member is trained on in.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(linear=False, verl="adv_estimator=rloo", paper="RLOO, arXiv:2402.14740")
def loo(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Compare a completion with the mean of the others in its group.

        A[i, t] = R_i - mean of R_j over the other group members j

    The baseline does not depend on the completion itself, so the expected gradient is that of the
    reward. With `scale_rewards="none"` it is TRL's advantage times G / (G - 1).

    Args:
        rollouts: uses `rewards` and `group`.

    Returns:
        Allocation (B, T), in units of reward, the same on every counted token of a completion.

    Degenerate cases: completions that no function scored are left out and get 0; so does the only
    scored member of a group. Fully masked completions count in the mean.
    Deviation: none; unlike TRL's default, the advantage is not divided by the standard deviation.

    Example:
        >>> three = Rollouts.from_lists([1, 2, 1], [1.0, 0.0, 0.5], num_generations=3,
        ...                             max_completion_length=4)
        >>> loo(three)  # 1 - 1/4, 0 - 3/4, 1/2 - 1/2
        tensor([[ 0.7500,  0.0000],
                [-0.7500, -0.7500],
                [ 0.0000,  0.0000]])

    Source: Ahmadian et al. 2024, RLOO, arXiv:2402.14740.
    """
    mean = leave_one_out_mean(rollouts.rewards, scored(rollouts), rollouts.group)
    return _compared(rollouts, mean[:, None])


@allocation(linear=False, verl="adv_estimator=opo", paper="OPO, arXiv:2505.23585")
def opo(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Compare a completion with the length-weighted mean of its group.

        A[i, t] = R_i - Σ_j L_j · R_j / Σ_j L_j

    This baseline has the least variance if the squared norm of a completion's gradient grows with
    its length: long completions, which are noisier, draw it towards themselves.

    Args:
        rollouts: uses `rewards`, `group` and `lengths` (tokens).

    Returns:
        Allocation (B, T), in units of reward, the same on every counted token of a completion.

    Degenerate cases: completions that no function scored are left out and get 0; the only scored
    member of a group gets 0; fully masked completions weigh nothing.
    Deviation: none in the baseline, which contains the completion itself; the paper also takes one
    optimizer step per generation batch. The weight that a completion has in its own baseline hangs
    on its length, which is a bias: on five patterns (docs/lab.md) a directional error of 0.02 to
    0.06, with 14 % less to 5 % more variance than `seq`. Not before `decided` (`opo+decided`):
    the tail moves L_i.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> opo(two)  # the baseline is (1 · 1 + 3 · 0) / 4
        tensor([[ 0.7500,  0.0000,  0.0000],
                [-0.2500, -0.2500, -0.2500]])

    Source: Hao et al. 2025, OPO, arXiv:2505.23585, the optimal baseline for ‖∇ log π‖² ∝ length.
    """
    lengths = rollouts.lengths * scored(rollouts)
    total = group_sum(lengths * rollouts.rewards.nan_to_num(nan=0.0), rollouts.group)
    baseline = total / group_sum(lengths, rollouts.group).clamp(min=1)
    return _compared(rollouts, baseline[:, None])


@allocation(linear=False, paper="after AsymRE, arXiv:2506.20520")
def asymre(rollouts: Rollouts, *, shift: float = -0.1) -> Float[Tensor, "B T"]:
    """Compare a completion with a baseline below or above the mean of its group.

        A[i, t] = R_i - (mean_g + shift)

    A baseline below the mean lifts good completions more than it pushes bad ones down. That is
    meant for completions that an older policy wrote, whose failures tell less than their successes.
    On-policy a constant in the baseline leaves the expected update under `seq` as it is, (n - 1)/n
    times the gradient of the expected reward for n completions per prompt, and adds variance.

    Args:
        rollouts: uses `rewards` and `group`.
        shift: what is added to the mean, in units of reward; below 0 in the paper.

    Returns:
        Allocation (B, T), in units of reward, the same on every counted token of a completion.

    Raises:
        CreditError: if shift is not finite.

    Degenerate cases: completions that no function scored are left out and get 0. A group of equal
    rewards gets -shift, as does the only scored member of one. With shift = 0 and
    `scale_rewards="none"` this is TRL's advantage.
    Deviation: none in the advantage; the paper has no ratio and no clip.

    Example:
        >>> two = Rollouts.from_lists([1, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> asymre(two)
        tensor([[ 0.6000,  0.0000],
                [-0.4000, -0.4000]])

    Source: Arnal et al. 2025, AsymRE, arXiv:2506.20520, and Trinity-RFT's `asymre`.
    """
    if not math.isfinite(shift):
        raise CreditError(f"shift is {shift:g}, expected a finite number.")
    known = scored(rollouts)
    total = group_sum(rollouts.rewards.nan_to_num(nan=0.0), rollouts.group)
    mean = total / group_sum(known.to(total), rollouts.group).clamp(min=1)
    return _compared(rollouts, (mean + shift)[:, None])


@allocation(linear=False, paper="W-REINFORCE, arXiv:2506.01347")
def wreinforce(
    rollouts: Rollouts, *, positive: float = 0.1, above: float = 0.5
) -> Float[Tensor, "B T"]:
    """Push wrong completions down by 1, and right ones up by less.

        A[i, t] = positive if R_i > above, otherwise -1

    Nothing is compared with the group. Learning from failures keeps completions apart that learning
    from successes would make alike; with positive = 0 it is the only thing done (NSR), and a large
    `positive` is nearly learning from successes alone (PSR). On-policy and under `seq` the expected
    update is (1 + positive) times the gradient of the chance to be right, whatever `positive`: the
    weights are a baseline of 1 / (1 + positive). What they change is the noise of a step, and what
    the clipping and later epochs on the same completions make of it.

    Args:
        rollouts: uses `rewards`.
        positive: what a right completion gets, 0 or more.
        above: a completion is right if its reward exceeds this.

    Returns:
        Allocation (B, T), dimensionless, the same on every counted token of a completion.

    Raises:
        CreditError: if positive is negative or not finite.

    Degenerate cases: completions that no function scored get 0. A group of which all are wrong is
    pushed down as a whole, where GRPO has no signal.
    Deviation: the paper's rewards are 1 and -1; here any reward is reduced to these.

    Example:
        >>> two = Rollouts.from_lists([1, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> wreinforce(two)
        tensor([[ 0.1000,  0.0000],
                [-1.0000, -1.0000]])

    Source: Zhu et al. 2025, The Surprising Effectiveness of Negative Reinforcement in LLM
    Reasoning, arXiv:2506.01347, and its code.
    """
    if not 0 <= positive < math.inf:
        raise CreditError(f"positive is {positive:g}, expected a finite number, 0 or more.")
    gets = rollouts.advantages.new_tensor(positive)
    landed = torch.where(solved(rollouts, above), gets, -1.0)
    counted = rollouts.mask & scored(rollouts)[:, None]
    return torch.where(counted, landed[:, None], 0.0)


@allocation(
    needs=["old_logps", "sum_sq_probs"], linear=False,
    verl="adv_estimator=optimal_token_baseline", paper="OTB, arXiv:2602.07078",
)  # fmt: skip
def token_baseline(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Compare a completion, token by token, with the members that have come as far.

        A[i, t] = R_i - Σ_j R_j · W[j, t] / Σ_j W[j, t],  W[j, t] = Σ_{s ≤ t} (1 - 2π + Σ_v π_v²)

    Sums over j run over the group members with a t-th counted token; W is the squared norm of the
    gradient of log π with respect to the logits, summed up to that token, so members that have
    been uncertain draw the baseline towards their own reward.

    Args:
        rollouts: uses `rewards`, `group`, `old_logps` (nats) and `sum_sq_probs`.

    Returns:
        Allocation (B, T), in units of reward.

    Degenerate cases: completions that no function scored are left out and get 0; so does the only
    member of a group with a token. Where nobody was uncertain, W = 0, the baseline is the mean.
    Deviation: where a completion is the last one left, it keeps the baseline of the last position
    that two members reach (verl has baseline 0 there, so that A = R_i; the formula gives A = 0).
    Positions count counted tokens only, so tool outputs do not shift them. The baseline contains
    the completion itself, which is a bias: on five patterns (docs/lab.md) a directional error of
    0.02 to 0.05, with 3 % less to 12 % more variance than `seq`.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([1, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> sure, torn = torch.full((2, 2), 0.5).log(), torch.tensor([[0.25, 1], [0.75, 1]])
        >>> token_baseline(replace(two, old_logps=sure, sum_sq_probs=torn))  # W = 1/4 and 3/4
        tensor([[ 0.7500,  0.0000],
                [-0.2500, -0.2500]])

    Source: Li et al. 2026, The Optimal Token Baseline, arXiv:2602.07078, with its logit-gradient
    proxy.
    """
    assert rollouts.old_logps is not None  # as declared above
    assert rollouts.sum_sq_probs is not None
    takes_part = rollouts.mask & scored(rollouts)[:, None]
    energy = squared_score(rollouts.old_logps, rollouts.sum_sq_probs)
    weights = torch.where(takes_part, energy, 0.0).cumsum(dim=1)
    baseline = _baseline_by_position(rollouts, takes_part, weights)
    return _compared(rollouts, baseline.gather(1, rollouts.position))


def _baseline_by_position(
    rollouts: Rollouts, takes_part: Bool[Tensor, "B T"], weights: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Weigh the rewards of a row's group at each counted position; the last two's is carried on."""
    rewards = rollouts.rewards.nan_to_num(nan=0.0)[:, None]
    index = rollouts.group.unique(return_inverse=True)[1]

    def by_position(values: Tensor) -> Tensor:  # (groups, positions)
        there = torch.zeros_like(weights).scatter_add(1, rollouts.position, values * takes_part)
        return weights.new_zeros(len(index), weights.shape[1]).index_add(0, index, there)

    mass, members = by_position(weights), by_position(torch.ones_like(weights))
    weighted = by_position(weights * rewards) / mass
    mean = by_position(rewards.expand_as(weights)) / members.clamp(min=1)
    baseline = torch.where(mass > 0, weighted, mean)[index]
    shared = (members >= 2).sum(dim=1)[index]  # positions that at least two members reach
    place = torch.arange(weights.shape[1], device=index.device).minimum(shared[:, None] - 1)
    alone = (shared == 0)[:, None]
    return torch.where(alone, rewards, baseline.gather(1, place.clamp(min=0)))


# ---- shared with the other rules that read rewards --------------------------------------------


def squared_score(
    logps: Float[Tensor, "..."], sum_sq_probs: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Return the squared norm of the gradient of log π(o) with respect to the logits.

        ‖∂ log π(o) / ∂ logits‖² = 1 - 2 π(o) + Σ_v π(v)²  >= (1 - π(o))²

    Args:
        logps: log π(o) of the tokens that were written, nats.
        sum_sq_probs: Σ_v π(v)² at their places.
    """
    return (1 - 2 * logps.exp() + sum_sq_probs).clamp(min=0)


def scored(rollouts: Rollouts) -> Bool[Tensor, " B"]:
    """Tell the completions that at least one reward function scored."""
    return ~rollouts.rewards.isnan()


def solved(rollouts: Rollouts, above: float) -> Bool[Tensor, " B"]:
    """Tell the completions whose reward exceeds a number; NaN does not."""
    return rollouts.rewards > above


def above_mean(rollouts: Rollouts) -> Bool[Tensor, " B"]:
    """Tell the completions whose reward exceeds their group's mean by more than rounding."""
    rewards = rollouts.rewards.nan_to_num(nan=0.0)
    members = group_sum(scored(rollouts).to(rewards), rollouts.group)
    rounding = 1e-6 * group_sum(rewards.abs(), rollouts.group)
    return rewards * members > group_sum(rewards, rollouts.group) + rounding


def leave_one_out_mean(
    rewards: Float[Tensor, " B"], pool: Bool[Tensor, " B"], group: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Average the rewards of the other members of a row's group that are in the pool.

        m_i = (Σ_j R_j - R_i) / (n - 1)

    A row outside the pool has nothing to leave out; where nobody else is, m_i = R_i.
    """
    own = torch.where(pool, rewards, 0.0)
    others = group_sum(pool.to(own.dtype), group) - pool.to(own.dtype)
    mean = (group_sum(own, group) - own) / others.clamp(min=1)
    return torch.where(others > 0, mean, rewards)


def group_sum(values: Float[Tensor, "B ..."], group: Int[Tensor, " B"]) -> Float[Tensor, "B ..."]:
    """Sum over a row's group; every member gets the sum."""
    index = group.unique(return_inverse=True)[1]
    return torch.zeros_like(values).index_add(0, index, values)[index]


def _compared(rollouts: Rollouts, baseline: Tensor) -> Float[Tensor, "B T"]:
    """Subtract a baseline (B, 1) or (B, T) from the rewards; unscored completions get 0."""
    compared = rollouts.mask & scored(rollouts)[:, None]
    return torch.where(compared, rollouts.rewards[:, None] - baseline, 0.0)
