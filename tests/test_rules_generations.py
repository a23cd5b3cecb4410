"""What a step joins from several generations is scaled in each of them by itself."""

from dataclasses import replace

import pytest
import torch
from harness import OPTIONS, shipped

from grpo_credit import Rollouts, resolve_credit
from grpo_credit.credit.conformance import examples

OF_THE_WINDOW = {
    "automaton",
    "empg",
    "entropy_top",
    "lhts",
}  # compare tokens of all rows that are trained on
ALLOCATIONS = [rule.name for rule in shipped() if rule.kind == "allocation"]


@pytest.mark.parametrize("name", sorted({*ALLOCATIONS} - OF_THE_WINDOW))
def test_batch_scaling_is_within_a_generation(name):
    landed = resolve_credit(f"{name}/seq", **OPTIONS.get(name, {})).allocation
    parts = [replace(made, scale_rewards="batch") for made in examples(0)][:4]
    joined = landed(Rollouts.cat(parts)).split([len(part.group) for part in parts])
    for part, found in zip(parts, joined, strict=True):
        own = landed(part)
        torch.testing.assert_close(found[:, : own.shape[1]], own, rtol=1e-9, atol=1e-12)
