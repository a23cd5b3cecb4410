"""The allocation that everything else is compared with."""

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts


@allocation(conserves_mass=True, keeps_sign=True, paper="DeepSeekMath, arXiv:2402.03300")
def even(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Give every token its completion's advantage.

        A[i, t] = A_i

    Args:
        rollouts: uses `advantages`, dimensionless.

    Returns:
        Allocation (B, T), the advantage on every counted token.

    Degenerate cases: a group without reward variance has A = 0, and so has every token in it.
    Deviation: none.

    Example:
        >>> two = Rollouts.from_lists([1, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> even(two)
        tensor([[ 1.,  0.],
                [-1., -1.]])

    Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.2.
    """
    return torch.where(rollouts.mask, rollouts.advantages[:, None], 0.0)
