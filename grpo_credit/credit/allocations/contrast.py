"""Weights from what a privileged prompt would have changed about each token."""

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError


@allocation(
    needs=["old_logps", "privileged_logps"],
    linear=False,
    keeps_sign=True,
    paper="RLSD, arXiv:2604.03128",
)
def contrast(rollouts: Rollouts, *, clip: float = 0.2, mix: float = 0.5) -> Float[Tensor, "B T"]:
    """Weigh a token by how much likelier a prompt that knows the answer makes it.

        A[i, t] = A_i · (1 - mix + mix · min(max(e^(sign(A_i) · Δ[i, t]), 1 - clip), 1 + clip))

    Δ = log π(token | privileged prompt) - log π(token | prompt), with one set of weights, no
    gradient. In a good completion the tokens that the answer makes likelier are reinforced more; in
    a bad one those that it makes less likely are discouraged more. The reward alone gives the
    direction. Beware: re-scoring under right and under wrong conditions shifts most tokens the same
    way, and the large shifts sit on tokens of style that could as well be others (CSCR,
    arXiv:2607.27888). So the sign of Δ is a weak witness and its size may be mere sensitivity:
    compare with `even`, and with a privileged prompt that says something unrelated (a control).

    Args:
        rollouts: uses `advantages` (dimensionless), `old_logps` and `privileged_logps` (nats).
        clip: how far a weight may be from 1, 0 to 1.
        mix: how much of the advantage is weighted, 0 (`even`) to 1.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's.

    Raises:
        CreditError: if an option is out of its range.

    Degenerate cases: where the two log-probabilities are equal, as in rows without a privileged
    prompt, and where A_i = 0, this is `even`.
    Deviation: the paper lowers `mix` linearly from 0.5 to 0 over 50 steps; here it is constant. The
    plain log-probability is the one at generation, so the weights stay while a batch is reused. The
    mass of a completion is not restored.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=2, advantages=[1.0, -1.0])
        >>> plain, told = Tensor([[-1.0, -1.0]] * 2), Tensor([[-0.9, -3.0]] * 2)
        >>> contrast(replace(two, old_logps=plain, privileged_logps=told))
        tensor([[ 1.0526,  0.9000],
                [-0.9524, -1.1000]])

    Source: RLSD, arXiv:2604.03128, algorithm 1.
    """
    for name, value in (("clip", clip), ("mix", mix)):
        if not 0 <= value <= 1:
            raise CreditError(f"{name} is {value:g}, expected 0 to 1.")
    plain, privileged = rollouts.old_logps, rollouts.privileged_logps
    assert plain is not None  # both are in `needs`
    assert privileged is not None
    towards = rollouts.advantages.sign()[:, None] * (privileged - plain)
    weight = 1 - mix + mix * towards.exp().clamp(1 - clip, 1 + clip)
    return torch.where(rollouts.mask, rollouts.advantages[:, None] * weight, 0.0)
