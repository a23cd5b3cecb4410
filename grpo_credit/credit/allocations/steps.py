"""Rewards of single steps and turns, credited to the tokens that led to them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.allocations.baselines import group_sum, scored
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts


@allocation(needs=["step_rewards"], linear=False, paper="DeepSeekMath, arXiv:2402.03300")
def steps(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Credit a token with the normalised rewards of the steps that end at it or later.

        A[i, t] = Σ_{steps j of i, end(j) ≥ t} (r_j - mean_g) / (std + 1e-4)

    Mean and standard deviation are over all steps of all completions of the group; `std` follows
    `scale_rewards` (`"group"`; over all steps of one generation for `"batch"`; `"none"` does not
    divide). Favours tokens before good steps. More steps make larger sums, and because each step is
    centred, one more step than others take pays r_j - mean_g: where the policy decides how many
    steps there are, that is a bonus or a fine on taking another (not in `turns` and `to_go`).

    Args:
        rollouts: uses `step_rewards` (dimensionless, NaN where no step ends), `group`,
            `scale_rewards`, and `rewards` to see abstentions; not `advantages`. Statistics are over
            all rows at hand, which are whole generation batches.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Degenerate cases: tokens after the last step get 0, and so does a group without two steps or
    with equal ones. A step that ends in a tool's output counts for the tokens before it. A
    completion that every function abstained from gets 0 and is in no mean: a reward that only
    judges steps must return a number (0 will do), not None. With one step per completion that ends
    at its last token and earns the completion's reward, this is `even`.
    Deviation: none.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 1], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, scale_rewards="none")
        >>> nan = float("nan")
        >>> steps(replace(two, step_rewards=torch.tensor([[2.0, 1.0, nan], [0.0, nan, nan]])))
        tensor([[ 1.,  0.,  0.],
                [-1.,  0.,  0.]])

    Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.3.
    """
    rewards = _step_rewards(rollouts)
    ends = ~rewards.isnan()
    row = ends.nonzero()[:, 0]
    normalised = torch.zeros_like(rewards)
    normalised[ends] = group_advantages(
        rewards[ends], rollouts.group[row], rollouts.scale_rewards, rollouts.generation[row]
    )
    return torch.where(rollouts.mask, _to_go(normalised), 0.0).to(rollouts.advantages)


@allocation(needs=["step_rewards"], linear=False, paper="MT-GRPO, arXiv:2505.11821")
def turns(rollouts: Rollouts, *, coef: float = 1.0) -> Float[Tensor, "B T"]:
    """Add to the advantage what the rewards from this turn on have over those of the group.

        A[i, t] = A_i + coef · (G[i, m] - mean_{j in g} G[j, m]) / (std_m + 1e-4)

    m is the turn of t. A turn is a maximal run of counted tokens; a tool's output (not counted)
    separates two turns. G[i, m] is the sum of the step rewards of turn m and later, where a step
    that ends in a tool's output belongs to the turn before it, and G[j, m] = 0 where completion j
    has fewer than m turns. `std_m` is the standard deviation of G[·, m] as `scale_rewards` says.

    Why this form: which baseline is subtracted at turn m does not depend on what the completion
    does from turn m on. With `scale_rewards="none"` and the aggregation `seq`, the expected update
    is exactly (n - 1)/n times the gradient of E[R + coef · Σ turn rewards], n completions per
    prompt. Dividing by a standard deviation reweighs groups and turns, as in GRPO. Centring each
    turn's reward by its turn's mean first and then summing from m on would be biased: how many
    means are subtracted is then up to the policy, a hidden price on every further turn (verl RFC
    7244). Crediting a turn with its own reward alone would hide what it did for later ones.

    Args:
        rollouts: uses `advantages`, `step_rewards` (both dimensionless), `group`, `scale_rewards`,
            and `rewards` to see abstentions. Statistics are over all rows at hand, which are whole
            generation batches.
        coef: weight of the turn rewards against the outcome.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Degenerate cases: without any turn reward this is `even`. A reward before the first turn, at
    masked tokens, counts for nobody. A completion that every function abstained from gets 0 and is
    in no mean.
    Deviation: the paper has one tool call. It adds the group-normalised reward of the first turn to
    the tokens of that turn alone; with rewards in the first turn only, this is the same. The
    authors' code gives a completion that never called the tool the advantage of the sum of both
    rewards; here it is treated like any other.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, scale_rewards="none")
        >>> tool, nan = torch.tensor([[True, False, True]] * 2), float("nan")
        >>> found = torch.tensor([[nan, 4.0, nan], [nan, nan, 2.0]])  # in turn 1; in turn 2
        >>> turns(replace(two, mask=tool, step_rewards=found))  # G: [4, 0] and [2, 2]
        tensor([[ 1.5000,  0.0000, -0.5000],
                [-1.5000,  0.0000,  0.5000]])

    Source: Zeng et al. 2025, MT-GRPO, arXiv:2505.11821; bias: verl RFC 7244.
    """
    turn = _turn(rollouts)
    earned = _step_rewards(rollouts).nan_to_num(nan=0.0)
    per_turn = earned.new_zeros(len(turn), int(turn.max()) + 1).scatter_add(1, turn, earned)
    returns = _to_go(per_turn).masked_fill(rollouts.rewards.isnan()[:, None], torch.nan)
    among = rollouts.group, rollouts.scale_rewards, rollouts.generation
    over_group = [group_advantages(column, *among) for column in returns.T]
    extra = torch.stack(over_group, dim=1).to(rollouts.advantages)
    landed = rollouts.advantages[:, None] + coef * extra.gather(1, turn)
    return torch.where(rollouts.mask, landed, 0.0)


