"""Weights from how uncertain the policy was at each token."""

import math
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.allocations.baselines import above_mean, group_sum, scored
from grpo_credit.credit.allocations.traces import mean_one
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError

FLOOR = 1e-3  # nats; below it entropies are taken as equal, since 1/H would blow up rounding errors


TASTE = "where the uncertain tokens are a matter of taste and others decide"


@allocation(
    needs=["entropies"],
    keeps_sign=True,
    paper="80/20 rule, arXiv:2506.01939",
    caution=f"it does not learn {TASTE}.",
)
def entropy_top(rollouts: Rollouts, *, share: float = 0.2) -> Float[Tensor, "B T"]:
    """Credit only the tokens at which the policy was most uncertain.

        A[i, t] = A_i · [fewer than share · n of the n counted tokens have more entropy]

    The tokens where a completion could have gone another way learn; those that follow from the ones
    before do not. Long and hesitant completions take a larger part of the quota. Uncertain need not
    be decisive: where filler is a matter of taste it takes the quota, and then this does not learn
    (`lab race`, task `base`: 0.12 of the reward on average, `seq` 0.57).

    Args:
        rollouts: uses `advantages` (dimensionless) and `entropies` (nats). The n tokens are those
            of all rows at hand, which are whole generation batches over all ranks.
        share: part of the tokens that get credit, above 0, to 1.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Nothing is conserved: mass
        falls to about `share`, so the step is smaller than that of `even`.

    Raises:
        CreditError: if share is out of its range.

    Degenerate cases: tokens that tie with the last one that gets in get in too, so at least `share`
    of the tokens get credit; with equal entropies, or share = 1, this is `even`.
    Deviation: the paper's threshold is a quantile of the batch; a quantile between two tokens is
    taken as the upper one. TRL's `top_entropy_quantile` takes one per micro-batch.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> entropy_top(replace(two, entropies=Tensor([[0.1, 2.0], [0.5, 0.3]])), share=0.5)
        tensor([[ 0.,  1.],
                [-1.,  0.]])

    Source: Wang et al. 2025, Beyond the 80/20 Rule, arXiv:2506.01939.
    """
    return torch.where(most_uncertain(rollouts, share), rollouts.advantages[:, None], 0.0)


def most_uncertain(rollouts: Rollouts, share: float) -> Bool[Tensor, "B T"]:
    """Tell the counted tokens than which fewer than `share` of all have more entropy.

    Raises:
        CreditError: if share is out of its range.
    """
    if not 0 < share <= 1:
        raise CreditError(f"share is {share:g}, expected above 0, to 1.")
    assert rollouts.entropies is not None  # in the `needs` of whoever asks
    counted = rollouts.entropies[rollouts.mask]
    if not counted.numel():
        return rollouts.mask
    # The user's decimal fraction: 0.07 · 100 is 7, not the 7.000000000000001 of floats.
    rank = math.ceil(Fraction(str(share)) * counted.numel())
    threshold = counted.kthvalue(counted.numel() + 1 - rank).values
    return rollouts.mask & (rollouts.entropies >= threshold)


@allocation(
    needs=["entropies"],
    conserves_mass=True,
    keeps_sign=True,
    paper="after arXiv:2506.01939",
    caution=f"beta near 1 is worse than even {TASTE}.",
)
def entropy_soft(rollouts: Rollouts, *, beta: float = 0.1) -> Float[Tensor, "B T"]:
    """Shift credit inside a completion towards tokens at which the policy was uncertain.

        A[i, t] = A_i · w · L_i / Σ w,  w = max(0, 1 + β (H[i, t] / mean_i H - 1))

    No token is dropped as long as β ≤ 1, and no completion loses or gains. Where uncertain tokens
    are a matter of taste, beta = 1 is worse than `even` (`lab race`, task `base`: 0.46 of the
    reward on average, `seq` 0.57; 0.54 with the default).

    Args:
        rollouts: uses `advantages` (dimensionless) and `entropies` (nats).
        beta: how much of the weight follows the entropy, 0 or more; with 1 it is proportional, and
            above that the most certain tokens get nothing.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's, and its tokens sum to
        L_i · A_i.

    Raises:
        CreditError: if beta is negative or not finite.

    Degenerate cases: with beta = 0, equal entropies, or none above 0, this is `even`.
    Deviation: the mean is over the completion, not over the batch, so that mass is conserved; it is
    restored where β > 1 clips. Completions that are more uncertain as a whole get no more for it.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> entropy_soft(replace(two, entropies=Tensor([[0.5, 1.5], [1.0, 1.0]])), beta=0.2)
        tensor([[ 0.9000,  1.1000],
                [-1.0000, -1.0000]])

    Source: the selection of Wang et al. 2025, arXiv:2506.01939, made gradual.
    """
    if not 0 <= beta < math.inf:
        raise CreditError(f"beta is {beta:g}, expected a finite number, 0 or more.")
    assert rollouts.entropies is not None  # in `needs`
    entropies = torch.where(rollouts.mask, rollouts.entropies, 0.0).clamp(min=0)
    relative = mean_one(entropies, rollouts.mask)
    weight = (1 + beta * (relative - 1)).clamp(min=0)
    return rollouts.advantages[:, None] * mean_one(weight, rollouts.mask)


