"""How much credit can help: what the variance of a step says of the steps that learning takes.

For a reward that the completion decides, true advantages divide one variance among the tokens,
Σ_t E[A*_t²] = Var R, where `seq` pays it at every token.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

CURVATURE = 0.5  # what a step costs beside its noise, in units of the gradient squared

LAW_ERROR = 2.4  # factor that nine in ten of 36 fresh settings came within (docs/lab.md)


def predicted_gain(baseline: float, variance: float) -> float:
    """Predict how many times fewer steps a rule needs than another, each at its best rate.

        gain = √((1/2 + variance of the baseline) / (1/2 + variance))

    Variances are of one step before training, relative to its expectation along the gradient
    squared (`lab exact`). The form was found on 25 settings of `lab race` and tried on others by
    `scripts/predict_gain.py`; docs/lab.md has what came out, and where it fails.

    Example:
        >>> round(predicted_gain(48.9, 2.1), 1)
        4.4
    """
    if math.isinf(variance):
        return 0.0
    return math.sqrt((CURVATURE + baseline) / (CURVATURE + variance))


def captured(gain: float, ceiling: float) -> float:
    """Return which share a rule saves of the steps that true advantages would save.

        captured = (1 - 1/gain) / (1 - 1/ceiling),   gain = steps of `seq` / steps

    Example:
        >>> captured(2.0, 4.0)
        0.6666666666666666
    """
    return (1 - 1 / gain) / (1 - 1 / ceiling) if gain > 0 and ceiling != 1 else math.nan


def effective_tokens(
    chances: Float[Tensor, " M"],
    deviation: Float[Tensor, " M"],
    uncertainty: Float[Tensor, "M T"],
    stakes: Float[Tensor, "M T"],
) -> float:
    """Return T_eff, by which factor credit can lower the second moment of a gradient at most.

        T_eff = Σ_t E[h_t (R - V)²] / Σ_t E[h_t s_t],  h_t = 1 - Σ_v π_v²,  s_t = E[A*_t² | o_<t]

    h_t is the expected square of ∂ log π / ∂ logits, 0 where a token is forced. Any rule whose
    credit c has E[c_t | prefix, token] = A*_t, up to what depends on the prefix alone, has
    Σ_t E[h_t c_t²] ≥ Σ_t E[h_t A*_t²], and `seq` around the mean reward V of the prompt has the
    numerator. Where uncertainty does not go with what is at stake this is Σ h_t / Σ h_t w_t,
    w_t = E[A*_t²] / Var R.

    Args:
        chances: of every completion.
        deviation: of its reward from the expected one of its prompt.
        uncertainty: h_t; 0 after the end.
        stakes: s_t, or the A*_t² of the completion itself.
    """
    paid, best = (
        float(chances @ (uncertainty * squares).sum(1))
        for squares in (deviation.square()[:, None], stakes)
    )
    return paid / best


def even_stakes(
    variance: Float[Tensor, " P"], uncertainty: Float[Tensor, "P G T"]
) -> Float[Tensor, "P G T"]:
    """Guess s_t where true advantages are unknown: a token's part of Var R is that of h_t.

        s_t = Var R · h_t / E[Σ_t h_t]

    All pairs of tokens that the policy might have written differ alike then, and T_eff is about
    (Σ h)² / Σ h², the number of uncertain tokens.

    Args:
        variance: of the reward of each prompt.
        uncertainty: h_t of G completions of each.
    """
    total = uncertainty.sum(-1).mean(-1).clamp(min=torch.finfo(uncertainty.dtype).tiny)
    return (variance / total)[:, None, None] * uncertainty


def least_stakes(
    variance: Float[Tensor, " P"], uncertainty: Float[Tensor, "P G T"], spread: float
) -> Float[Tensor, "P G T"]:
    """Return the s_t that leave the most headroom: what is at stake lies at the surest tokens.

        minimise E[Σ h_t s_t]  such that  E[Σ s_t] = Var R,  0 ≤ s_t ≤ h_t · spread² / 2

    The last is a theorem: 2 Var_π(Q) = Σ_u Σ_v π_u π_v (Q_u - Q_v)², which is at most h · spread².
    So T_eff with these bounds it with the true ones, whatever they are. Tokens are filled from the
    surest on. Where a small sample's variance is more than all can hold, each holds more alike.

    Args:
        variance: of the reward of each prompt.
        uncertainty: h_t of G completions of each.
        spread: the range of the rewards.
    """
    sure = uncertainty.flatten(1)
    order = sure.argsort(dim=1)
    most = sure.gather(1, order) * spread**2 / 2
    needed = variance[:, None] * uncertainty.shape[1]
    total = most.sum(1, keepdim=True).clamp(min=torch.finfo(most.dtype).tiny)
    most = most * (needed / total).clamp(min=1)
    filled = most.cumsum(1).minimum(needed).diff(dim=1, prepend=torch.zeros_like(needed))
    return torch.zeros_like(sure).scatter(1, order, filled).view(uncertainty.shape)
