"""`even` allocation with each twin's aggregation is TRL's own loss and gradient."""

import itertools

import pytest
from harness import ROUNDING, difference, ours, run, trl
from trl import GRPOConfig

from grpo_credit import CreditGRPOTrainer

TWINS = {
    "uniform": {"loss_type": "dr_grpo"},
    "length": {"loss_type": "grpo"},
    "seq": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "dapo": {"loss_type": "dapo"},
}
HARD = {  # two iterations, accumulation 2, uneven lengths, one fully masked row, odd counts
    "num_iterations": 2,
    "max_steps": 4,
    "prompts": 3,
    "per_device_train_batch_size": 6,
    "mask_truncated_completions": True,
}


def assert_same(a, b):
    assert len(a.losses) == len(b.losses) > 0
    assert max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True)) <= ROUNDING
    assert len(a.gradients) == len(b.gradients) > 0
    gaps = [difference(x, y) for x, y in zip(a.gradients, b.gradients, strict=True)]
    assert max(gaps) <= ROUNDING


@pytest.mark.parametrize(
    ("credit", "beta", "tools"), [*itertools.product(TWINS, (0.0, 0.04), (False, True))]
)
def test_twin_has_trl_loss_and_gradient(credit, beta, tools):
    theirs = trl(**TWINS[credit], **HARD, beta=beta, tools=tools)
    mine = ours(credit=credit, **HARD, beta=beta, tools=tools)
    assert_same(mine, theirs)
    assert theirs.logs[1]["clip_ratio/region_mean"] > 0, "the second iteration must be off-policy"
    assert_same(
        ours(credit=credit, **HARD, beta=beta, tools=tools, efficient_batching="off"), theirs
    )


@pytest.mark.parametrize("credit", ["uniform", "length", "dapo"])
def test_different_strategies_have_different_gradients(credit):
    other = {"uniform": "length", "length": "dapo", "dapo": "uniform"}[credit]
    gap = difference(ours(credit=credit).gradients[0], ours(credit=other).gradients[0])
    assert gap > 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "dapo"},
        {"loss_type": "grpo", "beta": 0.1},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"loss_type": "luspo"},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "beta": 0.1},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {"loss_type": "sapo"},
        {"loss_type": "sapo", "beta": 0.1},
        {"loss_type": "vespo"},
        {"loss_type": "grpo", "delta": 1.05},
        {"loss_type": "grpo", "entropy_coef": 0.1},
        {"loss_type": "grpo", "top_entropy_quantile": 0.5},
        {"loss_type": "grpo", "off_policy_mask_threshold": 1e-4},
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False},
        {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum"},
        {"loss_type": "grpo", "scale_rewards": "batch"},
        {"loss_type": "grpo", "steps_per_generation": 4, "prompts": 6},
        {"loss_type": "grpo", "steps_per_generation": 1, "gradient_accumulation_steps": 2,
         "per_device_train_batch_size": 12},
        {"loss_type": "dapo", "beta": 0.1, "importance_ratio": True},
        {"loss_type": "grpo", "beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
    ],
    ids=str,
)  # fmt: skip
def test_without_credit_the_training_is_trls(options):
    settings = HARD | options
    assert_same(ours(**settings), trl(**settings))


def test_token_counts_are_the_steps_own_where_trls_are_an_average():
    """The one deliberate difference: `dapo` with two optimizer steps to a generation batch."""
    plan = {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_steps": 2}
    settings = HARD | plan | {"num_iterations": 1, "prompts": 6, "learning_rate": 1e-9}
    mine, theirs = ours(**settings), trl(**settings)
    gaps = [difference(x, y) for x, y in zip(mine.gradients, theirs.gradients, strict=True)]
    assert all(1e-3 < gap < 0.3 for gap in gaps)
    for a, b in zip(mine.gradients, theirs.gradients, strict=True):  # in length alone
        assert difference(a / a.norm(), b / b.norm()) <= ROUNDING


def test_plain_grpo_config_with_a_credit_argument_uses_that_credit():
    mine = run(CreditGRPOTrainer, GRPOConfig, arguments={"credit": "seq"}, **HARD)
    assert_same(mine, trl(**TWINS["seq"], **HARD))


def test_evaluation_loss_is_trls():
    settings = HARD | {
        "loss_type": "grpo", "eval_strategy": "steps", "eval_steps": 1,
        "per_device_eval_batch_size": 4, "beta": 0.1,
    }  # fmt: skip
    mine, theirs = ours(**settings), trl(**settings)
    losses = [log["eval_loss"] for log in theirs.logs if "eval_loss" in log]
    assert losses
    assert [log["eval_loss"] for log in mine.logs if "eval_loss" in log] == pytest.approx(
        losses, abs=ROUNDING
    )


def test_peft_with_kl_is_trls():
    from peft import LoraConfig

    lora = {
        "peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    }
    settings = HARD | {"loss_type": "grpo", "beta": 0.1}
    mine, theirs = ours(arguments=lora, **settings), trl(arguments=lora, **settings)
    assert_same(mine, theirs)
