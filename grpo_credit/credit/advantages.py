"""The advantage of a completion within its group, as TRL computes it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

SCALE_EPS = 1e-4  # TRL divides by (standard deviation + 1e-4)


def total_rewards(
    rewards_per_func: Float[Tensor, "B K"], weights: Float[Tensor, " K"]
) -> Float[Tensor, " B"]:
    """Add up the rewards of the functions by their weights; NaN where every function abstained."""
    abstained = rewards_per_func.isnan().all(dim=1)
    total = (rewards_per_func * weights.to(rewards_per_func)).nansum(dim=1)
    return total.masked_fill(abstained, torch.nan)


def group_advantages(
    rewards: Float[Tensor, " B"],
    group: Int[Tensor, " B"],
    scale_rewards: str = "group",
    generation: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    """Compute the group-relative advantage as TRL 1.16 does.

        A_i = (R_i - mean_g) / (std + 1e-4)

    `std` is unbiased, over the group (`"group"`), over all rows of one generation (`"batch"`), or
    absent (`"none"`). NaN rewards (abstentions) are left out of mean and std and get advantage 0,
    and so does every member of a group without two scored completions.

    Args:
        rewards: of each row.
        group: of each row.
        scale_rewards: as above.
        generation: of each row; one for all if not given.

    Raises:
        ValueError: if `scale_rewards` is none of the three.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; `"none"` is Liu et al. 2025,
    arXiv:2503.20783.
    """
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(
            f"scale_rewards is {scale_rewards!r}, expected 'group', 'batch' or 'none'."
        )
    centred, std = _centred_and_std(rewards, group)
    if scale_rewards == "none":
        return centred
    if scale_rewards == "batch":
        everything = torch.zeros_like(group) if generation is None else generation
        _, std = _centred_and_std(rewards, everything)
    return centred / (std + SCALE_EPS)


def _centred_and_std(
    values: Float[Tensor, " B"], among: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Subtract the mean of a row's like, and give their unbiased deviation; NaN is left out."""
    _, like = among.unique(return_inverse=True)

    def over(per_row: Tensor) -> Tensor:
        return values.new_zeros(len(values)).index_add(0, like, per_row)[like]

    count = over((~values.isnan()).to(values.dtype)).clamp(min=1)
    centred = (values - over(values.nan_to_num(nan=0.0)) / count).nan_to_num(nan=0.0)
    return centred, (over(centred**2) / (count - 1).clamp(min=1)).sqrt()
