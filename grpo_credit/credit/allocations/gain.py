"""Credit from how much nearer to the right answer each turn brought the policy."""

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(needs=["turns", "answer_logps"], linear=False, paper="IGPO, arXiv:2510.14967")
def igpo(rollouts: Rollouts, *, gamma: float = 1.0) -> Float[Tensor, "B T"]:
    """Credit a turn with how much likelier it made the right answer, the last with the reward.

        A[i, m] = Σ_{k ≥ m} gamma^(k - m) (r[i, k] - mean_g) / (std + 1e-4)
        r[i, k] = p[i, k+1] - p[i, k],  r[i, M_i] = R_i,  p[i, k] = exp(answer_logps) before turn k

    p is the geometric mean of the probabilities of the right answer's tokens, if the policy were to
    write it in place of turn k. M_i is the last turn, R_i the completion's reward; mean and
    standard deviation are over all turns of all completions of the group; `std` follows
    `scale_rewards` (`"group"`; over all turns of one generation for `"batch"`; `"none"` does not
    divide). So a search that found the fact is credited where all answers were wrong, too: groups
    of equal rewards teach.

    Beware: it aims at the policy's belief as well as at the reward, and the update is not the
    gradient of E[R]. As each turn is centred by itself, one turn more than others take pays
    r - mean_g, as in `steps`.

    Args:
        rollouts: uses `turns`, `answer_logps` (nats per token), `rewards` (dimensionless), `group`,
            `scale_rewards` and `generation`; not `advantages`. Statistics are over all rows at
            hand, which are whole generation batches.
        gamma: discount per turn, 0 to 1.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Raises:
        CreditError: if gamma is out of its range.

    Degenerate cases: where completions have one turn this is `even`. A turn before or after which
    the answer's probability is not known, as in rows without an answer, adds 0 and is in no mean. A
    completion that every function abstained from gets 0 and is in no mean.
    Deviation: TRL's unbiased deviation and 1e-4. The paper asks for the answer in its own format,
    after a sentence that says it is known; here the text of the column is asked for as it stands.

    Example:
        >>> from dataclasses import replace
        >>> from grpo_credit.credit.turns import Turn
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=2, scale_rewards="none")
        >>> wrote = (Turn(0, 1, 0, "call"), Turn(1, 2, 1, "answer"))
        >>> p = torch.tensor([[0.25, 0.75, torch.nan], [0.25, 0.25, torch.nan]])
        >>> igpo(replace(two, turns=(wrote, wrote), answer_logps=p.log()))  # r: 0.5, 1 and 0, 0
        tensor([[ 0.7500,  0.6250],
                [-0.7500, -0.3750]])

    Source: Wang et al. 2025, IGPO, arXiv:2510.14967, by its description and the authors' code.
    """
    if not 0 <= gamma <= 1:
        raise CreditError(f"gamma is {gamma:g}, expected 0 to 1.")
    gains = _gains(rollouts)
    row, number = (~gains.isnan()).nonzero().T
    normalised = torch.zeros_like(gains)
    normalised[row, number] = group_advantages(
        gains[row, number], rollouts.group[row], rollouts.scale_rewards, rollouts.generation[row]
    )
    for before in reversed(range(gains.shape[1] - 1)):
        normalised[:, before] += gamma * normalised[:, before + 1]
    landed = normalised.to(rollouts.advantages).gather(1, rollouts.turn)
    return torch.where(rollouts.mask & (rollouts.turn > 0), landed, 0.0)


def _gains(rollouts: Rollouts) -> Float[Tensor, "B M"]:
    """Return r of each turn, at its number from 1; NaN where it is not known."""
    assert rollouts.turns is not None  # both are in `needs`
    assert rollouts.answer_logps is not None
    most = max(map(len, rollouts.turns), default=0)
    gains = rollouts.rewards.new_full((len(rollouts.turns), most + 1), torch.nan).double()
    rewards, logps = rollouts.rewards.tolist(), rollouts.answer_logps.double().exp()
    for row, own in enumerate(rollouts.turns):
        if own and rewards[row] == rewards[row]:
            found = logps[row, [turn.start for turn in own]]
            gains[row, 1 : len(own)] = found.diff()
            gains[row, len(own)] = rewards[row]
    return gains
