"""The best that credit can do on an enumerable policy: true advantages, and a bound without a race.

For a reward that the completion decides, Σ_t E[A*_t²] = Var R: the advantages of successive tokens
are the increments of a martingale from E[R] to R.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.lab.enumerable import Language, event_weights


def true_advantages(
    language: Language, chances: Float[Tensor, " M"], rewards: Float[Tensor, " M"]
) -> Float[Tensor, "M T"]:
    """Return A*[o, t] = Q(o_<t, o_t) - V(o_<t), in units of reward; 0 after the end.

        Q(p, a) = E[R | the completion begins with p and a],  V(p) = E[R | it begins with p]

    Args:
        language: the completions.
        chances: their probabilities.
        rewards: what each earns.
    """
    passing = event_weights(language, chances[:, None].expand(language.mask.shape))
    earned = event_weights(language, (chances * rewards)[:, None].expand(language.mask.shape))
    passing, earned = (v.view(-1, language.end + 1) for v in (passing, earned))
    worth = earned / passing - (earned.sum(1) / passing.sum(1))[:, None]
    return torch.where(language.mask, worth.flatten()[language.events], 0.0)


def effective_tokens(
    chances: Float[Tensor, " M"],
    rewards: Float[Tensor, " M"],
    uncertainty: Float[Tensor, "M T"],
    advantages: Float[Tensor, "M T"],
) -> float:
    """Return T_eff, by which factor credit can lower the second moment of a gradient at most.

        T_eff = Σ_t E[h_t (R - E[R])²] / Σ_t E[h_t A*_t²],  h_t = 1 - Σ_v π_v²

    h_t is the expected square of ∂ log π / ∂ logits, 0 where a token is forced. Any rule whose
    credit c has E[c_t | prefix, token] = A*_t, up to what depends on the prefix alone, has
    Σ_t E[h_t c_t²] ≥ Σ_t E[h_t A*_t²], and `seq` around the mean has the numerator. Where
    uncertainty does not go with what is at stake this is Σ h_t / Σ h_t w_t, w_t = E[A*_t²] / Var R.

    Args:
        chances: of every completion.
        rewards: of every completion.
        uncertainty: h_t; 0 after the end.
        advantages: A*_t.
    """
    deviation = (rewards - chances @ rewards)[:, None]
    paid, best = (
        float(chances @ (uncertainty * c.square()).sum(1)) for c in (deviation, advantages)
    )
    return paid / best
