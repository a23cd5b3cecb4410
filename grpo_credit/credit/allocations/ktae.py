"""Credit from the token types that the right and the wrong completions of a group use."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.allocations.baselines import above_mean, group_sum, scored
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts

# BM25's constants and the guard against a ratio's zero denominator, as in the authors' code.
BM25_K1, BM25_B, GUARD = 2.0, 0.5, 1e-5


@allocation(linear=False, paper="KTAE, arXiv:2505.16826")
def ktae(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Add to the advantage how much the token's type speaks for a right completion of the group.

        A[i, t] = A_i + tanh(strength · direction / 2)

        strength  = ½ (e^(-2p) + IG), p of Fisher's exact test and the information gain, in bits,
                    of the 2 x 2 table: type present or absent, completion right or wrong
        direction = asin √(share of right completions with the type) - the same of wrong ones
                    + f_right / f_wrong - f_wrong / f_right,  f = 3q / (q + 1 + n / mean n)

    q is the type's share of the n tokens that a class has in the group. No model, no position: the
    type counts wherever it stands. In short completions a type that one class alone uses gets
    almost ±1, however seldom it occurs, as one of the two ratios explodes: names and numbers that
    only say which completion they stand in are credited like causes. What is added does not scale
    with the advantage: with `scale_rewards="none"` it outweighs rewards of small range.

    Args:
        rollouts: uses `completion_ids`, `rewards`, `group`, `truncated` and `advantages`.

    Returns:
        Allocation (B, T), dimensionless, within 1 of the advantage.

    Degenerate cases: a group whose completions are all right or all wrong adds nothing, and neither
    does a type whose p is 1 and whose IG is 0. Completions without a score or a counted token are
    in no table. The last counted token of a completion that was not cut off, its end-of-sequence
    token, is added nothing.
    Deviation: right means a reward above the group's mean; the authors' code, which this follows in
    every constant, takes rewards above 0, and knows the end by its token id. Where p = 1 its share
    of the strength is 0, not e^-2: that code means so too, but misses most such tables, as its p
    in float32 is just beside 1.

    Example:
        >>> four = Rollouts.from_lists([2, 2, 2, 2], [1.0, 1.0, 0.0, 0.0], num_generations=4,
        ...                            max_completion_length=4, advantages=[1.0, 1.0, -1.0, -1.0],
        ...                            completion_ids=[[5, 6], [5, 7], [8, 7], [5, 6]])
        >>> ktae(four)  # 6 and 7 are used alike; 5 speaks for, 8 against
        tensor([[ 1.1567,  1.0000],
                [ 1.1567,  1.0000],
                [-2.0000, -1.0000],
                [-0.8433, -1.0000]])

    Source: Sun et al. 2025, KTAE, arXiv:2505.16826, and its code.
    """
    classes = _right_and_wrong(rollouts)
    counted = rollouts.mask & (classes > 0).any(dim=1, keepdim=True)
    value = torch.zeros_like(counted, dtype=classes.dtype)
    if counted.any():
        types, type_of_token = _token_types(rollouts, classes, counted)
        value[counted] = torch.tanh(_strength(types) * _direction(types) / 2)[type_of_token]
    ends = (rollouts.position + 1 == rollouts.lengths[:, None]) & ~rollouts.truncated[:, None]
    landed = rollouts.advantages[:, None] + torch.where(ends, 0.0, value)
    return torch.where(rollouts.mask, landed, 0.0)


@dataclass(frozen=True)
class TokenTypes:
    """What is counted of each token type of each group; the columns are right and wrong.

    Args:
        present: completions with the type.
        members: completions.
        times: how often the type stands there.
        tokens: counted tokens.
    """

    present: Float[Tensor, "V 2"]
    members: Float[Tensor, "V 2"]
    times: Float[Tensor, "V 2"]
    tokens: Float[Tensor, "V 2"]


# ---- the two factors --------------------------------------------------------------------------


def _strength(types: TokenTypes) -> Float[Tensor, " V"]:
    """Return how far presence and outcome hang together; computed once for equal tables."""
    tables = torch.cat([types.present, types.members], dim=1).long()
    power = (tables.max() + 1) ** torch.arange(4, device=tables.device)
    codes, place = (tables * power).sum(dim=1).unique(return_inverse=True)
    distinct = tables.new_empty(len(codes), 4)
    distinct[place] = tables
    present, members = distinct.cpu().split(2, dim=1)  # not every accelerator has float64
    p = fisher_exact(present, members)
    fisher = torch.where(p < 1 - 1e-9, torch.exp(-2 * p), 0.0)
    strength = (fisher + information_gain(present, members)) / 2
    return strength.to(types.present)[place]