@allocation(needs=["entropies"], linear=False, paper="after EMPG, arXiv:2509.09265")
def empg(
    rollouts: Rollouts, *, k: float = 1.0, k_next: float = 1.0, zeta: float = 0.1
) -> Float[Tensor, "B T"]:
    """Weigh turns more where the policy was certain, and reward turns that lead to certainty.

        A[i, t] = B[i, m] - mean B,  B[i, m] = A_i · g(H[i, m]) + zeta · f(H[i, m+1])
        g(H) = exp(-k Ĥ) / mean exp(-k Ĥ),  f(H) = exp(-k_next Ĥ)
        Ĥ = (H - min H) / (max H - min H)

    m is the turn of t, a maximal run of counted tokens; H[i, m] is its mean entropy, and f is 0 for
    the last turn. Certain turns have small gradients: g makes up for that, the opposite of
    `entropy_top`. Means, min and max are over all turns, each once.

    Args:
        rollouts: uses `advantages` (dimensionless), `entropies` (nats), and `rewards` to see
            abstentions. Statistics are over all rows at hand, which are whole generation batches.
        k: how sharply a turn's weight falls with its entropy.
        k_next: how sharply the bonus falls with the entropy of the next turn.
        zeta: the bonus of a turn that the most certain turn follows.

    Returns:
        Allocation (B, T), dimensionless, signed; over all turns it averages to 0.

    Raises:
        CreditError: if an option is not finite.

    Degenerate cases: with equal entropies and without a next turn this is `even` less the mean. A
    completion that every function abstained from gets 0 and is in no statistics.
    Deviation: none in the formulas; turns are told by tool outputs, not by a template's markers.
    The bonus favours turns because there are more of them, and the mean that is subtracted is a
    bias: the expected update is not the gradient of the reward.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 1], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> turn = torch.tensor([[True, False, True], [True, False, False]])
        >>> torn = Tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> empg(replace(two, mask=turn, entropies=torn), k=0.0)  # the last turn is the certain one
        tensor([[ 0.7333,  0.0000,  0.6333],
                [-1.3667,  0.0000,  0.0000]])

    Source: Wang et al. 2025, EMPG, arXiv:2509.09265, eqs. 7, 8 and 10 to 12 as the authors' page
    gives them.
    """
    for name, value in (("k", k), ("k_next", k_next), ("zeta", zeta)):
        if not math.isfinite(value):
            raise CreditError(f"{name} is {value:g}, expected a finite number.")
    turn, counted = rollouts.turn, rollouts.mask & scored(rollouts)[:, None]
    relative, there = _relative_by_turn(rollouts, turn, counted)
    certain = (-k * relative).exp()
    gain = certain / certain[there].mean()
    follows = pad(torch.where(there, (-k_next * relative).exp(), 0.0), (-1, 1))
    modulated = rollouts.advantages[:, None] * gain + zeta * follows
    centred = (modulated - modulated[there].mean()).to(rollouts.advantages)
    return torch.where(counted, centred.gather(1, turn), 0.0)


