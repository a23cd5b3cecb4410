"""Every reward function's own advantage, on the tokens that the function names."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts


@allocation(needs=["spans"], linear=False, paper="after GDPO, arXiv:2601.05242")
def spans(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Land each reward function's own advantage on the tokens that it names.

        A[i, t] = Σ_k w_k · A^k_i · ([t in S_ik] · L_i / |S_ik|, or 1 if S_ik is empty)

    S_ik are the counted tokens that function k names in completion i, w_k its weight, and A^k its
    own group-relative advantage (`group_advantages`, divided as `scale_rewards` says). A format
    reward then teaches the format's tokens and an answer reward the answer's, neither pays for the
    other's mistakes, and none is drowned by another of a wider range. The mass that a function
    brings to a completion, L_i · w_k · A^k_i, is the same wherever it lands, so a function that
    names one token of a long completion pushes that token very hard; `spans@0.5,even@0.5` softens
    it. What a function does not name learns nothing from it, even where it caused what is named:
    spans say where a reward was read, not why.

    Args:
        rollouts: uses `spans`, `rewards_per_func` and `reward_weights` (dimensionless),
            `reward_names`, `group` and `scale_rewards`; not `advantages`. Means and standard
            deviations are over all rows at hand, which are whole generation batches.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Degenerate cases: a function that names no counted token of a completion lands there evenly. One
    that abstains, or gives a whole group the same reward, adds nothing. With one function of weight
    1 that names every token, or none, this is `even`.
    Deviation: GDPO sums the functions' advantages per completion and normalises the sums over the
    batch (mean and standard deviation), as TRL's `multi_objective_aggregation="normalize_then_sum"`
    does. Here the parts stay apart and are not normalised again: K functions that agree make an
    advantage K times as large. TRL divides by the group's standard deviation there whatever
    `scale_rewards` says; this rule follows it.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 4], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, scale_rewards="none")
        >>> last = two.mask & (two.position == two.lengths[:, None] - 1)
        >>> spans(replace(two, spans={"reward/end": last}))  # ±0.5 · L_i on one token
        tensor([[ 0.,  1.,  0.,  0.],
                [ 0.,  0.,  0., -2.]])

    Source: the normalisation per function of Liu et al. 2026, GDPO, arXiv:2601.05242.
    """
    return sum(
        (
            _advantages(rollouts, k)[:, None] * _weights(rollouts, name)
            for k, name in enumerate(rollouts.reward_names)
        ),
        torch.zeros_like(rollouts.mask, dtype=rollouts.advantages.dtype),
    )


def _advantages(rollouts: Rollouts, k: int) -> Float[Tensor, " B"]:
    # In float32 the mean of equal rewards is off by a rounding error; 1 / (0 + 1e-4) blows it up.
    rewards = rollouts.rewards_per_func[:, k].double()
    own = group_advantages(rewards, rollouts.group, rollouts.scale_rewards, rollouts.generation)
    return rollouts.reward_weights[k] * own.to(rollouts.advantages)


def _weights(rollouts: Rollouts, name: str) -> Float[Tensor, "B T"]:
    named = _named(rollouts, name)
    lands = torch.where(named.any(dim=1, keepdim=True), named, rollouts.mask)
    return lands * (rollouts.lengths[:, None] / lands.sum(dim=1, keepdim=True).clamp(min=1))


def _named(rollouts: Rollouts, name: str) -> Bool[Tensor, "B T"]:
    named = torch.zeros_like(rollouts.mask)
    for span, tokens in (rollouts.spans or {}).items():
        if span.startswith(f"{name}/"):
            named = named | tokens
    return named & rollouts.mask
