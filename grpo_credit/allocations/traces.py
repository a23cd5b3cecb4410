"""Weights from the place in the completion alone."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo_credit.registry import allocation
from grpo_credit.rollouts import Rollouts
from grpo_credit.strategy import CreditError

# What a trace adds up: the powers of the tokens before a token, and of those after it.
_ENDS = {"late": (0, 1), "early": (1, 0), "both": (1, 1)}


@allocation(conserves_mass=True, keeps_sign=True, paper="GRPO-λ, arXiv:2510.00194")
def trace(
    rollouts: Rollouts,
    *,
    decay: float = 0.99,
    floor: float = 0.0,
    ends: Literal["late", "early", "both"] = "late",
) -> Float[Tensor, "B T"]:
    """Let credit fade with the distance from the end of the completion.

        A[i, t] = A_i · w[t] · L_i / Σ w,  w[t] = max(decay^(L_i - 1 - t), floor)

    t counts counted tokens. That is the λ-return of a reward at the end, decay = γλ. The last
    (1 + decay) / (1 - decay) tokens, 199 by default, are all that effectively learns: a completion
    of 2,000 tokens hardly touches its beginning. A floor, or "both", lets it.

    Args:
        rollouts: uses `advantages` (dimensionless) and the mask.
        decay: factor per token, above 0, to 1.
        floor: the smallest weight, as a part of the largest, 0 to 1.
        ends: `"late"` as above; `"early"` fades with the distance from the first token, decay^t;
            `"both"` adds the two powers up.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's, and its tokens sum to
        L_i · A_i.

    Raises:
        CreditError: if an option is out of its range.

    Degenerate cases: with decay = 1 or floor = 1 this is `even`.
    Deviation: the paper's weights are not normalised, so that long completions learn almost
    nothing there; it clamps negative advantages at -0.1, which is left out.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> trace(two, decay=0.5)  # 3 · (1/4, 1/2, 1) / (7/4)
        tensor([[ 1.0000,  0.0000,  0.0000],
                [-0.4286, -0.8571, -1.7143]])

    Source: Parthasarathi, Reymond et al. 2025, GRPO-λ, arXiv:2510.00194.
    """
    if not 0 < decay <= 1:
        raise CreditError(f"decay is {decay:g}, expected above 0, to 1.")
    if not 0 <= floor <= 1:
        raise CreditError(f"floor is {floor:g}, expected 0 to 1.")
    before = rollouts.position.to(rollouts.advantages.dtype)
    after = rollouts.lengths[:, None] - 1 - before
    early, late = _ENDS[ends]
    weight = torch.where(rollouts.mask, early * decay**before + late * decay**after, 0.0)
    weight = torch.maximum(weight, floor * weight.amax(dim=1, keepdim=True))
    return rollouts.advantages[:, None] * mean_one(weight, rollouts.mask)


def mean_one(weights: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Scale weights so that they average 1 over the counted tokens of each row.

        w[i, t] · L_i / Σ_s w[i, s]

    Args:
        weights: nonnegative.
        mask: True for counted tokens.

    Returns:
        Weights (B, T), 0 where the mask is False; 1 on every counted token of a row whose weights
        are all 0.
    """
    counted = torch.where(mask, weights, 0.0)
    total = counted.sum(dim=1, keepdim=True)
    return torch.where(total > 0, counted * mask.sum(dim=1, keepdim=True) / total, mask.to(weights))
