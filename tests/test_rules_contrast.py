"""Weights from a privileged prompt."""

import math
import random
from dataclasses import replace

import pytest
import torch

from grpo_credit import CreditError, Rollouts, compute_credit, resolve_credit
from grpo_credit.credit.allocations.contrast import contrast


def made(seed):
    """Shuffled groups of 4, tools in the middle, an empty row, an abstention, wild log-probs."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rollouts = Rollouts.from_lists(
        [0, *(rng.randint(1, 8) for _ in range(7))],
        [1.0, 0.0, None, 0.5, 0.0, 0.25, 1.0, 1.0],
        num_generations=4,
        max_completion_length=8,
        dtype=torch.float64,
    ).rows(torch.randperm(8, generator=generator))
    noise = torch.rand(2, *rollouts.mask.shape, generator=generator, dtype=torch.float64)
    keep = torch.rand(rollouts.mask.shape, generator=generator) > 0.2
    return replace(
        rollouts,
        mask=rollouts.mask & keep,
        old_logps=-noise[0],
        privileged_logps=torch.where(noise[1] < 0.1, -800.0, -2 * noise[1]),
    )


def slow(rollouts, clip, mix):
    rows, columns = rollouts.mask.shape
    credit = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        a = float(rollouts.advantages[i])
        for t in range(columns):
            if rollouts.mask[i, t]:
                delta = float(rollouts.privileged_logps[i, t] - rollouts.old_logps[i, t])
                sign = (a > 0) - (a < 0)
                weight = min(max(math.exp(min(sign * delta, 700)), 1 - clip), 1 + clip)
                credit[i, t] = a * ((1 - mix) + mix * weight)
    return credit


@pytest.mark.parametrize("clip", [0.2, 1.0])
@pytest.mark.parametrize("mix", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_contrast_equals_its_loop(seed, mix, clip):
    rollouts = made(seed)
    found = torch.where(rollouts.mask, contrast(rollouts, clip=clip, mix=mix), 0.0)
    torch.testing.assert_close(found, slow(rollouts, clip, mix), rtol=1e-12, atol=1e-15)


def test_contrast_by_hand():
    rollouts = replace(
        Rollouts.from_lists(
            [3, 3], [1.0, 0.0], num_generations=2, max_completion_length=3, advantages=[2.0, -2.0]
        ),
        old_logps=torch.full((2, 3), -1.0),
        privileged_logps=-1 + torch.tensor([[1.1, 0.9, 0.1]] * 2).log(),
    )
    # e^Δ = 1.1, 0.9, 0.1; for the bad one 1/1.1, 1/0.9, 1/0.1; clipped to 0.8 .. 1.2.
    # A · (1 + w)/2: 2·1.05, 2·0.95, 2·0.9; -2·(1 + 10/11)/2, -2·(1 + 10/9)/2, -2·1.1
    expected = torch.tensor([[2.1, 1.9, 1.8], [-21 / 11, -19 / 9, -2.2]])
    torch.testing.assert_close(contrast(rollouts), expected)


def test_contrast_promises_to_keep_the_sign():
    assert resolve_credit("contrast").keeps_sign


@pytest.mark.parametrize(
    ("options", "equal_prompts"), [({"mix": 0.0}, False), ({"clip": 0.0}, False), ({}, True)]
)
def test_contrast_is_even_without_a_contrast(options, equal_prompts):
    rollouts = made(0)
    if equal_prompts:
        rollouts = replace(rollouts, privileged_logps=rollouts.old_logps)
    torch.testing.assert_close(
        compute_credit("contrast/seq", rollouts, **options), compute_credit("even/seq", rollouts)
    )


def test_an_enormous_shift_is_clipped():
    rollouts = replace(made(0), old_logps=torch.full((8, made(0).mask.shape[1]), -5000.0).double())
    good = rollouts.rows(rollouts.advantages > 0)
    expected = 1.2 * good.advantages[:, None] * good.mask
    torch.testing.assert_close(contrast(good, mix=1.0), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 1.5}, "clip is 1.5, expected 0 to 1"),
        ({"clip": -0.1}, "clip is -0.1, expected 0 to 1"),
        ({"mix": float("nan")}, "mix is nan, expected 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit("contrast/seq", made(0), **options)


def test_both_log_probabilities_are_needed():
    rollouts = replace(made(0), privileged_logps=None)
    with pytest.raises(CreditError, match=r"needs rollouts\.privileged_logps, which is None"):
        compute_credit("contrast/seq", rollouts)
