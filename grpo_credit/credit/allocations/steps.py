"""Rewards of single steps and turns, credited to the tokens that led to them."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.allocations.baselines import group_sum, scored
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(
    needs=["step_rewards"], linear=False,
    paper="DeepSeekMath, arXiv:2402.03300; with a temperature after PURE, arXiv:2504.15275",
)  # fmt: skip
def steps(rollouts: Rollouts, *, temperature: float | None = None) -> Float[Tensor, "B T"]:
    """Credit a token with the normalised rewards of the steps that end at it or later.

        A[i, t] = Σ_{steps j of i, end(j) ≥ t} w_j (r_j - mean_g) / (std + 1e-4)
        w_j = 1, or with a temperature T the softmax of -r_j / T over the steps of i

    Mean and standard deviation are over all steps of all completions of the group; `std` follows
    `scale_rewards` (`"group"`; over all steps of one generation for `"batch"`; `"none"` does not
    divide). Favours tokens before good steps. More steps make larger sums, and because each step is
    centred, one more step than others take pays r_j - mean_g: where the policy decides how many
    steps there are, that is a bonus or a fine on taking another (not in `turns` and `to_go`).

    Args:
        rollouts: uses `step_rewards` (dimensionless, NaN where no step ends), `group`,
            `scale_rewards`, and `rewards` to see abstentions; not `advantages`. Statistics are over
            all rows at hand, which are whole generation batches.
        temperature: T, in units of the step rewards, 0 or more; PURE takes 0.1 for rewards from -1
            to 1. None adds the steps up.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Raises:
        CreditError: if the temperature is negative or not finite.

    Degenerate cases: tokens after the last step get 0, and so does a group without two steps or
    with equal ones. A step that ends in a tool's output counts for the tokens before it. A
    completion that every function abstained from gets 0 and is in no mean: a reward that only
    judges steps must return a number (0 will do), not None. With one step per completion that ends
    at its last token and earns the completion's reward, this is `even`. With T = 0 equally bad
    steps share the weight.
    Deviation: none without a temperature. PURE subtracts the mean return of the other completions,
    at every token; here each weighted step is compared with the mean step of the group.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 1], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, scale_rewards="none")
        >>> nan = float("nan")
        >>> steps(replace(two, step_rewards=torch.tensor([[2.0, 1.0, nan], [0.0, nan, nan]])))
        tensor([[ 1.,  0.,  0.],
                [-1.,  0.,  0.]])

    Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, section 4.1.3; Cheng et al. 2025,
    PURE, arXiv:2504.15275, by the authors' code and description.
    """
    if temperature is not None and not 0 <= temperature < math.inf:
        raise CreditError(
            f"temperature is {temperature:g}, expected a finite number, 0 or more, or none."
        )
    rewards = _step_rewards(rollouts)
    ends = ~rewards.isnan()
    row = ends.nonzero()[:, 0]
    normalised = torch.zeros_like(rewards)
    normalised[ends] = group_advantages(
        rewards[ends], rollouts.group[row], rollouts.scale_rewards, rollouts.generation[row]
    )
    if temperature is not None:
        normalised = normalised * _soft_minimum(rewards, temperature)
    return torch.where(rollouts.mask, _to_go(normalised), 0.0).to(rollouts.advantages)


def _soft_minimum(rewards: Float[Tensor, "B T"], temperature: float) -> Float[Tensor, "B T"]:
    """Weigh the steps of each row by softmax(-r / T), of which T = 0 is the limit; NaN gets 0."""
    known = rewards.nan_to_num(nan=math.inf)
    above = known - known.amin(dim=1, keepdim=True)
    weight = torch.where(above > 0, (-above / temperature).exp(), 1.0)  # T = 0: exp(-inf)
    weight = torch.where(rewards.isnan(), 0.0, weight)
    return weight / weight.sum(dim=1, keepdim=True).clamp(min=1)  # the worst has 1


@allocation(needs=["step_rewards"], linear=False, paper="MT-GRPO, arXiv:2505.11821")
def turns(rollouts: Rollouts, *, coef: float = 1.0) -> Float[Tensor, "B T"]:
    """Add to the advantage what the rewards from this turn on have over those of the group.

        A[i, t] = A_i + coef · (G[i, m] - mean_{j in g} G[j, m]) / (std_m + 1e-4)

    m is the turn of t: what one call of the model wrote (`Rollouts.turns`), or where that is not
    known, a maximal run of counted tokens. G[i, m] is the sum of the step rewards of turn m and
    later, where a step that ends in a tool's output belongs to the turn before it, and G[j, m] = 0
    where completion j has fewer than m turns. `std_m` is the standard deviation of
    G[·, m] as `scale_rewards` says.

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
    turn = rollouts.turn
    earned = _step_rewards(rollouts).nan_to_num(nan=0.0)
    per_turn = earned.new_zeros(len(turn), int(turn.max()) + 1).scatter_add(1, turn, earned)
    returns = _to_go(per_turn).masked_fill(rollouts.rewards.isnan()[:, None], torch.nan)
    among = rollouts.group, rollouts.scale_rewards, rollouts.generation
    over_group = [group_advantages(column, *among) for column in returns.T]
    extra = torch.stack(over_group, dim=1).to(rollouts.advantages)
    landed = rollouts.advantages[:, None] + coef * extra.gather(1, turn)
    return torch.where(rollouts.mask, landed, 0.0)


