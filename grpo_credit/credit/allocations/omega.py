"""Other aims than the expected reward: weights of a group that depend on how many are right."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.allocations.baselines import group_sum, scored, solved
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError

Counts = Float[Tensor, " B"]


@allocation(
    linear=False,
    paper="PKPO, arXiv:2505.15201; after MaxRL, arXiv:2602.02710, and arXiv:2508.10751",
)
def omega(
    rollouts: Rollouts,
    *,
    target: Literal["loglik", "passk", "passk_scaled"] = "loglik",
    k: int = 4,
    above: float = 0.5,
) -> Float[Tensor, "B T"]:
    """Aim at log p or pass@k: groups in which few completions are right weigh more.

        A[i, t] = ω(c) · (y_i - c / n),  y_i = [R_i > above],  c = Σ_j y_j
        "loglik"        ω = n / c                         MaxRL
        "passk"         ω = q · k n / (n - k)             PKPO
        "passk_scaled"  ω = q / √(ρ (1 - ρ))              pass@k training
        q = C(n-c-1, k-1) / C(n-1, k-1),  1 - ρ = q (n - c) / n

    c of the n scored members of the group are right, q is the chance that k - 1 others, drawn from
    a wrong one's group, are all wrong, and ρ the group's unbiased estimate of pass@k. Let p be the
    chance of a right completion. Under `seq` the expected update of "passk" is exactly the gradient
    of pass@k = 1 - (1 - p)^k, and that of "loglik" exactly that of -Σ_{j<n} (1 - p)^j / j, which is
    log p for large n. Neither is the gradient of E[R] (k = 1 is): for one prompt they have its
    direction, but hard prompts count more against easy ones. "passk_scaled" divides by the
    deviation of the best of k as GRPO does, and so has no such gradient.

    Args:
        rollouts: uses `rewards` and `group`; not `advantages`.
        target: which ω.
        k: how many draws of which one must be right, 1 or more; "loglik" does not use it.
        above: a completion is right if its reward exceeds this.

    Returns:
        Allocation (B, T), dimensionless, the same on every counted token of a completion; the
        members of a group sum to 0.

    Raises:
        CreditError: if k is below 1.

    Degenerate cases: a group in which all or none are right gets 0, and so do completions that no
    function scored. A group of n tells of pass@(n - 1) at most: a larger k is taken as n - 1.
    Deviation: rewards are reduced to right and wrong (PKPO has a form for others, too). PKPO's
    reward of a completion is here compared with k / n times ρ of the others, which makes the group
    sum to 0; the paper has k / (n - 1), or the best of k - 1. MaxRL's estimator without a baseline
    is that of the sum up to n; a baseline that is left out where none is right costs a term.

    Example:
        >>> three = Rollouts.from_lists([1, 1, 1], [1.0, 0.0, 0.0], num_generations=3,
        ...                             max_completion_length=4)
        >>> omega(three).flatten()  # 3 · (1 - 1/3), 3 · (0 - 1/3)
        tensor([ 2., -1., -1.])

    Source: Tajwar et al. 2026, MaxRL, arXiv:2602.02710; Walder and Karkhanis 2025, PKPO,
    arXiv:2505.15201, theorem 2; Chen et al. 2025, arXiv:2508.10751, and its code.
    """
    if k < 1:
        raise CreditError(f"k is {k}, expected 1 or more.")
    right, known = solved(rollouts, above).double(), scored(rollouts)
    members, found = (group_sum(each, rollouts.group) for each in (known.double(), right))
    drawn = (members - 1).clamp(min=1, max=k)
    centred = right - found / members.clamp(min=1)
    landed = (OMEGA[target](members, found, drawn) * centred).to(rollouts.advantages)
    return torch.where(rollouts.mask & known[:, None], landed[:, None], 0.0)


def _loglik(members: Counts, found: Counts, _: Counts) -> Counts:
    return members / found.clamp(min=1)


def _passk(members: Counts, found: Counts, drawn: Counts) -> Counts:
    odds = drawn * members / (members - drawn).clamp(min=1)
    return odds * _missed(members, found, drawn)


def _passk_scaled(members: Counts, found: Counts, drawn: Counts) -> Counts:
    missed = _missed(members, found, drawn)
    none = missed * (members - found) / members.clamp(min=1)
    deviation = (none * (1 - none)).clamp(min=0).sqrt()
    return torch.where(deviation > 0, missed / deviation, 0.0)


OMEGA = {"loglik": _loglik, "passk": _passk, "passk_scaled": _passk_scaled}


def _missed(members: Counts, found: Counts, drawn: Counts) -> Counts:
    """Return C(n-c-1, k-1) / C(n-1, k-1), factor by factor, since the binomials overflow."""
    place = torch.arange(1, int(drawn.max()), device=members.device)
    wrong = ((members - found)[:, None] - place).clamp(min=0)
    factors = wrong / (members[:, None] - place).clamp(min=1)
    return torch.where(place < drawn[:, None], factors, 1.0).prod(dim=1)
