"""Rewards that the policy itself implies: how far it has moved from the reference."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.allocations.baselines import group_sum, scored
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(needs=["old_logps", "ref_logps"], linear=False, paper="after SPRO, arXiv:2507.01551")
def implicit(rollouts: Rollouts, *, beta: float = 0.05) -> Float[Tensor, "B T"]:
    """Add to the advantage how much more the policy has come to prefer this prefix than others'.

        A[i, t] = A_i + beta · (c[i, t] - mean_{j in g} c[j, t])
        c[i, t] = Σ_{u ≤ t} (log π_u - log π_ref,u)

    The mean is over the members of the group that have a t-th counted token: steps are compared
    with steps as far from the prompt. c is the implicit process reward of DPO and PRIME: after
    training by a reward it tells what the policy has learnt to be good, without a reward model.

    Beware: it rewards being unlike the reference, where a KL term punishes that, and teaches
    the policy what it believes already. Groups of equal rewards are taught, too. The expected
    update is not the gradient of the reward.

    Args:
        rollouts: uses `advantages` (dimensionless), `old_logps`, `ref_logps` (nats), `group`, and
            `rewards` to see abstentions. All members of a group take part, whichever optimizer step
            they are trained on.
        beta: weight of a nat, 0 or more.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Raises:
        CreditError: if beta is negative or not finite.

    Degenerate cases: where the policy is the reference, as before the first step, this is `even`,
    and so is what only one member has come to. A completion that every function abstained from gets
    0 and is in no mean.
    Deviation: the paper was not read, only ports of it; hence not under its name.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 1], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=2, scale_rewards="none")
        >>> policy, reference = Tensor([[-1.0, -1.0]] * 2), Tensor([[-3.0, -1.0], [-1.0, 0.0]])
        >>> implicit(replace(two, old_logps=policy, ref_logps=reference), beta=0.1)  # c: 2, 2 and 0
        tensor([[ 0.6000,  0.5000],
                [-0.6000,  0.0000]])

    Source: after Fei et al. 2025, SPRO, arXiv:2507.01551; Cui et al. 2025, PRIME, arXiv:2502.01456.
    """
    if not 0 <= beta < math.inf:
        raise CreditError(f"beta is {beta:g}, expected a finite number, 0 or more.")
    policy, reference = rollouts.old_logps, rollouts.ref_logps
    assert policy is not None  # both are in `needs`
    assert reference is not None
    pool = scored(rollouts)
    takes_part, place = rollouts.mask & pool[:, None], rollouts.position
    cumulative = torch.where(takes_part, policy.double() - reference.double(), 0.0).cumsum(dim=1)

    def over_group(values: Tensor) -> Tensor:
        by_place = torch.zeros_like(cumulative).scatter_add(1, place, values * takes_part)
        return group_sum(by_place, rollouts.group).gather(1, place)

    mean = over_group(cumulative) / over_group(torch.ones_like(cumulative)).clamp(min=1)
    landed = rollouts.advantages[:, None] + beta * (cumulative - mean).to(rollouts.advantages)
    return torch.where(takes_part, landed, 0.0)
