"""Weights from the place in the completion alone."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(conserves_mass=True, keeps_sign=True, paper="after GRPO-λ, arXiv:2510.00194")
def trace(
    rollouts: Rollouts,
    *,
    decay: float = 0.99,
    style: Literal["recent", "both"] = "recent",
    floor: float = 0.0,
) -> Float[Tensor, "B T"]:
    """Weigh a token by the eligibility that it still has at the tokens from it on.

        A[i, t] = A_i · w[t] · L_i / Σ w,  w[t] = Σ_{s ≥ t} e(s, t)
        e(s, t) = max(decay^(s - t), floor) ("recent"), or also at least decay^t ("both")

    s and t count counted tokens, decay = γλ. GRPO-λ replaces each token's log ratio at s by the sum
    of e(s, t) times those of the tokens t ≤ s, and gives every s the advantage A_i: on-policy, that
    is the weight w[t] on ∇ log π(o_t). A token has more of it the more tokens follow: weights are
    about equal up to the last 1 / (1 - decay) tokens, 100 by default, and fall from there to the
    end. "both" raises the first ones.

    Args:
        rollouts: uses `advantages` (dimensionless) and the mask.
        decay: factor per token, 0 to 1.
        style: which trace.
        floor: the paper's ε: the least that any earlier token is eligible, 0 to 1.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's, and its tokens sum to
        L_i · A_i.

    Raises:
        CreditError: if an option is out of its range.

    Degenerate cases: with decay = 0, "recent" and no floor this is `even`; with decay = 1 or
    floor = 1 a token's weight is the number of tokens from it on.
    Deviation: the paper's weights are not normalised, so that tokens of long completions weigh
    more; it clamps advantages at -0.1 from below; and off-policy it clips the ratio of the whole
    sum, where here each token keeps its own ratio.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> trace(two, decay=0.5)  # 3 · (1 + 1/2 + 1/4, 1 + 1/2, 1) / (17/4)
        tensor([[ 1.0000,  0.0000,  0.0000],
                [-1.2353, -1.0588, -0.7059]])

    Source: Parthasarathi, Reymond et al. 2025, GRPO-λ, arXiv:2510.00194, section 3.2, as public
    descriptions and re-implementations give it; the paper itself could not be read.
    """
    for name, value in (("decay", decay), ("floor", floor)):
        if not 0 <= value <= 1:
            raise CreditError(f"{name} is {value:g}, expected 0 to 1.")
    width = rollouts.mask.shape[1] + 1
    powers = decay ** torch.arange(width, dtype=torch.float64)  # not every accelerator has float64
    least = powers.clamp(min=floor) if style == "both" else torch.full_like(powers, floor)
    decaying = torch.searchsorted(-powers, -least)  # lags at which decay^lag is above the least
    decaying = decaying.to(rollouts.mask.device)[rollouts.position]
    sums = pad(powers.cumsum(0), (1, 0)).to(rollouts.advantages)
    left = rollouts.lengths.long()[:, None] - rollouts.position
    lags = decaying.minimum(left)
    weight = sums[lags] + (left - lags) * least.to(rollouts.advantages)[rollouts.position]
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
