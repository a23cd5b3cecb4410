"""How completions and tokens weigh against each other: one function per denominator.

Each returns the weight of a counted token of completion i, constant along the completion. All
totals are the window's (all ranks, all accumulation steps), so a gradient does not depend on how
the window is cut into micro-batches.
"""

from jaxtyping import Float
from torch import Tensor

from grpo_credit.registry import aggregation
from grpo_credit.rollouts import Rollouts


@aggregation(trl="dr_grpo", paper="Dr. GRPO, arXiv:2503.20783")
def uniform(rollouts: Rollouts) -> Float[Tensor, ""]:
    """Weigh every token of every completion by the same constant.

        g = 1 / (N · L_max)

    Long completions weigh more in proportion to their length; nothing else distinguishes tokens.
    On-policy it differs from `seq` only by the constant 1 / L_max, which an optimizer such as Adam
    hardly sees: compare the two as ratios (token-level against sequence-level), not as credit.

    Args:
        rollouts: uses `max_completion_length` (tokens) and `num_completions`.

    Returns:
        One weight for all, per token.

    Degenerate cases: a fully masked row counts in N and has no token to weigh.
    Deviation: none in the aggregation; the paper also drops the standard deviation from the
    advantage, which is TRL's `scale_rewards="none"`.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> float(uniform(two))
        0.125

    Source: Liu et al. 2025, Dr. GRPO, arXiv:2503.20783, algorithm 1 (`MAX_TOKENS` is L_max).
    """
    return 1 / (rollouts.num_completions * rollouts.max_completion_length)


@aggregation(trl="grpo", paper="DeepSeekMath, arXiv:2402.03300")
def length(rollouts: Rollouts) -> Float[Tensor, "B 1"]:
    """Weigh every completion the same; its tokens share the weight.

        g[i] = 1 / (N · L_i)

    Length bias: a token of a short completion is pushed harder than one of a long completion, so
    short right answers and long wrong ones are favoured against their contraries.

    Args:
        rollouts: uses `lengths` (tokens) and `num_completions`.

    Returns:
        Weights (B, 1), per token.

    Degenerate cases: a fully masked row counts in N; its length is taken as 1.
    Deviation: none.

    Example:
        >>> two = Rollouts.from_lists([1, 4], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> length(two).flatten()
        tensor([0.5000, 0.1250])

    Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 3.
    """
    return 1 / (rollouts.num_completions * rollouts.lengths.clamp(min=1))[:, None]


@aggregation(trl="luspo", paper="LUSPO, arXiv:2602.05261")
def seq(rollouts: Rollouts) -> Float[Tensor, ""]:
    """Treat the completion as one action: its log-probability is the sum over its tokens.

        g = 1 / N

    With unscaled advantages (`scale_rewards="none"`) this is REINFORCE with a group baseline, and
    the only one of the four whose expected update is proportional to the gradient of the expected
    reward. In `CreditGRPOTrainer` it goes with the sequence-level ratio and clip by default.
    On-policy it is `uniform` times L_max.

    Args:
        rollouts: uses `num_completions`.

    Returns:
        One weight for all, per token.

    Degenerate cases: a fully masked row counts in N and has no token to weigh.
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


@aggregation(trl="dapo", paper="DAPO, arXiv:2503.14476")
def dapo(rollouts: Rollouts) -> Float[Tensor, ""]:
    """Put all tokens of the window into one sum, over their count.

        g = 1 / Σ_j L_j

    A window of long completions takes smaller steps per token than one of short completions.

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
