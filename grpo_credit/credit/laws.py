"""The laws a strategy must obey: each raises `AssertionError` with a counterexample in words.

Equal means equal to a relative 1e-6 of the largest value, unless a law says otherwise.
"""

from dataclasses import replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import Strategy


class Law(Protocol):
    """A function with a name."""

    __name__: str

    def __call__(self, strategy: Strategy, rollouts: Rollouts, /) -> None:
        """Raise `AssertionError` where the strategy breaks the law."""


def zero_outside_the_mask(strategy: Strategy, rollouts: Rollouts) -> None:
    """Credit is finite everywhere and zero where nothing is counted."""
    credit = strategy.credit(rollouts)
    _require(torch.isfinite(credit).all(), "credit is not finite")
    _require((credit[~rollouts.mask] == 0).all(), "credit on masked tokens")


def padding_changes_nothing(strategy: Strategy, rollouts: Rollouts) -> None:
    """More columns of padding leave the credit as it is."""
    columns = rollouts.mask.shape[1]
    wide = strategy.credit(rollouts.padded(columns + 3))
    _equal(wide[:, :columns], strategy.credit(rollouts), "the credit after padding by 3 columns")


def masked_values_mean_nothing(strategy: Strategy, rollouts: Rollouts) -> None:
    """What the policy said at uncounted tokens, such as padding, leaves the credit as it is."""
    other = {
        name: torch.where(rollouts.mask, value, 7.0)
        for name in ("old_logps", "entropies", "sum_sq_probs", "ref_logps", "privileged_logps")
        if (value := getattr(rollouts, name)) is not None
    }
    changed = strategy.credit(replace(rollouts, **other))
    _equal(changed, strategy.credit(rollouts), "the credit with other numbers at masked tokens")


def rows_may_be_permuted(strategy: Strategy, rollouts: Rollouts) -> None:
    """Permuting the rows permutes the credit."""
    rows = torch.arange(len(rollouts.group))
    order = torch.cat([rows[1::2], rows[::2]])  # tears every group apart
    permuted, what = strategy.credit(rollouts.rows(order)), order.tolist()
    expected = strategy.credit(rollouts)[order]
    _equal(permuted, expected, f"the credit with the rows in the order {what}")


def groups_may_be_relabelled(strategy: Strategy, rollouts: Rollouts) -> None:
    """The numbers that name the groups, and their generations, mean nothing."""
    group, generation = 1000 - 7 * rollouts.group, 1000 - 7 * rollouts.generation
    relabelled = strategy.credit(replace(rollouts, group=group, generation=generation))
    _equal(relabelled, strategy.credit(rollouts), "the credit after relabelling the groups")


def weights_are_nonnegative_and_blind_to_sign(strategy: Strategy, rollouts: Rollouts) -> None:
    """Aggregation weights are >= 0 and do not look at the advantages' signs."""
    weights = strategy.weights(rollouts).squeeze(1)  # nonnegative, or it raises
    flipped = replace(rollouts, advantages=-rollouts.advantages)
    _equal(strategy.weights(flipped).squeeze(1), weights, "the weight with every advantage flipped")


def allocation_is_linear(strategy: Strategy, rollouts: Rollouts) -> None:
    """A[i, t] = A_i · w[i, t], with weights that do not depend on the advantages."""
    unit = replace(rollouts, advantages=torch.ones_like(rollouts.advantages))
    weights = strategy.allocation(unit)
    other = torch.linspace(-1, 2, len(weights), dtype=weights.dtype)
    for advantages in (rollouts.advantages, other):
        landed = strategy.allocation(replace(rollouts, advantages=advantages))
        _equal(landed, advantages[:, None] * weights, f"the allocation of {listed(advantages)}")


def mass_is_conserved(strategy: Strategy, rollouts: Rollouts) -> None:
    """Σ_t A[i, t] = L_i · A_i, so that only the place of the credit changes."""
    weights = strategy.weights(rollouts)
    expected = rollouts.lengths * rollouts.advantages * weights.squeeze(1)
    _equal(strategy.credit(rollouts).sum(dim=1), expected, "the sum of the credit")


