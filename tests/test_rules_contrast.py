"""Weights from a privileged prompt."""

import math
from dataclasses import replace

import pytest
import torch
from drawn import close, random_rollouts

from grpo_credit import CreditError, compute_credit
from grpo_credit.credit.allocations.contrast import contrast


def slow(rollouts, clip, mix):
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        a = float(rollouts.advantages[i])
        delta = float(rollouts.privileged_logps[i, t] - rollouts.old_logps[i, t])
        sign = (a > 0) - (a < 0)
        weight = min(max(math.exp(min(sign * delta, 700)), 1 - clip), 1 + clip)
        credit[i, t] = a * ((1 - mix) + mix * weight)
    return credit


@pytest.mark.parametrize("clip", [0.2, 1.0])
@pytest.mark.parametrize("mix", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_contrast_equals_its_loop(seed, mix, clip):
    rollouts = random_rollouts(seed)
    found = torch.where(rollouts.mask, contrast(rollouts, clip=clip, mix=mix), 0.0)
    close(found, slow(rollouts, clip, mix))


@pytest.mark.parametrize(
    ("options", "equal_prompts"), [({"mix": 0.0}, False), ({"clip": 0.0}, False), ({}, True)]
)
def test_contrast_is_even_without_a_contrast(options, equal_prompts):
    rollouts = random_rollouts(0)
    if equal_prompts:
        rollouts = replace(rollouts, privileged_logps=rollouts.old_logps)
    found = compute_credit("contrast/seq", rollouts, **options)
    close(found, compute_credit("even/seq", rollouts))


def test_an_enormous_shift_is_clipped():
    rollouts = random_rollouts(0)
    rollouts = replace(rollouts, old_logps=torch.full_like(rollouts.old_logps, -5000.0))
    good = rollouts.rows(rollouts.advantages > 0)
    found = torch.where(good.mask, contrast(good, mix=1.0), 0.0)
    close(found, 1.2 * good.advantages[:, None] * good.mask)


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
        compute_credit("contrast/seq", random_rollouts(0), **options)
