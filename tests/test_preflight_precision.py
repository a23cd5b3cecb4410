"""Updates that are too small for the digits of the weights are told of."""

import math

import pytest
import torch
from datasets import Dataset
from harness import TOKENIZER, policy
from peft import LoraConfig
from preflight_helpers import PROMPTS

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.preflight.precision import check_precision, lost_share
from grpo_credit.preflight.verdict import preflight


def by_length(completions, **_):
    return [float(len(c)) for c in completions]


def trainer_of(folder, kind=torch.float32, adapter=None, **options):
    settings = {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [],
        "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 8,
        "learning_rate": 1e-6,
    }  # fmt: skip
    return CreditGRPOTrainer(
        policy().to(kind), by_length, CreditGRPOConfig(str(folder), **settings | options),
        Dataset.from_dict({"prompt": PROMPTS}), processing_class=TOKENIZER, peft_config=adapter,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("weight", "step", "lost"),
    [
        (1.0, 2**-8, 1.0),  # half of the distance to the next number: a tie goes to the even one
        (1.0, 1.01 * 2**-8, 0.0),
        (-1.0, 0.99 * 2**-8, 1.0),
        (0.01, 0.99 * 2**-15, 1.0),  # 2^-7 <= 0.01 < 2^-6
        (0.01, 1.1 * 2**-15, 0.0),
        (0.0, 1e-30, 0.0),
    ],
)
def test_a_step_below_half_a_unit_of_the_last_place_is_lost(weight, step, lost):
    assert lost_share([torch.tensor([weight]).bfloat16()], step) == lost
    assert lost_share([torch.tensor([weight])], step) == 0


def test_the_share_is_over_all_numbers():
    weights = torch.randn(400, generator=torch.Generator().manual_seed(0)).bfloat16()
    below = [2.0 ** (math.floor(math.log2(abs(w))) - 8) > 1e-3 for w in weights.tolist()]
    assert 0 < sum(below) < 400
    assert lost_share([weights[:100].view(10, 10), weights[100:]], 1e-3) == sum(below) / 400


@pytest.mark.parametrize("rate", [1e-6, 1e-5])
def test_what_is_lost_is_what_adamw_does_not_move(rate):
    draw = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter((torch.randn(20_000, generator=draw) * 0.02).bfloat16())
    before, drift = weights.detach().clone(), torch.randn(20_000, generator=draw) * 0.3
    optimizer = torch.optim.AdamW([weights], lr=rate, weight_decay=0.0)
    for _ in range(100):
        weights.grad = (torch.randn(20_000, generator=draw) + drift).bfloat16()
        optimizer.step()
    unmoved = float((weights == before).float().mean())
    assert 0.5 < unmoved < 1
    assert lost_share([before], rate) == pytest.approx(unmoved, abs=0.01)


def test_weights_in_bfloat16_are_an_error_and_in_float32_none(tmp_path):
    assert check_precision(trainer_of(tmp_path)) == []
    (found,) = check_precision(trainer_of(tmp_path, torch.bfloat16))
    assert (found.severity, found.kind) == ("error", "precision")
    assert "in bfloat16, where a step of the learning rate 1e-06 is rounded away" in found.message
    assert "--dtype float32" in found.remedy
    assert check_precision(trainer_of(tmp_path, torch.bfloat16, learning_rate=1.0)) == []
    assert check_precision(trainer_of(tmp_path, torch.bfloat16, optim="sgd")) == []
    assert check_precision(trainer_of(tmp_path, torch.bfloat16, learning_rate=0.0)) == []


def test_an_adapter_that_continuous_batching_casts_is_told_of(tmp_path):
    adapter = LoraConfig(r=4, target_modules="all-linear")
    assert check_precision(trainer_of(tmp_path, torch.bfloat16, adapter, bf16=True)) == []
    batching = {"use_transformers_continuous_batching": True, "bf16": True,
                "transformers_continuous_batching_config": {"num_blocks": 16,
                                                            "max_batch_tokens": 64}}  # fmt: skip
    found = preflight(trainer_of(tmp_path, torch.bfloat16, adapter, **batching))
    (precision,) = [finding for finding in found if finding.kind == "precision"]
    assert precision.severity == "warning"  # the half that begins at 0 does move
    assert "--use_transformers_continuous_batching: with --bf16 it casts" in precision.remedy
