"""Weights from how likely each token was, alone or together with other things about it."""

import math
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(needs=["old_logps"], linear=False, keeps_sign=True, paper="Clip-Cov, arXiv:2505.22617")
def clip_cov(
    rollouts: Rollouts, *, share: float = 2e-4, lower: float = 1.0, upper: float = 5.0
) -> Float[Tensor, "B T"]:
    """Take credit from tokens whose log-probability and advantage are high or low together.

        A[i, t] = A_i · (1 - min(1, max(1, ⌊share · n⌋) / m) [lower < cov[i, t] < upper])
        cov[i, t] = (A_i - mean A) (log π[i, t] - mean log π),  m tokens have lower < cov < upper

    Where both are high together, likely tokens get likelier and entropy falls fastest; the band of
    such tokens is thinned by `share` of all n. Means, n and m are over the counted tokens of the
    window, so that the result does not hang on how it is cut into micro-batches and ranks, which
    per-micro-batch forms do. The paper drops so many of the band at random; here each token of the
    band keeps what that leaves it on average, so that the expected update is the same without the
    draw.

    The paper's other form, KL-Cov, adds a penalty on the change of the tokens with the largest
    covariance. Its gradient is 0 where the policy has not changed, so it is no matter of credit,
    which is the update there.

    Args:
        rollouts: uses `advantages` (dimensionless), `old_logps` (nats) and `window_count`.
        share: part of the counted tokens that loses its credit, at least one
            token; above 0, to 1.
        lower: where the band begins, in nats.
        upper: where it ends, in nats.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Nothing is conserved.

    Raises:
        CreditError: if share is out of its range, or lower is not below upper.

    Degenerate cases: without a token in the band this is `even`; with no more of them than may go,
    they get 0. Where all advantages or all log-probabilities are equal, cov is 0.
    Deviation: expected instead of drawn, see above. Covariances are those at generation; authors'
    and verl's code take the current policy's, and leave out tokens that the clip has stopped.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> logps = Tensor([[0.0, -4.0], [-4.0, 0.0]])  # cov is 2, -2 and 2, -2
        >>> clip_cov(replace(two, old_logps=logps))  # one of the two in the band: half of each
        tensor([[ 0.5000,  1.0000],
                [-0.5000, -1.0000]])

    Source: Cui et al. 2025, The Entropy Mechanism of Reinforcement Learning, arXiv:2505.22617, and
    its code.
    """
    if not 0 < share <= 1:
        raise CreditError(f"share is {share:g}, expected above 0, to 1.")
    if not lower < upper:
        raise CreditError(f"the band is {lower:g} to {upper:g}; expected lower below upper.")
    assert rollouts.old_logps is not None  # in `needs`
    times = rollouts.window_count[:, None] * rollouts.mask.double()
    count = times.sum()

    def centred(values: Tensor) -> Tensor:
        wide = torch.where(rollouts.mask, values.double(), 0.0)
        return wide - (wide * times).sum() / count.clamp(min=1)

    covariance = centred(rollouts.advantages[:, None]) * centred(rollouts.old_logps)
    band = (times > 0) & (lower < covariance) & (covariance < upper)
    # The user's decimal fraction: 0.0002 · 5000 is 1, whatever it is in floats.
    dropped = max(1, math.floor(Fraction(str(share)) * int(count)))
    left = 1 - (dropped / (times * band).sum().clamp(min=1)).clamp(max=1)
    kept = torch.where(band, left, 1.0).to(rollouts.advantages)
    return torch.where(rollouts.mask, rollouts.advantages[:, None] * kept, 0.0)