def _relative_by_turn(
    rollouts: Rollouts, turn: Int[Tensor, "B T"], counted: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """Scale the mean entropy of each turn to 0 for the least and 1 for the most; tell who is one.

    In float64, as nearly equal entropies are told apart.
    """
    assert rollouts.entropies is not None  # in `needs`
    none = torch.zeros(len(turn), int(turn.max()) + 1, dtype=torch.float64, device=turn.device)
    tokens = none.scatter_add(1, turn, counted.double())
    there = tokens > 0
    entropies = torch.where(counted, rollouts.entropies.double(), 0.0)
    mean = none.scatter_add(1, turn, entropies) / tokens.clamp(min=1)
    least = torch.where(there, mean, math.inf).min()
    span = torch.where(there, mean, -math.inf).max() - least
    return torch.where(there & (span > 0), (mean - least) / span, 0.0), there


@allocation(needs=["entropies"], linear=False, paper="after GTPO, arXiv:2508.04349")
def gtpo(rollouts: Rollouts, *, alpha1: float = 1.0, alpha2: float = 0.1) -> Float[Tensor, "B T"]:
    """Reward uncertain tokens of right completions more, and punish certain ones of wrong more.

        A[i, t] = (r[i, t] - mean_g) / (std_g + 1e-4),  r = ±(α₁ + α₂ · d_t · x[i, t] / Σ_k x[k, t])

    + and x = H for completions with a reward above their group's mean, - and x = 1/H for the
    others. k runs over the d_t completions of the same side with a t-th counted token. Mean and
    standard deviation are over all counted tokens of the group, both sides together. The paper
    normalises each side by itself; the advantages of the tokens of right completions then sum to
    zero, half of them are punished, and which side was right is lost. That form is not shipped.

    Args:
        rollouts: uses `entropies` (nats), `rewards`, `group` and `scale_rewards`; not
            `advantages`. Statistics are over all rows at hand, which are whole generation batches.
        alpha1: what a side gets for its outcome, 0 or more.
        alpha2: what it shares out by entropy, 0 or more.

    Returns:
        Allocation (B, T), dimensionless. A token of a right completion can get the wrong sign only
        where the right ones have more than 1/2 + α₁ / (2α₁ + 2α₂) of the group's tokens (95 % by
        default), and conversely.

    Raises:
        CreditError: if an option is negative or not finite.

    Degenerate cases: a group without a counted token on both sides gets 0; completions that no
    function scored are on neither side and get 0.
    Deviation: normalised jointly, see above. Rewards are reduced to right and wrong (the paper's
    are binary). Entropies below 1e-3 nats are taken as 1e-3. `std` follows `scale_rewards`.

    Example:
        >>> from dataclasses import replace
        >>> three = Rollouts.from_lists([1, 1, 1], [1.0, 1.0, 0.0], num_generations=3,
        ...                             max_completion_length=4, scale_rewards="none")
        >>> uncertain = Tensor([[3.0], [1.0], [0.5]])
        >>> gtpo(replace(three, entropies=uncertain))  # r = 1.15, 1.05, -1.1; mean 11/30
        tensor([[ 0.7833],
                [ 0.6833],
                [-1.4667]])

    Source: Tan et al. 2025, GTPO and GRPO-S, arXiv:2508.04349, eqs. 3 and 5; in place of eq. 6 the
    joint form. Another method of the name GTPO (Simoni et al. 2025, arXiv:2508.03772) is not this.
    """
    for name, value in (("alpha1", alpha1), ("alpha2", alpha2)):
        if not 0 <= value < math.inf:
            raise CreditError(f"{name} is {value:g}, expected a finite number, 0 or more.")
    right, takes_part = _sides(rollouts)
    outcome = torch.where(right, 1.0, -1.0)[:, None]
    shaped = outcome * (alpha1 + alpha2 * _relative_uncertainty(rollouts, right, takes_part))
    row = takes_part.nonzero()[:, 0]
    landed = torch.zeros_like(shaped)
    landed[takes_part] = group_advantages(
        shaped[takes_part], rollouts.group[row], rollouts.scale_rewards, rollouts.generation[row]
    )
    return landed.to(rollouts.advantages)


def _sides(rollouts: Rollouts) -> tuple[Bool[Tensor, " B"], Bool[Tensor, "B T"]]:
    """Tell right from wrong completions, and mark the tokens of groups that have both."""
    right, known = above_mean(rollouts), scored(rollouts)
    tokens = rollouts.lengths * known
    both = group_sum(tokens * right, rollouts.group) * group_sum(tokens * ~right, rollouts.group)
    return right, rollouts.mask & (known & (both > 0))[:, None]


def _relative_uncertainty(
    rollouts: Rollouts, right: Bool[Tensor, " B"], takes_part: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Divide x = H or 1/H by its mean over the completions of the side at the same position.

    In float64, as the standard deviation of nearly equal numbers is divided by.
    """
    assert rollouts.entropies is not None  # in `needs`
    entropies = rollouts.entropies.double().clamp(min=FLOOR)
    value = torch.where(right[:, None], entropies, 1 / entropies)
    side = 2 * rollouts.group.unique(return_inverse=True)[1] + right

    def over_side(values: Tensor) -> Tensor:
        taking_part = torch.where(takes_part, values, 0.0)
        by_position = torch.zeros_like(values).scatter_add(1, rollouts.position, taking_part)
        return group_sum(by_position, side).gather(1, rollouts.position)

    return value * over_side(torch.ones_like(value)) / over_side(value)
