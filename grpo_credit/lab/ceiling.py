"""The best that credit can do on an enumerable policy: true advantages.

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
