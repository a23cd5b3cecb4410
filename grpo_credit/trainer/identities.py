"""The three identities that carry a credit matrix through a trainer's own loss.

1. For w >= 0 the surrogates of GRPO (clipped ratio, two-sided, CISPO, SAPO, VESPO) are homogeneous:
   surrogate(w · A) = w · surrogate(A). So advantages = credit / (the host's own weight of a token)
   make the host compute exactly Σ surrogate(credit): `fold`.
2. The host adds β · KL to the per-token loss. β_i = β · weight_i gives each completion's KL term
   the strategy's aggregation weight: `RowBeta`.
3. A token-level ratio with the anchor log π - log s_i has the value of the sequence-level ratio and
   keeps the gradient of each token: `sequence_token_anchor`.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from grpo_credit.batching.rows import counted


def host_weight(loss_type: str, batch: dict[str, Any], steps: int, ranks: int) -> Any:
    """Return the weight that TRL's reduction, and DDP's mean over ranks, give to a token.

    `sapo` takes the mean over completions of the mean over tokens. The other surrogates that
    `plan` chooses (`dapo`, `cispo`, `vespo`) sum over tokens and divide by a count that is ours to
    give, see `items_for_unit_weight`. All are divided by the accumulation steps.

    Returns:
        One number, or (b, 1) for `sapo`; a fully masked row counts as of length 1.
    """
    weight: Any = 1 / (steps * ranks)
    if loss_type == "sapo":
        lengths = counted(batch).sum(dim=1, keepdim=True).clamp(min=1)
        weight = weight / (len(lengths) * lengths)
    return weight


def items_for_unit_weight(ranks: int, steps_per_generation: int) -> int:
    """Return the `num_items_in_batch` with which TRL divides its token sum by the steps alone.

    TRL 1.16 divides by items / ranks · steps / steps_per_generation.
    """
    return ranks * steps_per_generation


class RowBeta(float):
    """β that gives the KL term of each completion its own weight.

    The host computes `self.beta * per_token_kl` and reduces it like the surrogate. Multiplied by
    weights (b, 1) in the host's units, the KL term of completion i gets β · weight_i instead, by
    the host's own KL formula. `used` says whether the host came by.
    """

    weights: Float[Tensor, "b 1"]
    used: bool

    @classmethod
    def of(cls, beta: float, weights: Float[Tensor, "b 1"]) -> "RowBeta":
        """Bind β to the rows of a micro-batch."""
        row_beta = cls(beta)
        row_beta.weights, row_beta.used = weights, False
        return row_beta

    def __mul__(self, per_token_kl: Any) -> Any:
        self.used = True
        return float(self) * self.weights * per_token_kl


def sequence_token_anchor(
    logps: Float[Tensor, "b T"], old_logps: Float[Tensor, "b T"], mask: Tensor
) -> Float[Tensor, "b T"]:
    """Move the anchor of a token-level ratio so that its value is the sequence-level ratio.

        old'[i, t] = log π[i, t] - log s_i      with log s_i = mean_t (log π - log π_old)

    The ratio exp(log π - old') then is s_i · π/sg[π]: every token has the value s_i, for clipping,
    and its own gradient, so that the credit of each token survives. With the plain sequence-level
    ratio every token would get the mean credit of its completion.

    Args:
        logps: log π under the current policy, detached, nats.
        old_logps: under the policy that generated, nats.
        mask: counted tokens; a fully masked row has log s_i = 0.

    Returns:
        The anchor (b, T), nats.

    Deviation: none.
    Source: Zheng et al. 2025, GSPO, arXiv:2507.18071, eq. 14 (GSPO-token).
    """
    log_ratio = (logps - old_logps) * mask
    log_s = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return logps - log_s
