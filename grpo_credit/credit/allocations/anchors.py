"""Credit from states of an environment that several turns of a group were written in."""

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.turns import ROLES, anchors, of_role
from grpo_credit.errors import CreditError


@allocation(needs=["turns"], linear=False, paper="GiGPO, arXiv:2505.10978")
def gigpo(rollouts: Rollouts, *, weight: float = 1.0, gamma: float = 0.95) -> Float[Tensor, "B T"]:
    """Add to the advantage what the return from this turn has over other turns in the same state.

        A[i, t] = A_i + weight · (G[i, m] - mean_{(j, k) in S} G[j, k]) / (std_S + 1e-4)
        G[i, m] = Σ_{k ≥ m} gamma^(k - m) r[i, k] + gamma^(M_i - m) R_i

    m is the turn of t, M_i the last turn of the completion, r[i, k] the step rewards of turn k, if
    a reward or the environment tells any, R_i the reward of the completion. S are the turns of the
    group, of any completion and number, that were written in the same state as turn m
    (`Turn.state`: the environment's `state_id`, or what was said since the turn before). Turns in
    one state are compared as completions of one prompt are: no further rollouts are needed. `std_S`
    follows `scale_rewards` (`"group"`: over S; `"batch"`: over the turns of one generation;
    `"none"` does not divide).

    The share of turns that share their state is logged as `credit/anchor_hits`: where it is near 0,
    this is `even`.

    Args:
        rollouts: uses `turns`, `advantages`, `rewards`, `step_rewards` if there (all
            dimensionless), `group`, `scale_rewards` and `generation`. Statistics are over all rows
            at hand, which are whole generation batches.
        weight: of the part of the turns.
        gamma: discount per turn, 0 to 1.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Raises:
        CreditError: if gamma is out of its range.

    Degenerate cases: a state that one turn alone was written in adds 0, and so does one that is not
    known. A completion that every function abstained from gets 0 and is in no mean.
    Deviation: none from the paper's formula but TRL's 1e-4; it also groups similar states, here
    equal ones alone. As the mean contains the turn itself, states that few share count for less:
    the expected update is not exactly along the gradient.

    Example:
        >>> from dataclasses import replace
        >>> from grpo_credit.credit.turns import Turn
        >>> two = Rollouts.from_lists([3, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=3, scale_rewards="none")
        >>> first = Turn(0, 1, 0, "call", state="door")  # which both begin in
        >>> rooms = [(first, Turn(2, 3, 2, "answer", state=room)) for room in ("hall", "attic")]
        >>> gigpo(replace(two, turns=tuple(rooms)), gamma=0.5)  # G: 1/2 and 0 at the door
        tensor([[ 0.7500,  0.7500,  0.5000],
                [-0.7500, -0.7500, -0.5000]])

    Source: Feng et al. 2025, GiGPO, arXiv:2505.10978.
    """
    if not 0 <= gamma <= 1:
        raise CreditError(f"gamma is {gamma:g}, expected 0 to 1.")
    assert rollouts.turns is not None  # in `needs`
    row, number, label, _ = anchors(rollouts.turns, rollouts.group)
    returns = _returns(rollouts, gamma)
    above = torch.zeros_like(returns)
    above[row, number] = group_advantages(
        returns[row, number], label, rollouts.scale_rewards, rollouts.generation[row]
    )
    extra = above.to(rollouts.advantages).gather(1, rollouts.turn)
    landed = rollouts.advantages[:, None] + weight * extra
    return torch.where(rollouts.mask & ~rollouts.rewards.isnan()[:, None], landed, 0.0)


def _returns(rollouts: Rollouts, gamma: float) -> Float[Tensor, "B M"]:
    """Return G of each turn, at its number; NaN where no function scored the completion."""
    turn, turns = rollouts.turn, [len(own) for own in rollouts.turns or ()]
    last = torch.tensor(turns, device=turn.device).long()
    earned = rollouts.rewards.new_zeros(len(turn), max(turns, default=0) + 1, dtype=torch.float64)
    if rollouts.step_rewards is not None:
        earned.scatter_add_(1, turn, rollouts.step_rewards.double().nan_to_num(nan=0.0))
    earned.scatter_add_(1, last[:, None], rollouts.rewards.double()[:, None])
    for number in reversed(range(earned.shape[1] - 1)):
        earned[:, number] += gamma * earned[:, number + 1]
    return earned.masked_fill(rollouts.rewards.isnan()[:, None], torch.nan)


@allocation(needs=["turns"], linear=True, paper="this package")
def roles(
    rollouts: Rollouts, *, think: float = 1.0, call: float = 1.0, answer: float = 1.0
) -> Float[Tensor, "B T"]:
    """Weigh the tokens of thoughts, calls and answers apart.

        A[i, t] = A_i · w(role of t),  w = think, call or answer

    The role is that of the turn (`Rollouts.turns`), or "think" within its thought. May follow
    another rule in a chain: `turns+roles`.

    Args:
        rollouts: uses `turns` and `advantages`, dimensionless.
        think: weight of thoughts.
        call: weight of what follows the thought in a turn that calls.
        answer: weight of what follows it in a turn that does not.

    Returns:
        Allocation (B, T), dimensionless. Nothing is conserved.

    Degenerate cases: with equal weights w this is w times `even`, and tokens of no turn get 0.
    Deviation: none; a heuristic: weights that differ bias the update.

    Example:
        >>> from dataclasses import replace
        >>> from grpo_credit.credit.turns import Turn
        >>> one = Rollouts.from_lists([3], [1.0], num_generations=1, max_completion_length=3,
        ...                           advantages=[2.0])
        >>> wrote = (Turn(0, 2, 1, "call"), Turn(2, 3, 2, "answer"))
        >>> roles(replace(one, turns=(wrote,)), think=0.5, call=3.0)
        tensor([[1., 6., 2.]])

    Source: this package.
    """
    assert rollouts.turns is not None  # in `needs`
    weights = dict(zip(ROLES, (think, call, answer), strict=True))
    weight = sum(
        (w * of_role(rollouts.turns, role, rollouts.mask) for role, w in weights.items()),
        torch.zeros_like(rollouts.mask, dtype=rollouts.advantages.dtype),
    )
    return rollouts.advantages[:, None] * weight
