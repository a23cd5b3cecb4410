"""Credit from values of prefixes that were estimated by continuing them."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.allocations.baselines import group_sum, leave_one_out_mean, scored
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts


@allocation(
    needs=["prefix_values"], linear=False,
    paper="VinePPO, arXiv:2410.01679; SPO-chain, arXiv:2505.23564",
)  # fmt: skip
def vine(
    rollouts: Rollouts, *, mode: Literal["difference", "baseline"] = "difference"
) -> Float[Tensor, "B T"]:
    """Credit a stretch of tokens by what it changed in the value of the prefix (an experiment).

        A[i, t] = V_i(c') - V_i(c) ("difference"), or R_i - V_i(c) ("baseline")

    c is the last cut at or before token t and c' the next one. V_i(c) is the mean reward of K
    completions that the policy went on to write after the first c tokens of completion i; before
    the first cut it is the mean of the other members of the group, and at the end R_i itself. The
    stretches of "difference" sum to R_i - V_i(start), and a stretch that changed nothing gets
    noise around 0.

    No bias for any K: given the prefix, V(c) does not depend on what is written after it, and V(c')
    is in expectation what the token is worth. Under `seq` and on-policy the expected update is the
    gradient of the expected reward, if cuts look at the past alone; all of `vine_cuts` do.

    The price: M stretches and K continuations cost about K (M - 1) / 2 times the tokens of the
    completions themselves. **At equal tokens a larger group has less variance** (docs/vine.md): on
    the lab's policy, variance times tokens is 0.75 for `loo` with groups of 8 and 0.68 with groups
    of 64, and 0.77 to 6.5 for `vine` with groups of 8. It may pay where continuations are nearly
    free: idle slots of vLLM, cuts late in long completions, steps that are dearer to train.

    Args:
        rollouts: uses `prefix_values` and `rewards` (in units of reward), and `group`.
        mode: `"difference"` or `"baseline"`.

    Returns:
        Allocation (B, T), in units of reward, not divided by any standard deviation.

    Degenerate cases: without any value this is `loo`. The only scored member of a group gets 0
    before its first cut; completions that no function scored get 0 and are in no mean. A value
    after the last counted token is not used. A group of equal rewards is taught, too.
    Deviation: VinePPO cuts at steps and draws the value of the prompt as well; here that is the
    mean of the others, which costs nothing. SPO counts tokens below a probability and cuts at every
    k-th of them; here each is one, and the cut comes after it, as before it would look ahead.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([3, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> nan = float("nan")
        >>> values = torch.tensor([[nan, nan, 0.75, nan], [nan, 0.5, nan, nan]])
        >>> vine(replace(two, prefix_values=values))  # V: 0, 0.75, 1 and 1, 0.5, 0
        tensor([[ 0.7500,  0.7500,  0.2500],
                [-0.5000, -0.5000,  0.0000]])

    Source: Kazemnejad et al. 2024, VinePPO, arXiv:2410.01679; Guo et al. 2025, SPO,
    arXiv:2505.23564, both by their description.
    """
    assert rollouts.prefix_values is not None  # as declared above
    columns = rollouts.mask.shape[1]
    place = torch.arange(columns, device=rollouts.mask.device)
    ahead = rollouts.mask.flip(1).cumsum(dim=1).flip(1) > 0
    values = rollouts.prefix_values[:, :-1].to(rollouts.rewards)
    known = ahead & ~values.isnan()
    values = torch.where(known, values, _of_prompt(rollouts)[:, None])
    last = torch.where(known, place, 0).cummax(dim=1).values
    start, reached = values.gather(1, last), rollouts.rewards[:, None]
    if mode == "difference":
        first = torch.where(known, place, columns).flip(1).cummin(dim=1).values.flip(1)
        following = pad(first[:, 1:], (0, 1), value=columns)
        reached = torch.cat([values, reached], dim=1).gather(1, following)
    counted = rollouts.mask & scored(rollouts)[:, None] & ~start.isnan()
    return torch.where(counted, reached - start, 0.0)


def _of_prompt(rollouts: Rollouts) -> Float[Tensor, " B"]:
    """Return the mean reward of the others of a group; NaN where there is nobody else."""
    pool = scored(rollouts)
    mean = leave_one_out_mean(rollouts.rewards, pool, rollouts.group)
    others = group_sum(pool.to(mean), rollouts.group) - pool.to(mean)
    return torch.where(others > 0, mean, torch.nan)
