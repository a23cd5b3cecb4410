"""The laws a strategy must obey, runnable on anybody's.

Each law takes a strategy and rollouts and raises `AssertionError` with a counterexample in words.
Equal means equal to a relative 1e-6. A law that a rule declared otherwise about (`linear=False`,
...) is not asked of it.

Example:
    >>> [law for law, verdict in check("seq").items() if verdict != "holds"]
    []
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.resolve import resolve_credit
from grpo_credit.rollouts import Rollouts
from grpo_credit.strategy import CreditError, Strategy

Law = Any  # a function (Strategy, Rollouts) -> None


def zero_outside_the_mask(strategy: Strategy, rollouts: Rollouts) -> None:
    """Credit is finite everywhere and zero where nothing is counted."""
    credit = strategy.credit(rollouts)
    _require(torch.isfinite(credit).all(), "credit is not finite")
    _require((credit[~rollouts.mask] == 0).all(), "credit on masked tokens")


def padding_changes_nothing(strategy: Strategy, rollouts: Rollouts) -> None:
    """More columns of padding leave the credit as it is."""
    columns = rollouts.mask.shape[1]
    wide = strategy.credit(rollouts.padded(columns + 3))
    _equal(wide[:, :columns], strategy.credit(rollouts), "after padding by 3 columns")


def rows_may_be_permuted(strategy: Strategy, rollouts: Rollouts) -> None:
    """Permuting the rows permutes the credit."""
    order = torch.randperm(len(rollouts.group), generator=torch.Generator().manual_seed(0))
    _equal(strategy.credit(rollouts.rows(order)), strategy.credit(rollouts)[order], f"rows {order}")


def groups_may_be_relabelled(strategy: Strategy, rollouts: Rollouts) -> None:
    """The numbers that name the groups mean nothing."""
    relabelled = replace(rollouts, group=1000 - 7 * rollouts.group)
    _equal(strategy.credit(relabelled), strategy.credit(rollouts), "after relabelling the groups")


def weights_are_nonnegative_and_blind_to_sign(strategy: Strategy, rollouts: Rollouts) -> None:
    """Aggregation weights are >= 0 and, unless declared, do not look at the advantages' signs."""
    weights = strategy.weights(rollouts)
    _require((weights >= 0).all(), "a negative aggregation weight")
    if strategy.aggregation is not None and strategy.aggregation.sign_free:
        flipped = replace(rollouts, advantages=-rollouts.advantages)
        _equal(strategy.weights(flipped), weights, "weights after flipping every advantage")


def allocation_is_linear(strategy: Strategy, rollouts: Rollouts) -> None:
    """A[i, t] = A_i · w[i, t], with weights that do not depend on the advantages."""
    unit = replace(rollouts, advantages=torch.ones_like(rollouts.advantages))
    weights = strategy.allocation(unit)
    for said, advantages in (
        ("the advantages", rollouts.advantages),
        ("other advantages", torch.linspace(-1, 2, len(weights), dtype=weights.dtype)),
    ):
        found = strategy.allocation(replace(rollouts, advantages=advantages))
        _equal(found, advantages[:, None] * weights, f"from {said} times what the advantage 1 gets")


def mass_is_conserved(strategy: Strategy, rollouts: Rollouts) -> None:
    """Σ_t A[i, t] = L_i · A_i, so that only the place of the credit changes."""
    weights = strategy.weights(rollouts)
    expected = rollouts.lengths * rollouts.advantages * weights.squeeze(1)
    _equal(strategy.credit(rollouts).sum(dim=1), expected, "the mass of each row")


def sign_is_kept(strategy: Strategy, rollouts: Rollouts) -> None:
    """No token gets the sign opposite to its completion's advantage."""
    opposed = strategy.credit(rollouts) * rollouts.advantages[:, None] < 0
    _require(not opposed.any(), "a token's credit opposes its completion's advantage")


def no_gradient_flows(strategy: Strategy, rollouts: Rollouts) -> None:
    """Credit is a constant to autograd."""
    with torch.enable_grad():
        _require(not strategy.credit(rollouts).requires_grad, "credit carries a gradient")


def other_windows_change_nothing(strategy: Strategy, rollouts: Rollouts) -> None:
    """Rows of other windows add nothing to this window's totals."""
    twice = Rollouts.cat([rollouts, replace(rollouts, window_count=0 * rollouts.window_count)])
    rows = len(rollouts.group)
    _equal(strategy.credit(twice)[:rows], strategy.credit(rollouts), "with rows of another window")