def fisher_exact(present: Int[Tensor, "V 2"], members: Int[Tensor, "V 2"]) -> Float[Tensor, " V"]:
    """Compute the two-sided p-value of Fisher's exact test of each 2 x 2 table.

        p = Σ_k P(k) over all k with P(k) <= P(number of right completions with the type)
        P(k) = C(right, k) · C(wrong, n - k) / C(right + wrong, n),  n = completions with the type

    Probabilities that differ by less than 1e-7 of themselves count as equal.
    """
    right, wrong = members.double()[:, :1], members.double()[:, 1:]
    having = present.double().sum(dim=1, keepdim=True)
    k = torch.arange(int(members.max()) + 1, dtype=torch.float64)
    ways = _log_choose(right, k) + _log_choose(wrong, having - k)
    chance = (ways - _log_choose(right + wrong, having)).exp()
    observed = chance.gather(1, present[:, :1])
    return (chance * (chance <= observed * (1 + 1e-7))).sum(dim=1)


def _log_choose(n: Float[Tensor, "..."], k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return log C(n, k); -inf for k < 0 and k > n, as lgamma is inf at 0, -1, -2, ..."""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def information_gain(
    present: Int[Tensor, "V 2"], members: Int[Tensor, "V 2"]
) -> Float[Tensor, " V"]:
    """Compute what presence tells about the outcome, in bits: H(outcome) - H(outcome | present)."""
    absent = members - present
    left = sum(part.sum(dim=1) * _entropy(part) for part in (present, absent))
    return (_entropy(members) - left / members.sum(dim=1)).clamp(min=0)


def _entropy(counts: Int[Tensor, "V 2"]) -> Float[Tensor, " V"]:
    """Return the entropy in bits of the shares that these counts are; 0 where nothing counts."""
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(dim=1) / math.log(2)


def _direction(types: TokenTypes) -> Float[Tensor, " V"]:
    """Return which outcome the type goes with: arcsine difference plus frequency ratios."""
    angle = (types.present / types.members).sqrt().asin()
    share = types.times / types.tokens
    relative_length = types.tokens / types.tokens.mean(dim=1, keepdim=True)
    frequency = share * (BM25_K1 + 1) / (share + BM25_K1 * (1 - BM25_B + BM25_B * relative_length))
    right, wrong = frequency.unbind(dim=1)
    ratios = right / (wrong + GUARD) - wrong / (right + GUARD)
    return angle[:, 0] - angle[:, 1] + ratios


# ---- counting ---------------------------------------------------------------------------------


def _right_and_wrong(rollouts: Rollouts) -> Float[Tensor, "B 2"]:
    """Mark the completions above their group's mean reward and the others, where both exist."""
    right, member = above_mean(rollouts), scored(rollouts) & rollouts.mask.any(dim=1)
    marks = (torch.stack([right, ~right], dim=1) & member[:, None]).to(rollouts.rewards)
    return marks * (group_sum(marks, rollouts.group) > 0).all(dim=1, keepdim=True)


def _token_types(
    rollouts: Rollouts, classes: Float[Tensor, "B 2"], counted: Bool[Tensor, "B T"]
) -> tuple[TokenTypes, Int[Tensor, " N"]]:
    """Count the token types of each group; also return the number of each counted token's type."""
    rows = len(classes)
    row, ids = counted.nonzero()[:, 0], rollouts.completion_ids[counted].long()
    group = rollouts.group.unique(return_inverse=True)[1]
    key = (group[row] * (rollouts.completion_ids.max() + 1) + ids) * rows + row
    cells, cell, times = key.unique(return_inverse=True, return_counts=True)  # (type, row) pairs
    types, type_of_cell = (cells // rows).unique_consecutive(return_inverse=True)
    member = cells % rows

    def per_type(values: Tensor) -> Tensor:
        return classes.new_zeros(len(types), 2).index_add(0, type_of_cell, values)

    some_member = torch.empty_like(types)
    some_member[type_of_cell] = member
    tokens = classes * rollouts.lengths[:, None]
    return TokenTypes(
        present=per_type(classes[member]),
        members=group_sum(classes, rollouts.group)[some_member],
        times=per_type(classes[member] * times[:, None]),
        tokens=group_sum(tokens, rollouts.group)[some_member],
    ), type_of_cell[cell]
