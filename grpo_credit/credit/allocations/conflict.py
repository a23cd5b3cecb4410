"""Tokens that good and bad completions of a group share at the same place."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(linear=False, keeps_sign=True, paper="after GTPO, arXiv:2508.03772")
def conflict(rollouts: Rollouts, *, weight: float = 2.0) -> Float[Tensor, "B T"]:
    """Protect the openings and endings that good and bad completions share.

        A[i, t] = A_i · weight^(F + E) if A_i > 0,  A_i · [F + E = 0] otherwise

    F is 1 if t and every counted token before it is in conflict: the same id stands at the same
    counted position in a completion of the group whose advantage has the other sign. E is the same
    from the end backwards. What all must write, such as a format's tags, is pushed up and down at
    once; here bad completions leave it alone, and good ones reinforce it.

    Args:
        rollouts: uses `completion_ids`, `group` and `advantages` (dimensionless).
        weight: what a shared token of a good completion gets, 0 or more.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. The mass of a group leans
        towards good completions.

    Raises:
        CreditError: if weight is negative or not finite.

    Degenerate cases: where no token is shared from either end this is `even`. A token in both runs
    counts twice.
    Deviation: of the paper's parts this is the mask alone, as the authors' code builds it. They
    also divide by the number of conflicts of a completion, leave out completions of high entropy,
    and subtract a tenth of it from the advantage. Positions count counted tokens, so tool outputs
    do not shift them. `gtpo` is another method of that name.

    Example:
        >>> two = Rollouts.from_lists([3, 4], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0],
        ...                           completion_ids=[[5, 6, 9], [5, 7, 8, 9]])
        >>> conflict(two)  # both begin with 5 and end with 9
        tensor([[ 2.,  1.,  2.,  0.],
                [ 0., -1., -1.,  0.]])

    Source: Simoni et al. 2025, GTPO, arXiv:2508.03772, by the authors' code.
    """
    if not 0 <= weight < math.inf:
        raise CreditError(f"weight is {weight:g}, expected a finite number, 0 or more.")
    mask, advantages = rollouts.mask, rollouts.advantages[:, None]
    from_end = rollouts.lengths.long()[:, None] - 1 - rollouts.position
    opening = _run(mask & ~_shared(rollouts, rollouts.position))
    ending = _run((mask & ~_shared(rollouts, from_end)).flip(1)).flip(1)
    runs = opening.to(advantages) + ending.to(advantages)
    gets = torch.where(advantages > 0, torch.full_like(runs, weight) ** runs, 1.0)
    left_alone = (advantages < 0) & (runs > 0)
    return torch.where(mask & ~left_alone, advantages * gets, 0.0)


def _shared(rollouts: Rollouts, place: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Tell tokens whose id stands at the same place in a completion of each sign of the group."""
    rows, columns = rollouts.mask.shape
    ids = rollouts.completion_ids.long()
    group = rollouts.group.unique(return_inverse=True)[1]
    key = (group[:, None] * columns + place.clamp(min=0)) * (ids.max() + 1) + ids
    index = key.unique(return_inverse=True)[1].flatten()

    def stands(signed: Bool[Tensor, " B"]) -> Bool[Tensor, "B T"]:
        tokens = (rollouts.mask & signed[:, None]).flatten().long()
        return torch.zeros_like(index).index_add(0, index, tokens)[index].view(rows, columns) > 0

    return stands(rollouts.advantages > 0) & stands(rollouts.advantages < 0)


def _run(breaks: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Tell what lies before the first break of each row."""
    return breaks.cumsum(dim=1) == 0
