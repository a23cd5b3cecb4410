"""Every kind of GRPOTrainer script trains the same after changing the class name.

Both trainers generate for real, from the same seed: the losses agree only if ours also consumes
the same random numbers and sees the same batches.
"""

import asyncio
import importlib.resources

import pytest
import torch
from datasets import Dataset, IterableDataset
from harness import PROMPTS, ROUNDING, TOKENIZER, difference, policy, run
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.tiny.tokenizer import build_tokenizer

TEMPLATE = importlib.resources.files("trl").joinpath("chat_templates/qwen3.jinja").read_text()


def digits(completions, **_):
    return [sum(c.isdigit() for c in completion) / 5 for completion in completions]


def signs(completions, **_):
    return [sum(not c.isalnum() for c in completion) / 3 for completion in completions]


async def slow_digits(completions, **_):
    await asyncio.sleep(0.01)
    return digits(completions)


def abstaining(completions, trainer_state, log_metric, log_extra, answer, **_):
    log_metric("mine/step", trainer_state.global_step)
    log_extra("answer", answer)
    return [None if i % 3 == 0 else float(len(c)) for i, c in enumerate(completions)]


def chat_digits(completions, **_):
    return [sum(c.isdigit() for c in completion[-1]["content"]) / 5 for completion in completions]


def reward_model():
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(3)
    return LlamaForSequenceClassification(config)


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.

    Returns:
        The sum.
    """
    return a + b


class Room:
    """An environment that counts how often it was looked at."""

    def reset(self, **_) -> str:
        return " Look around."

    def look(self) -> str:
        """Look around.

        Returns:
            What there is.
        """
        return "nothing"

    def get_reward(self) -> float:
        return float(torch.rand(()))


def rows():
    return [{"prompt": p, "answer": p[0]} for p in PROMPTS]


def chat_rows():
    return [{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS]


def stream():
    return IterableDataset.from_generator(lambda: iter(rows() * 8))


def chat_tokenizer():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


CASES = {
    "plain": {},
    "several rewards": {
        "reward_funcs": [digits, signs, slow_digits],
        "config": {"reward_weights": [1.0, 0.5, 2.0]},
    },
    "abstentions, extra columns": {"reward_funcs": abstaining},
    "a reward model": {"reward_funcs": [reward_model, digits], "processing": [TOKENIZER, None]},
    "GDPO": {
        "reward_funcs": [digits, signs],
        "config": {"multi_objective_aggregation": "normalize_then_sum"},
    },
    "an iterable data set": {"train_dataset": stream},
    "conversations": {"train_dataset": chat_rows, "reward_funcs": chat_digits, "chat": True},
    "tools": {
        "train_dataset": chat_rows, "reward_funcs": chat_digits, "chat": True,
        "arguments": {"tools": [add]},
    },
    "an environment": {
        "train_dataset": chat_rows, "reward_funcs": None, "chat": True,
        "arguments": {"environment_factory": Room},
    },
    "several iterations": {"config": {"num_iterations": 2, "steps_per_generation": 4}},
    "more steps than accumulation": {"config": {"steps_per_generation": 6}},
    "accumulation over generations": {"config": {"steps_per_generation": 1}},
    "KL": {"config": {"beta": 0.1}},
    "KL with a moving reference": {
        "config": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1}
    },
    "evaluation": {
        "config": {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4,
                   "num_generations_eval": 2}
    },
    "truncation masking": {"config": {"mask_truncated_completions": True}},
    "entropy bonus": {"config": {"entropy_coef": 0.1}},
    "adaptive entropy": {"config": {"use_adaptive_entropy": True, "entropy_coef": 0.1}},
    "off-policy masking": {"config": {"off_policy_mask_threshold": 0.1, "num_iterations": 2}},
    "CISPO": {"config": {"loss_type": "cispo", "epsilon_high": 5.0}},
    "SAPO": {"config": {"loss_type": "sapo"}},
    "gradient checkpointing": {"config": {"gradient_checkpointing": True}},
    "padding to multiples": {"config": {"pad_to_multiple_of": 8}},
    "float32 head": {"config": {"cast_lm_head_to_fp32": True}},
    "continuous batching": {
        "config": {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": {"num_blocks": 16, "max_batch_tokens": 64},
        }
    },
}  # fmt: skip


WEIGHED = ("kl", "entropy", "clip_ratio", "cispo_clip_ratio")  # see test_pass_metrics


def made(thing):
    return (
        thing() if callable(thing) and thing in (reward_model, rows, chat_rows, stream) else thing
    )


def train(trainer_class, config_class, case):
    data, rewards = made(case.get("train_dataset", rows)), case.get("reward_funcs", digits)
    settings = {
        "per_device_train_batch_size": 4, "max_completion_length": 8, "loss_type": "grpo",
        "lr_scheduler_type": "linear", "max_grad_norm": 1.0, "shuffle_dataset": True,
    }  # fmt: skip
    arguments = {
        "rollout_func": None,
        "train_dataset": Dataset.from_list(data) if isinstance(data, list) else data,
        "eval_dataset": Dataset.from_list(rows()[:2]),
        "reward_funcs": [made(r) for r in rewards] if isinstance(rewards, list) else rewards,
        "processing_class": chat_tokenizer() if case.get("chat") else TOKENIZER,
        "reward_processing_classes": case.get("processing"),
    }
    arguments |= case.get("arguments", {})
    settings |= case.get("config", {})
    torch.manual_seed(0)
    return run(trainer_class, config_class, arguments=arguments, **settings)


@pytest.mark.parametrize("name", CASES)
def test_changing_the_class_name_changes_nothing(name):
    theirs = train(GRPOTrainer, GRPOConfig, CASES[name])
    mine = train(CreditGRPOTrainer, CreditGRPOConfig, CASES[name])
    name_only = train(CreditGRPOTrainer, GRPOConfig, CASES[name])
    assert len(theirs.gradients) == 2
    for ours in (mine, name_only):
        gaps = [difference(a, b) for a, b in zip(ours.gradients, theirs.gradients, strict=True)]
        assert max(gaps) <= ROUNDING
        for a, b in zip(ours.logs, theirs.logs, strict=True):
            shared = {k for k in b if not k.endswith(("time", "runtime", "per_second"))}
            shared -= {"policy_loss"}  # in TRL its unit depends on the loss type, see README
            assert shared <= set(a), "a metric of TRL is missing"
            if ours is mine:  # our micro-batches are others
                shared = {key for key in shared if not key.startswith(WEIGHED)}
            for key in shared:
                assert a[key] == pytest.approx(b[key], rel=1e-3, abs=ROUNDING), key


def test_a_model_and_tokenizer_are_loaded_from_a_folder(tmp_path):
    policy().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    trainer = CreditGRPOTrainer(
        str(tmp_path / "model"), digits, CreditGRPOConfig(str(tmp_path / "out"), report_to=[]),
        Dataset.from_list(rows()), credit="seq",
    )  # fmt: skip
    assert isinstance(
        trainer.processing_class, type(AutoTokenizer.from_pretrained(tmp_path / "model"))
    )


def test_without_args_the_hardware_decides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = policy()
    model.config._name_or_path = "somewhere/tiny"
    trainer = CreditGRPOTrainer(
        model, digits, train_dataset=Dataset.from_list(rows()), processing_class=TOKENIZER
    )
    assert trainer.args.output_dir == "tiny-GRPO"
    assert trainer.args.bf16 is False
