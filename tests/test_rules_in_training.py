"""Every rule goes through the trainer: steps, iterations, resuming, two processes."""

import math

import pytest
import torch
from harness import difference
from rules import RULES, train
from torchrun import launch

ITERATIONS = {"num_iterations": 2, "max_steps": 2}
# Three prompts on two ranks of six rows: the second group lies on both.
ACROSS = {"prompts": 3, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 1} | (
    ITERATIONS
)
ALONE = ACROSS | {"per_device_train_batch_size": 12}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_trains_and_resumes(name, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "output_dir": str(tmp_path)}
    through = train(name, max_steps=5, **options)
    assert all(math.isfinite(loss) for loss in through.losses)
    assert all(gradient.isfinite().all() for gradient in through.gradients)
    assert all(gradient.norm() > 0 for gradient in through.gradients)
    resumed = train(name, max_steps=5, resume=str(tmp_path / "checkpoint-3"))
    assert len(resumed.gradients) == 2
    for one, other in zip(resumed.gradients, through.gradients[3:], strict=True):
        assert difference(one, other) <= 1e-5


@pytest.mark.parametrize("names", [RULES[::2], RULES[1::2]], ids=["a half", "the other"])
def test_two_processes_train_as_one(tmp_path, names):
    launch(2, "rules_two_processes.py", tmp_path, *names)
    saved = torch.load(tmp_path / "gradients.pt")
    assert set(saved) == set(names)
    for name, two in saved.items():
        for step, (found, expected) in enumerate(
            zip(two, train(name, **ALONE).gradients, strict=True)
        ):
            assert difference(found, expected) <= 1e-5, (name, step)
