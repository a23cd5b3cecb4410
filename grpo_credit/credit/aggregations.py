"""How completions and tokens weigh against each other: one function per denominator.

Each returns the weight of a counted token of completion i, constant along the completion. All
totals are the window's (all ranks, all accumulation steps), so a gradient does not depend on how
the window is cut into micro-batches.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.allocations.baselines import group_sum
from grpo_credit.credit.registry import aggregation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@aggregation(
    trl="dr_grpo", verl="loss_agg_mode=seq-mean-token-sum-norm", paper="Dr. GRPO, arXiv:2503.20783"
)
def uniform(rollouts: Rollouts, *, limit: int | None = None) -> Float[Tensor, ""]:
    """Weigh every token of every completion by the same constant.

        g = 1 / (N · L_max)

    Long completions weigh more in proportion to their length; nothing else distinguishes tokens.
    On-policy it differs from `seq` only by the constant 1 / L_max, which an optimizer such as Adam
    hardly sees: compare the two as ratios (token-level against sequence-level), not as credit.

    Args:
        rollouts: uses `max_completion_length` (tokens) and `num_completions`.
        limit: L_max, in tokens, 1 or more; by default the length limit of the run, which supervised
            training without padding has not.

    Returns:
        One weight for all, per token.

    Raises:
        CreditError: if `limit` is less than 1.

    Degenerate cases: a fully masked row counts in N and has no token to weigh.
    Deviation: none in the aggregation; the paper also drops the standard deviation from the
    advantage, which is TRL's `scale_rewards="none"`. verl's `seq-mean-token-sum-norm` has no 1/N
    (January 2026).

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> float(uniform(two))
        0.125

    Source: Liu et al. 2025, Dr. GRPO, arXiv:2503.20783, algorithm 1 (`MAX_TOKENS` is L_max).
    """
    if limit is not None and limit < 1:
        raise CreditError(f"limit is {limit}, expected at least 1 token.")
    return 1 / (rollouts.num_completions * (limit or rollouts.max_completion_length))


@aggregation(
    trl="grpo", verl="loss_agg_mode=seq-mean-token-mean", paper="DeepSeekMath, arXiv:2402.03300"
)
def length(rollouts: Rollouts) -> Float[Tensor, "B 1"]:
    """Weigh every completion the same; its tokens share the weight.

        g[i] = 1 / (N · L_i)

    Length bias: a token of a short completion is pushed harder than one of a long completion, so
    short right answers and long wrong ones are favoured against their contraries.

    Args:
        rollouts: uses `lengths` (tokens) and `num_completions`.

    Returns:
        Weights (B, 1), per token.

    Degenerate cases: a fully masked row counts in N, as in TRL (verl leaves it out); its length is
    taken as 1.
    Deviation: none.

    Example:
        >>> two = Rollouts.from_lists([1, 4], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> length(two).flatten()
        tensor([0.5000, 0.1250])

    Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 3.
    """
    return 1 / (rollouts.num_completions * rollouts.lengths.clamp(min=1))[:, None]


@aggregation(trl="luspo", verl="loss_agg_mode=seq-mean-token-sum", paper="LUSPO, arXiv:2602.05261")
def seq(rollouts: Rollouts) -> Float[Tensor, ""]:
    """Treat the completion as one action: its log-probability is the sum over its tokens.

        g = 1 / N

    With unscaled advantages (`scale_rewards="none"`) this is REINFORCE with a group baseline: the
    expected on-policy update is (G - 1)/G times the gradient of the expected reward. Of the
    aggregations here only `uniform`, which is `seq` / L_max, is proportional to it, too. In
    `CreditGRPOTrainer` `seq` goes with the sequence-level ratio and clip by default.

    Args:
        rollouts: uses `num_completions`.

    Returns:
        One weight for all, per token.

    Degenerate cases: a fully masked row counts in N, as in TRL (verl leaves it out), and has no
    token to weigh.
    Deviation: the clip range stays TRL's `epsilon`; the paper's is 2e-3 / 2.5e-3, which matters
    only off-policy.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> float(seq(two))
        0.5

    Source: Williams 1992 (REINFORCE); LUSPO, arXiv:2602.05261.
    """
    return 1 / rollouts.num_completions


@aggregation(trl="dapo", verl="loss_agg_mode=token-mean", paper="DAPO, arXiv:2503.14476")
def dapo(rollouts: Rollouts) -> Float[Tensor, ""]:
    """Put all tokens of the window into one sum, over their count.

        g = 1 / Σ_j L_j

    A window of long completions takes smaller steps per token than one of short completions. That
    is a bias, as the count depends on the completions themselves; it shrinks as windows grow.

    Args:
        rollouts: uses `num_tokens`.

    Returns:
        One weight for all, per token.

    Degenerate cases: a window without a counted token has weight 1 and no token to weigh.
    Deviation: the sum runs over the window (as TRL's and verl's code), not over each prompt's
    group (as the paper's equation can be read).

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> float(dapo(two))
        0.25

    Source: Yu et al. 2025, DAPO, arXiv:2503.14476, eq. 12.
    """
    return 1 / rollouts.num_tokens


@aggregation(paper="ScaleRL, arXiv:2510.13786")
def prompt(rollouts: Rollouts) -> Float[Tensor, "B 1"]:
    """Weigh every prompt the same; all tokens of its group share the weight.

        g[i] = 1 / (P · Σ_{j in group of i} L_j)

    Within a group this is `dapo`, between groups `length`: a prompt whose completions are long
    counts no more than one whose completions are short.

    Args:
        rollouts: uses `lengths` (tokens), `group`, `window_count` and `num_prompts`.

    Returns:
        Weights (B, 1), per token.

    Degenerate cases: a group without a counted token counts in P. A group that is spread over
    several optimizer steps is in each of them a prompt with the members that are there.
    Deviation: none.

    Example:
        >>> four = Rollouts.from_lists([1, 3, 2, 6], [1.0, 0.0, 1.0, 0.0], num_generations=2,
        ...                            max_completion_length=6)
        >>> prompt(four).flatten()  # 1 / (2 · 4) and 1 / (2 · 8)
        tensor([0.1250, 0.1250, 0.0625, 0.0625])

    Source: Khatri et al. 2025, ScaleRL, arXiv:2510.13786, prompt-average loss aggregation.
    """
    tokens = _window_sum_over(rollouts.group, rollouts.lengths, rollouts).clamp(min=1)
    return 1 / (rollouts.num_prompts * tokens)[:, None]


@aggregation(paper="VL-Norm, arXiv:2509.07558")
def delta_l(rollouts: Rollouts, *, alpha: float = 1.0) -> Float[Tensor, "B 1"]:
    """Weigh completions by a negative power of their length.

        g[i] = L_i^-α / Σ_j L_j^-α

    If the variance of a completion's gradient grows with its length, α = 1 has the least variance
    of all weights that sum to 1; α = 0 is `seq`. The paper takes 1 for a short task, 0.75 for
    mathematics. With α = 1 this is `length` times the harmonic mean of the window's lengths.

    Args:
        rollouts: uses `lengths` (tokens) and `window_count`.
        alpha: exponent, 0 to 10; beyond that the shortest completion takes all.

    Returns:
        Weights (B, 1), per token.

    Raises:
        CreditError: if alpha is out of its range.

    Degenerate cases: a fully masked row is left out of the sum, where it would be the shortest of
    all; `seq` counts it in N. With equal lengths this is `seq` for every α.
    Deviation: the paper has a constant factor 1/M more, which only scales the learning rate (its
    code takes M = L_max), and sums over the batch at hand; here j runs over the window.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> delta_l(two).flatten()  # 1 / (1 + 1/3) and 1/3 of it
        tensor([0.7500, 0.2500])

    Source: He et al. 2025, ΔL Normalization, arXiv:2509.07558, the minimum-variance weights.
    """
    if not 0 <= alpha <= 10:
        raise CreditError(f"alpha is {alpha:g}, expected 0 to 10.")
    lengths = rollouts.lengths.double().clamp(min=1)  # 10,000^-10 is no float32
    weight = torch.where(rollouts.lengths > 0, lengths**-alpha, 0.0)
    total = rollouts.window_sum(weight)
    return torch.where(total > 0, weight / total, 0.0)[:, None].to(rollouts.advantages)


@aggregation(sign_free=False, paper="Balanced Aggregation, arXiv:2605.04077")
def balanced(rollouts: Rollouts) -> Float[Tensor, "B 1"]:
    """Average the tokens of good and bad completions apart, then weigh both by their number.

        g[i] = (k_s / G) / (P · T_s),  s = sign of A_i

    k_s completions of the group have the sign s, with T_s tokens together; G is their number over
    all signs. If wrong answers are longer than right ones, `dapo` and `seq` push down more than
    up. Here the net push Σ_i g[i] · L_i · A_i of a group is 0 if completions of one sign have equal
    advantages, as with binary rewards; and unlike in `length`, all tokens of a sign weigh the same.

    Args:
        rollouts: uses the signs of `advantages`, `lengths` (tokens), `group`, `window_count` and
            `num_prompts`. Subsets are those of each group, as in the paper, not of the window.

    Returns:
        Weights (B, 1), per token. They depend on which advantages have the same sign.

    Degenerate cases: completions with A_i = 0 are a third subset, so that the tokens of every group
    weigh 1/P together, also in the KL term; a group without signal is weighed as by `prompt`. A
    fully masked row counts in k_s. An allocation may give a token another sign than its
    completion's advantage; the subset is the completion's.
    Deviation: the paper's formula is of one group; here every group of the window weighs the same.

    Example:
        >>> three = Rollouts.from_lists([2, 1, 3], [1.0, 0.0, 0.0], num_generations=3,
        ...                             max_completion_length=4, advantages=[2.0, -1.0, -1.0])
        >>> balanced(three).flatten()  # 1/3 over 2 tokens, 2/3 over 4
        tensor([0.1667, 0.1667, 0.1667])

    Source: Zeng et al. 2026, Balanced Aggregation, arXiv:2605.04077, section 3.
    """
    one = torch.ones_like(rollouts.advantages)
    group = rollouts.group.unique(return_inverse=True)[1]
    subset = 3 * group + rollouts.advantages.sign().long()
    members = _window_sum_over(subset, one, rollouts)
    share = members / _window_sum_over(group, one, rollouts).clamp(min=1)
    tokens = _window_sum_over(subset, rollouts.lengths, rollouts).clamp(min=1)
    return (share / (rollouts.num_prompts * tokens))[:, None]


@aggregation(paper="λ-GRPO, arXiv:2510.06870")
def softmax_length(rollouts: Rollouts, *, lam: float) -> Float[Tensor, "B 1"]:
    """Weigh completions by a softmax of their standardised length within the group.

        g[i] = G · softmax(h^λ)_i / Σ_j L_j,  h = 1 + z / 9,  z = (L - mean) / std over the group

    λ > 0 favours the tokens of the longer members of a group, λ < 0 those of the shorter ones;
    λ = 0 is `dapo`.

    Args:
        rollouts: uses `lengths` (tokens), `group`, `window_count` and `num_tokens`.
        lam: the exponent λ, -100 to 100; beyond that one completion takes all.

    Returns:
        Weights (B, 1), per token. Within a group they average to that of `dapo`.

    Raises:
        CreditError: if lam is out of its range.

    Degenerate cases: a group of equal lengths is weighed as by `dapo`. A fully masked row is no
    member. h is at least 1/9, which takes 66 members to reach.
    Deviation: the paper learns λ along with the policy; here it is fixed. Σ_j L_j runs over the
    window.

    Example:
        >>> four = Rollouts.from_lists([3, 7, 5, 9], [1.0, 0.0, 1.0, 0.0], num_generations=4,
        ...                            max_completion_length=9)
        >>> 24 * softmax_length(four, lam=5.0).flatten()
        tensor([0.4860, 1.0120, 0.6570, 1.8450])

    Source: λ-GRPO, arXiv:2510.06870, learnable token preferences.
    """
    if not -100 <= lam <= 100:
        raise CreditError(f"lam is {lam:g}, expected -100 to 100.")
    member = (rollouts.lengths > 0) & (rollouts.window_count > 0)

    def over_group(per_row: Tensor) -> Tensor:
        return _window_sum_over(rollouts.group, torch.where(member, per_row, 0.0), rollouts)

    lengths = rollouts.lengths.double()  # h^λ may leave float32
    size = over_group(torch.ones_like(lengths)).clamp(min=1)
    centred = lengths - over_group(lengths) / size
    std = (over_group(centred**2) / (size - 1).clamp(min=1)).sqrt()
    z = torch.where(std > 0, centred / std, 0.0)
    power = (1 + z / 9).clamp(min=1 / 9) ** lam
    weight = (power - _largest(power, member, rollouts)).clamp(max=0).exp()
    share = weight / over_group(weight).clamp(min=1)
    return (size * share / rollouts.num_tokens)[:, None].to(rollouts.advantages)


def _largest(
    per_row: Float[Tensor, " B"], member: Bool[Tensor, " B"], rollouts: Rollouts
) -> Float[Tensor, " B"]:
    """Take the largest value among the members of a row's group; -inf if it has none."""
    index = rollouts.group.unique(return_inverse=True)[1]
    values = per_row.masked_fill(~member, -math.inf)
    return torch.full_like(values, -math.inf).scatter_reduce(0, index, values, "amax")[index]


def _window_sum_over(
    part: Int[Tensor, " B"], per_row: Float[Tensor, " B"], rollouts: Rollouts
) -> Float[Tensor, " B"]:
    """Sum one number per completion over those of the same part that the window trains on."""
    return group_sum(per_row * rollouts.window_count, part)
