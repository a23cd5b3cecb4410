"""No credit for what was written after the reward was settled."""

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts


@allocation(needs=["decided"], keeps_sign=True, paper="this package")
def decided(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Give no credit to tokens after the reward was decided.

        A[i, t] = A_i · [t < max_k decided[i, k]]

    k runs over the reward functions with a weight that scored the completion: a token goes without
    credit only once all of them have made up their minds. Theorem: given a prefix at which A_i is
    settled, E[A_i ∇ log π(o_t)] = A_i · E[∇ log π(o_t)] = 0, as the gradients of log-probabilities
    average to zero. So under `seq` and `uniform`, which weigh all tokens alike whatever is written
    later, the expected update is exactly that of `even`, without the noise of the tails. With
    `scale_rewards="none"` that is the gradient of the expected reward.

    An index later than the true one drops fewer tokens and stays exact; one that is too early does
    not. Aggregations that count tokens (`length`, `dapo`) still count the dropped ones; as their
    weights depend on how long the tail becomes, the expected updates differ. They differ too where
    `mask_truncated_completions` lets the tail decide whether a completion counts. The KL term is no
    part of credit and acts on the tail as before.

    Args:
        rollouts: uses `advantages` (dimensionless), `decided` (columns, the deciding token
            included; tool outputs count), and `rewards_per_func` and `reward_weights` to see which
            functions had a say.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Nothing is conserved.

    Degenerate cases: where only the end settles the reward, this is `even`. A completion that every
    function abstained from gets 0. Abstaining counts as known from the start, as when the prompt
    has no answer; where it depends on late tokens, so does A_i, and the theorem does not hold.
    It does not hold for `opo+decided` either: that A_i hangs on L_i, and so on the tail.
    Deviation: none.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> decided(replace(two, decided=torch.tensor([[3], [1]])))  # the second failed at once
        tensor([[ 1.,  1.,  1.],
                [-1.,  0.,  0.]])

    Source: this package; the expected-gradient lemma of REINFORCE, Williams 1992.
    """
    assert rollouts.decided is not None  # in `needs`
    judges = ~rollouts.rewards_per_func.isnan()
    judges &= torch.tensor(rollouts.reward_weights, device=judges.device) != 0
    settled = torch.where(judges, rollouts.decided, 0).amax(dim=1, keepdim=True)
    column = torch.arange(rollouts.mask.shape[1], device=settled.device)
    return torch.where(rollouts.mask & (column < settled), rollouts.advantages[:, None], 0.0)