@allocation(needs=["step_rewards"], linear=False, paper="after prime-rl, pull request 3282, 2026")
def turn_deltas(
    rollouts: Rollouts, *, gamma: float = 0.9, coef: float = 1.0
) -> Float[Tensor, "B T"]:
    """Add to the advantage what this turn and those it led up to changed in the state's score.

        A[i, t] = A_i + coef · Σ_{s ≥ m} gamma^(s - m) Δ[i, s] / Σ_{d < s} gamma^d

    m is the turn of t, as in `turns`. A step reward is here the score of the state that the turn
    left behind; Δ[i, s] is the score after turn s less the last score before, 0 where there is no
    score after s or none before. A change is spread back over the turns up to it, nearer ones
    more, by weights that sum to 1. So the turns of a completion share its last score less its
    first: staying in a good state earns nothing, and a rise that is lost again nets zero. States
    are often easier to score than actions.

    Args:
        rollouts: uses `advantages`, `step_rewards` (both dimensionless; the last one of a turn is
            its score), and `rewards` to see abstentions.
        gamma: how far back a change is spread, 0 (only its own turn) to 1 (all turns alike).
        coef: weight of the changes against the outcome.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Raises:
        CreditError: if gamma is out of its range.

    Degenerate cases: with fewer than two scores in a completion this is `even`. A score before the
    first turn is the first. A completion that every function abstained from gets no changes.
    Deviation: a change is credited by itself, not with what follows from it, and is compared with
    no other completion: as `potential` with `immediate`, the expected update is not the gradient of
    the reward. How prime-rl combines changes and outcome could not be read; here they are added.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([5, 5], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=5, advantages=[1.0, -1.0])
        >>> nan, turn = float("nan"), torch.tensor([[True, False] * 2 + [True]] * 2)
        >>> score = torch.tensor([[0.0, nan, nan, nan, 7.0], [2.0, nan, 5.0, nan, 2.0]])
        >>> turn_deltas(replace(two, mask=turn, step_rewards=score), gamma=0.5)  # 7 as 1 : 2 : 4
        tensor([[ 2.0000,  0.0000,  3.0000,  0.0000,  5.0000],
                [-0.4286,  0.0000,  0.1429,  0.0000, -2.7143]])

    Source: prime-rl, pull request 3282, by its description.
    """
    if not 0 <= gamma <= 1:
        raise CreditError(f"gamma is {gamma:g}, expected 0 to 1.")
    turn = rollouts.turn
    number = torch.arange(int(turn.max()) + 1, device=turn.device)
    apart = number - number[:, None]  # how many turns s is after m
    weight = torch.where(apart >= 0, gamma ** apart.clamp(min=0).double(), 0.0)
    weight[0] = 0.0  # before the first turn nobody acted
    weight = weight / weight.sum(dim=0).clamp(min=1)
    spread = _changes(_step_rewards(rollouts), turn, len(number)) @ weight.T
    extra = spread.to(rollouts.advantages).gather(1, turn)
    return torch.where(rollouts.mask, rollouts.advantages[:, None] + coef * extra, 0.0)


def _changes(
    scores: Float[Tensor, "B T"], turn: Int[Tensor, "B T"], turns: int
) -> Float[Tensor, "B M"]:
    """Subtract from the last score of each turn the last one of the turns before that has one."""
    column = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    last = torch.full((len(scores), turns), -1, device=scores.device)
    place = torch.where(scores.isnan(), -1, column)
    last = last.scatter_reduce(1, turn, place, "amax").cummax(dim=1).values
    known = scores.nan_to_num(nan=0.0).gather(1, last.clamp(min=0))
    change = known - pad(known, (1, -1))
    return torch.where(pad(last, (1, -1), value=-1) >= 0, change, 0.0)


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


def _to_go(values: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
    return values.flip(1).cumsum(dim=1).flip(1)