def sign_is_kept(strategy: Strategy, rollouts: Rollouts) -> None:
    """No token gets the sign opposite to its completion's advantage."""
    credit = strategy.credit(rollouts)
    opposed = credit * rollouts.advantages[:, None] < 0
    if opposed.any():
        row, token = opposed.nonzero()[0].tolist()
        raise AssertionError(
            f"the credit is {float(credit[row, token]):.6g} at [row {row}, token {token}], against "
            f"the advantage {float(rollouts.advantages[row]):.6g}"
        )


def no_gradient_flows(strategy: Strategy, rollouts: Rollouts) -> None:
    """Credit is a constant to autograd."""
    with torch.enable_grad():
        _require(not strategy.credit(rollouts).requires_grad, "credit carries a gradient")


def other_windows_change_nothing(strategy: Strategy, rollouts: Rollouts) -> None:
    """Rows of other windows add nothing to this window's totals."""
    twice = Rollouts.cat([rollouts, replace(rollouts, window_count=0 * rollouts.window_count)])
    beside = strategy.credit(twice)[: len(rollouts.group)]
    _equal(beside, strategy.credit(rollouts), "the credit beside rows of another window")


def float32_will_do(strategy: Strategy, rollouts: Rollouts) -> None:
    """Credit in float32, as in training, is what float64 gives, to a relative 1e-4 or to 1e-6."""
    tensors = _tensors(rollouts).items()
    single = {name: value.float() for name, value in tensors if value.is_floating_point()}
    credit = strategy.credit(replace(rollouts, **single)).double()
    _equal(credit, strategy.credit(rollouts), "the credit in float32", 1e-4, 1e-6)


def the_rollouts_are_left_alone(strategy: Strategy, rollouts: Rollouts) -> None:
    """Computing credit changes nothing in the rollouts, and computing it again gives the same."""
    before = {name: value.clone() for name, value in _tensors(rollouts).items()}
    first = strategy.credit(rollouts).clone()
    for name, value in _tensors(rollouts).items():
        same = torch.equal(value.nan_to_num(), before[name].nan_to_num())
        _require(same, f"rollouts.{name} was changed in place")
    _equal(strategy.credit(rollouts), first, "the credit when computed again")


ALWAYS: tuple[Law, ...] = (
    zero_outside_the_mask,
    padding_changes_nothing,
    masked_values_mean_nothing,
    rows_may_be_permuted,
    groups_may_be_relabelled,
    other_windows_change_nothing,
    the_rollouts_are_left_alone,
    no_gradient_flows,
    float32_will_do,
)
PROMISES: dict[str, Law] = {  # what a decorator declares, and the law it stands for
    "linear": allocation_is_linear,
    "conserves_mass": mass_is_conserved,
    "keeps_sign": sign_is_kept,
    "sign_free": weights_are_nonnegative_and_blind_to_sign,
}


def _require(holds: bool | Tensor, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)


def _tensors(rollouts: Rollouts) -> dict[str, Tensor]:
    return {name: value for name, value in vars(rollouts).items() if isinstance(value, Tensor)}


def _equal(
    actual: Float[Tensor, "..."],
    expected: Float[Tensor, "..."],
    what: str,
    relative: float = 1e-6,
    absolute: float = 1e-12,
) -> None:
    """Compare, relative to the largest value expected; name the first difference."""
    scale = expected.abs().max() if expected.numel() else 0.0
    apart = (actual - expected).abs() > relative * scale + absolute
    if apart.any():
        place = tuple(apart.nonzero()[0].tolist())
        words = ", ".join(f"{axis} {n}" for axis, n in zip(("row", "token"), place, strict=False))
        raise AssertionError(
            f"{what} is {float(actual[place]):.6g} at [{words}], "
            f"expected {float(expected[place]):.6g}"
        )


def listed(values: Float[Tensor, " n"]) -> str:
    """Write numbers as a short list."""
    return f"[{', '.join(f'{value:.4g}' for value in values.tolist())}]"
