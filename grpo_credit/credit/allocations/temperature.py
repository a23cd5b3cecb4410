"""Temperature of whole strings: towards p(x)^(1/τ) / Z, not a softer or sharper next token."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.allocations.steps import above_others
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(
    needs=["old_logps", "ref_logps"], linear=False, paper="KL control, after arXiv:1611.02796"
)
def temper(rollouts: Rollouts, *, tau: float) -> Float[Tensor, "B T"]:
    """Draw the policy to the reference at a temperature of whole strings, as reward to go.

        A[i, t] = A_i + (1 - 1/n) · (G[i, t] - mean of G[j, t] over the other members j)

    G[i, t] = Σ_{u ≥ t} (log p_u / τ - log q_u), p the reference and q the policy that sampled; the
    mean is as in `to_go`. With `scale_rewards="none"`, on-policy, the expected update is (n - 1)/n
    times the gradient of E_q[R + log p(x)/τ - log q(x)] = log Z - KL(q ‖ p^(1/τ) e^R / Z): reward
    and temperature compose, and the optimum is q(x) ∝ p(x)^(1/τ) · e^R. With rewards of 0 it is p
    at temperature τ, which dividing the logits by τ is not: that drops how much is still to come
    after each token. At τ = 1 it is reinforcement learning with the KL term in the reward.

    τ < 1 shortens strings, since each token costs probability, and τ > 1 lengthens them. Too large
    a learning rate drops modes (KL(q ‖ p) does not see what q never samples): watch lengths and
    entropy.

    Args:
        rollouts: uses `advantages`, `old_logps` and `ref_logps` (nats), and `group`. All members of
            a group take part, whichever optimizer step they are trained on.
        tau: temperature, above 0.

    Returns:
        Allocation (B, T), in nats, signed; rewards are in nats, too.

    Raises:
        CreditError: if tau is not a finite number above 0.

    Degenerate cases: where nobody else has come as far, the baseline is that of the last token
    which somebody else has; the only one of its group that has a token gets A_i. A completion cut
    off at the limit is taken for a whole string; one without a score gets the temperature alone.
    Probabilities are those after the sampling temperature of the trainer, which is 1 by default;
    with `top_p`, `top_k` or `min_p` the samples are not of q.
    Deviation: `beta` > 0 and `sync_ref_model` are refused: the KL term of the loss looks at the
    next token alone and has another optimum. Divided by a standard deviation (`scale_rewards`),
    rewards weigh differently in every group.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 1], [0.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> policy, reference = Tensor([[-1.0, -2.0], [-1.5, 0.0]]), Tensor([[-1.0, -1.0]] * 2)
        >>> temper(replace(two, old_logps=policy, ref_logps=reference), tau=0.5)  # G: -1, 0; -0.5
        tensor([[-0.2500,  0.2500],
                [ 0.2500,  0.0000]])

    Source: KL control (Jaques et al. 2017, arXiv:1611.02796) at a temperature; for the target see
    Shih, Sadigh, Ermon 2023, arXiv:2302.03686.
    """
    _check_tau(tau)
    policy, reference = rollouts.old_logps, rollouts.ref_logps
    assert policy is not None  # both are in `needs`
    assert reference is not None
    earned = torch.where(rollouts.mask, reference.double() / tau - policy.double(), 0.0)
    everyone = torch.ones_like(rollouts.mask[:, 0])
    extra = above_others(earned, rollouts, everyone)
    landed = rollouts.advantages[:, None] + extra.to(rollouts.advantages)
    return torch.where(rollouts.mask, landed, 0.0)


@allocation(needs=["old_logps"], keeps_sign=True, paper="LHTS, arXiv:2302.03686")
def lhts(
    rollouts: Rollouts, *, tau: float, horizon: int = 8, clamp: float = 3.0
) -> Float[Tensor, "B T"]:
    """Weigh a token by how likely it and the tokens after it were, for a temperature of strings.

        A[i, t] = A_i · exp(min((1/τ - 1) · (H[i, t] - b_t), clamp))

    H[i, t] = Σ log p_u over the counted tokens t to t + horizon - 1, p the model that wrote the
    string; b_t is the mean of H over the window's strings that have a t-th token. For supervised
    training on samples of p (`CreditSFTTrainer`, data with a column `old_logps`): the optimum is
    q(v|s) ∝ p(v|s)^(1/τ) · Z_{h-1}(sv), where Z looks h - 1 tokens ahead. Horizon 1 is therefore
    the temperature of the next token, and only a horizon as long as the strings gives p^(1/τ) / Z.

    Args:
        rollouts: uses `advantages` (1 for documents), `old_logps` (nats) and `window_count`.
        tau: temperature, above 0.
        horizon: tokens that are looked at, 1 or more; 8 in the paper.
        clamp: largest exponent, above 0; 3 in the paper.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Nothing is conserved.

    Raises:
        CreditError: if an option is out of its range.

    Degenerate cases: with tau = 1 this is `even`.
    Deviation: the paper's b_t is a running mean, and it adds 0.05 · KL to p; here neither. A factor
    by prefix such as b_t leaves the optimum, but the clamp does not: on strings of five tokens it
    may be what fails at τ = 0.25 (KL of the target to what was trained: 0.11 on one set of random
    policies, without it 0.003; 0.008 on another set). At τ > 1 samples of p do not reach what the
    flatter target needs. `temper` samples the policy and
    has neither limit. τ < 1 shortens strings.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_documents([2, 1])
        >>> sampled = Tensor([[-1.0, -2.0], [-1.0, 0.0]]).mul(math.log(2))
        >>> lhts(replace(two, old_logps=sampled), tau=0.5)  # 2^(H - b), H: -3, -2; -1 and b: -2, -2
        tensor([[0.5000, 1.0000],
                [2.0000, 0.0000]])

    Source: Shih, Sadigh, Ermon 2023, Long Horizon Temperature Scaling, arXiv:2302.03686.
    """
    _check_tau(tau)
    if horizon < 1 or not clamp > 0:
        raise CreditError(f"horizon is {horizon} and clamp {clamp:g}, expected >= 1 and > 0.")
    assert rollouts.old_logps is not None  # in `needs`
    logps, place = torch.where(rollouts.mask, rollouts.old_logps.double(), 0.0), rollouts.position
    counted = rollouts.mask.to(logps)

    def by_place(values: Tensor) -> Tensor:
        return torch.zeros_like(logps).scatter_add(1, place, values)

    so_far = pad(by_place(logps).cumsum(dim=1), (1, 0))
    end = (torch.arange(place.size(1), device=place.device) + horizon).clamp(max=place.size(1))
    ahead, there = so_far[:, end] - so_far[:, :-1], by_place(counted)
    used = there * rollouts.window_count[:, None]
    mean = (used * ahead).sum(dim=0) / used.sum(dim=0).clamp(min=1)
    exponent = ((1 / tau - 1) * (ahead - mean)).clamp(max=clamp).gather(1, place)
    weight = exponent.exp() * counted
    return rollouts.advantages[:, None] * weight.to(rollouts.advantages)


def _check_tau(tau: float) -> None:
    if not 0 < tau < math.inf:
        raise CreditError(f"tau is {tau:g}, expected a finite number above 0.")
