"""Samples made by hand, and a real trainer whose completions are."""

import tempfile
from typing import Any

import numpy as np
from datasets import Dataset
from harness import TOKENIZER, policy

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.preflight.sample import RewardSample, Sample

PROMPTS = [f"{i}+{i + 1}=" for i in range(1, 9)]


def reward_sample(scores, name="format", weight=1.0, **found) -> RewardSample:
    return RewardSample(name, weight, np.array(scores, dtype=float), **found)


def sample(*rewards, size=4, group=4, cut=0.0, seconds=1.0, special=0.0) -> Sample:
    count = len(rewards[0].scores)
    return Sample(
        size=size,
        lengths=[10] * count,
        truncated=[i < cut * count for i in range(count)],
        special=[i < special * count for i in range(count)],
        rewards=list(rewards),
        longest=16,
        group=group,
        generated=count,
        seconds=seconds,
        at_once=count,
    )


class Clock:
    """Time that passes only when a reward says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rollouts_of(texts: list[str], ends: list[bool]) -> Any:
    """Make a `rollout_func` that hands out texts in turn, some without an end token."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        first = trainer.accelerator.process_index * len(prompts)
        rows = [(first + i) % len(texts) for i in range(len(prompts))]
        end = [TOKENIZER.eos_token_id]
        return {
            "prompt_ids": [TOKENIZER.encode(p) for p in prompts],
            "completion_ids": [TOKENIZER.encode(texts[r]) + end * ends[r] for r in rows],
            "logprobs": None,
        }

    return rollout


def options(**more: Any) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 24,
        "max_steps": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "output_dir": tempfile.mkdtemp(),
        **more,
    }


def trainer_of(
    rewards: Any,
    texts: list[str] | None = None,
    ends: list[bool] | None = None,
    prompts: list[str] = PROMPTS,
    columns: dict[str, list[Any]] | None = None,
    callbacks: list[Any] | None = None,
    **more: Any,
) -> CreditGRPOTrainer:
    """Make a trainer; its completions are `texts` in turn, or sampled from a tiny random model."""
    rollout = None if texts is None else rollouts_of(texts, ends or [True] * len(texts))
    return CreditGRPOTrainer(
        model=policy(),
        reward_funcs=rewards,
        args=CreditGRPOConfig(**options(**more)),
        train_dataset=Dataset.from_dict({"prompt": prompts, **(columns or {})}),
        processing_class=TOKENIZER,
        rollout_func=rollout,
        callbacks=callbacks,
    )