@allocation(needs=["step_rewards"], linear=False, paper="policy gradient, Sutton et al. 1999")
def to_go(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Add to the advantage what is still earned from a token on, over what others still earn.

        A[i, t] = A_i + (1 - 1/n) · (G[i, t] - mean of G[j, t] over the other members j)

    G[i, t] is the sum of the step rewards at token t and later, in their own units; the mean is
    over the members of the group, without i, that have a t-th counted token. That baseline hangs
    on nothing that the completion does from t on, so no step is priced: with
    `scale_rewards="none"` and the aggregation `seq`, the expected update is exactly (n - 1)/n times
    the gradient of E[R + Σ step rewards], n completions per prompt.

    Args:
        rollouts: uses `advantages`, `step_rewards`, `group`, and `rewards` to see abstentions. All
            members of a group take part, whichever optimizer step they are trained on.

    Returns:
        Allocation (B, T), in units of reward, signed.

    Degenerate cases: where nobody else has come as far, the baseline is that of the last token
    which somebody else has; the only one of its group that has a token gets A_i. A completion that
    every function abstained from gets 0, and is in no mean. Without any step reward this is `even`.
    A step that ends in a tool's output counts for the tokens before it.
    Deviation: none.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, scale_rewards="none")
        >>> nan = float("nan")
        >>> earned = torch.tensor([[2.0, nan, 1.0], [nan, 4.0, nan]])
        >>> to_go(replace(two, step_rewards=earned))  # G: [3, 1, 1] and [4, 4]
        tensor([[ 0., -1., -1.],
                [ 0.,  1.,  0.]])

    Source: Sutton, McAllester, Singh, Mansour 1999; the baseline leaves one out as RLOO does.
    """
    earned = _step_rewards(rollouts).nan_to_num(nan=0.0)
    extra = above_others(earned, rollouts, scored(rollouts))
    landed = rollouts.advantages[:, None] + extra.to(rollouts.advantages)
    return torch.where(rollouts.mask, landed, 0.0)


def above_others(
    earned: Float[Tensor, "B T"], rollouts: Rollouts, pool: Bool[Tensor, " B"]
) -> Float[Tensor, "B T"]:
    """Compare what is earned from each token on with the mean of the others; see `to_go`.

    Args:
        earned: at each token, 0 where nothing is.
        rollouts: whose group members are compared, place by counted place.
        pool: which of them take part; the others get 0.
    """
    takes_part, place = rollouts.mask & pool[:, None], rollouts.position

    def by_place(values: Tensor) -> Tensor:
        return torch.zeros_like(earned).scatter_add(1, place, values * takes_part)

    returns, reached = _to_go(earned), by_place(torch.ones_like(earned))
    own = by_place(returns)
    others = group_sum(reached, rollouts.group) - reached
    mean = (group_sum(own, rollouts.group) - own) / others.clamp(min=1)
    last = (others > 0).sum(dim=1, keepdim=True) - 1  # place that somebody else has
    baseline = mean.gather(1, place.minimum(last).clamp(min=0))
    members = group_sum(pool.to(earned), rollouts.group)[:, None]
    compared = (1 - 1 / members.clamp(min=1)) * (returns - baseline)
    return torch.where(takes_part & (last >= 0), compared, 0.0)


def _step_rewards(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Take the steps of scored completions; in float64, for the reason given in `spans`."""
    assert rollouts.step_rewards is not None  # in `needs`
    abstained = rollouts.rewards.isnan()[:, None]
    return rollouts.step_rewards.double().masked_fill(abstained, torch.nan)


def _turn(rollouts: Rollouts) -> Int[Tensor, "B T"]:
    """Number the turns from 1; a tool's output has the number of the turn before it."""
    before = pad(rollouts.mask, (1, -1))
    return (rollouts.mask & ~before).cumsum(dim=1)


def _to_go(values: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
    return values.flip(1).cumsum(dim=1).flip(1)
