"""Weights from how likely each token was, alone or together with other things about it."""

import math
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.allocations.entropy import most_uncertain
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


@allocation(needs=["old_logps"], keeps_sign=True, paper="SPO, arXiv:2505.23564, its mask")
def prob_mask(rollouts: Rollouts, *, below: float = 0.9) -> Float[Tensor, "B T"]:
    """Credit only the tokens that the policy was not sure of.

        A[i, t] = A_i · [π[i, t] < below]

    Tokens that were all but certain decide nothing. This is the mask of SPO, without its values of
    segments; as a linear rule it may follow others: `tree_td+prob_mask`.

    Args:
        rollouts: uses `advantages` (dimensionless) and `old_logps` (nats).
        below: probability from which a token gets nothing, above 0.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Nothing is conserved.

    Raises:
        CreditError: if below is not above 0.

    Degenerate cases: above 1 this is `even`. A completion of certain tokens gets nothing.
    Deviation: which tokens count hangs on what was written, which is a bias. SPO's code also leaves
    the masked tokens out of the denominator; aggregations here still count them.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> prob_mask(replace(two, old_logps=Tensor([[0.5, 0.95], [1.0, 0.1]]).log()))
        tensor([[ 1.,  0.],
                [ 0., -1.]])

    Source: Guo et al. 2025, Segment Policy Optimization, arXiv:2505.23564, and its code.
    """
    if not below > 0:
        raise CreditError(f"below is {below:g}, expected above 0.")
    assert rollouts.old_logps is not None  # in `needs`
    unsure = rollouts.mask & (rollouts.old_logps.exp() < below)
    return torch.where(unsure, rollouts.advantages[:, None], 0.0)


@allocation(needs=["old_logps"], keeps_sign=True, paper="AR, arXiv:2505.12929")
def prob_weight(rollouts: Rollouts, *, alpha: float = 0.2) -> Float[Tensor, "B T"]:
    """Weigh likely tokens more than unlikely ones.

        A[i, t] = A_i · (α π[i, t] + 1 - α)

    The gradient of log π is the larger the less likely the token was, so that a few unlikely ones
    drown the others; this damps them.

    Args:
        rollouts: uses `advantages` (dimensionless) and `old_logps` (nats).
        alpha: α, how much of the weight follows the probability, 0 (`even`) to 1.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Mass falls by up to α.

    Raises:
        CreditError: if alpha is out of its range.

    Degenerate cases: with alpha = 0, or tokens that were certain, this is `even`.
    Deviation: none. The paper's second method, Lopti, updates unlikely and likely tokens in two
    steps, which is no matter of credit.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 1], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> prob_weight(replace(two, old_logps=Tensor([[0.5, 1.0], [0.25, 1.0]]).log()))
        tensor([[ 0.9000,  1.0000],
                [-0.8500,  0.0000]])

    Source: Yang et al. 2025, Do Not Let Low-Probability Tokens Over-Dominate in RL for LLMs,
    arXiv:2505.12929, Advantage Reweighting, and its code.
    """
    if not 0 <= alpha <= 1:
        raise CreditError(f"alpha is {alpha:g}, expected 0 to 1.")
    assert rollouts.old_logps is not None  # in `needs`
    weight = alpha * rollouts.old_logps.exp() + 1 - alpha
    return torch.where(rollouts.mask, rollouts.advantages[:, None] * weight, 0.0)


@allocation(
    needs=["old_logps", "entropies"],
    linear=False,
    keeps_sign=True,
    paper="after STAPO, arXiv:2602.15620",
)
def spurious(
    rollouts: Rollouts, *, below: float = 0.002, share: float = 0.2
) -> Float[Tensor, "B T"]:
    """Give nothing to unlikely tokens of good completions where the policy was sure of others.

        A[i, t] = A_i · s[i, t] · n / Σ s
        s = 0 where A_i > 0, π[i, t] < below and H[i, t] is not among the top `share`; 1 elsewhere

    Such a token was a slip: it took no part in what made the completion good, inherits its
    advantage all the same, and has the largest gradient of all. They are a few in ten thousand.

    Args:
        rollouts: uses `advantages` (dimensionless), `old_logps` and `entropies` (nats), and
            `window_count`, over whose n counted tokens s averages to 1 after scaling. The entropies
            are compared over all rows at hand, which are whole generation batches.
        below: probability under which a token is unlikely, 0 (`even`) or more.
        share: part of the tokens, those with the most entropy, that are left alone; above 0, to 1.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's.

    Raises:
        CreditError: if an option is out of its range.

    Degenerate cases: with below = 0 or share = 1 this is `even`; so it is for bad completions, up
    to the scale. If every token is silenced, all get 0.
    Deviation: entropies and probabilities are those at generation. Where the paper draws the line
    between low and high entropy is told differently by different readers (the 80th or the 5th
    percentile); here it is an option.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> logps = Tensor([[0.001, 0.5], [0.001, 0.001]]).log()
        >>> sure = Tensor([[0.1, 0.2], [0.1, 2.0]])
        >>> spurious(replace(two, old_logps=logps, entropies=sure))  # 4 tokens, one silenced
        tensor([[ 0.0000,  1.3333],
                [-1.3333, -1.3333]])

    Source: Liu et al. 2026, STAPO, arXiv:2602.15620, as public descriptions give its mask; of the
    paper itself only the beginning could be read.
    """
    if not below >= 0:
        raise CreditError(f"below is {below:g}, expected 0 or more.")
    assert rollouts.old_logps is not None  # in `needs`
    sure = rollouts.mask & ~most_uncertain(rollouts, share)
    slip = sure & (rollouts.advantages[:, None] > 0) & (rollouts.old_logps.exp() < below)
    kept = (rollouts.mask & ~slip).to(rollouts.advantages)
    scale = rollouts.num_tokens / rollouts.window_sum(kept.sum(dim=1)).clamp(min=1)
    return rollouts.advantages[:, None] * kept * scale