def laws_for(strategy: Strategy) -> dict[str, Law]:
    """Choose the laws that a strategy has not declared itself free of."""
    laws: list[Law] = [
        zero_outside_the_mask,
        padding_changes_nothing,
        rows_may_be_permuted,
        groups_may_be_relabelled,
        no_gradient_flows,
        other_windows_change_nothing,
    ]
    if strategy.aggregation is not None:
        laws.append(weights_are_nonnegative_and_blind_to_sign)
    laws += [allocation_is_linear] if strategy.linear else []
    laws += [mass_is_conserved] if strategy.conserves_mass else []
    laws += [sign_is_kept] if strategy.keeps_sign else []
    return {law.__name__: law for law in laws}


def check(credit: Any, **options: Any) -> dict[str, str]:
    """Run every law on a strategy.

    Args:
        credit: whatever `resolve_credit` takes.
        options: the strategy's keyword arguments.

    Returns:
        Law -> `"holds"`, or the first counterexample in words.
    """
    strategy = resolve_credit(credit, **options)
    return {name: _verdict(law, strategy) for name, law in laws_for(strategy).items()}


def _verdict(law: Law, strategy: Strategy) -> str:
    for rollouts in examples():
        try:
            law(strategy, rollouts)
        except Exception as error:  # anybody's rule: whatever it raises is the verdict
            lengths, rewards = rollouts.lengths.int().tolist(), rollouts.rewards.tolist()
            said = error if isinstance(error, AssertionError | CreditError) else repr(error)
            return f"{said} (lengths {lengths}, rewards {rewards})"
    return "holds"


def examples(count: int = 8) -> Iterator[Rollouts]:
    """Yield rollouts, the degenerate first: empty rows, one token, abstentions, dead groups."""
    yield _made([0, 1, 3, 5], [1.0, 0.0, 1.0, 0.0])
    yield _made([1, 1, 1, 1], [1.0, 0.0, 0.0, 0.0])
    yield _made([2, 4, 3, 1], [None, None, 1.0, 0.0])
    yield _made([2, 4, 3, 1], [1.0, 1.0, 0.0, 0.0])
    yield _made([0, 0, 0, 0], [None, None, None, None])
    for seed in range(count):
        rng = random.Random(seed)
        rows = 2 * rng.randint(1, 4)
        yield _made(
            [rng.randint(0, 6) for _ in range(rows)],
            [rng.choice([0.0, 0.25, 1.0, None]) for _ in range(rows)],
        )


def _made(lengths: list[int], rewards: list[float | None]) -> Rollouts:
    """Make rollouts with every optional field; group members share prefixes, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    rollouts = Rollouts.from_lists(
        lengths,
        rewards,
        num_generations=2,
        max_completion_length=6,
        completion_ids=[
            torch.randint(0, 3, (n,), generator=generator).cumsum(0).tolist() for n in lengths
        ],
        dtype=torch.float64,
    )
    mask, ends = rollouts.mask, rollouts.mask.sum(dim=1, keepdim=True)
    noise = torch.rand(mask.shape, dtype=torch.float64, generator=generator)
    before = torch.arange(mask.shape[1] + 1).minimum(ends)  # like the states: constant at the end
    characters = torch.stack([before[:, :-1], before[:, 1:]], dim=2)
    return replace(
        rollouts,
        old_logps=-noise,
        entropies=noise,
        sum_sq_probs=0.5 + noise / 2,
        privileged_logps=-noise.flip(0),
        spans={"reward/first": mask & (rollouts.position < 2)},
        decided=(ends + 1) // 2,
        states=before // 2,
        step_rewards=torch.where(mask & (rollouts.position % 2 == 1), noise, torch.nan),
        texts=tuple("wait, 1"[:n] for n in lengths),
        offsets=characters,
    )


def _require(holds: Any, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)


def _equal(found: Float[Tensor, "..."], expected: Float[Tensor, "..."], when: str) -> None:
    gap = (found - expected).abs().max() if found.numel() else torch.zeros(())
    scale = expected.abs().max() if found.numel() else torch.zeros(())
    _require(gap <= 1e-6 * scale + 1e-12, f"differs by {float(gap):.3g} {when}")  # float32 will do
