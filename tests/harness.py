"""Run TRL's trainer and ours on the same completions, and compare losses and gradients.

Completions come from a `rollout_func`, so that they are the same for every way of cutting a step,
with uneven lengths, a fully masked row and a tool mask.
"""

import functools
import random
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer, list_credit
from grpo_credit.credit.strategy import Rule
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.tokenizer import build_tokenizer
from grpo_credit.trainer.passes.eligibility import Batching

PROMPTS = [f"{i}+{i + 1}=" for i in range(1, 9)]
GROUP = 4
LONGEST = 12
# Of float32 on any processor. The terms of a loss are up to ten in size and cancel: their sum is
# off by some 2^-24 of them, whatever is left of it. A wrong mask or denominator moves a loss or a
# gradient by a thousandth and more.
ROUNDING = 1e-5
OPTIONS = {  # of rules with an option that has no default
    "potential": {"function": "rules:digits_so_far"},
    "softmax_length": {"lam": 1.0},
    "temper": {"tau": 0.5},
    "lhts": {"tau": 0.5},
}
TOKENIZER = build_tokenizer()


def completion(prompt: str, member: int) -> list[int]:
    """Return the token ids of a group member: 1 to 11 characters and an end, or cut off."""
    rng = random.Random(f"{prompt}{member}")
    length = rng.randrange(1, LONGEST)
    ids = [rng.choice(TOKENIZER.encode("0123456789,")) for _ in range(length)]
    if prompt == PROMPTS[0] and member == 1:  # truncated; fully masked on request
        return [*ids, *([ids[0]] * (LONGEST - length))]
    return [*ids, TOKENIZER.eos_token_id]


def tool_mask(ids: list[int]) -> list[int]:
    """Mark the third to fifth token as a tool's."""
    return [0 if 2 <= i < 5 and len(ids) > 6 else 1 for i in range(len(ids))]


def reward(completions: list[str], **_: Any) -> list[float | None]:
    """Score a completion by its digits; abstain on one that begins with 7."""
    return [
        None if c.startswith("7") else sum(map(int, c.replace(",", ""))) % 7 / 3
        for c in completions
    ]


def rollouts_with(tools: bool, completion: Callable[[str, int], list[int]] = completion) -> Any:
    """Make a `rollout_func` that looks completions up by prompt and place in the group."""

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        first = trainer.accelerator.process_index * len(prompts)
        ids = [completion(p, (first + i) % GROUP) for i, p in enumerate(prompts)]
        output = {
            "prompt_ids": [TOKENIZER.encode(p) for p in prompts],
            "completion_ids": ids,
            "logprobs": None,
        }
        return output | ({"env_mask": [tool_mask(i) for i in ids]} if tools else {})

    return rollout


def shipped() -> list[Rule]:
    """List the rules of the package, without those that tests register."""
    return [r for r in list_credit() if r.function.__module__.startswith("grpo_credit.")]


@functools.cache
def reference() -> str:
    """Save the reference model, which is not the policy, so that the KL term is never zero."""
    folder = tempfile.mkdtemp()
    build_model(TOKENIZER, seed=2, hidden_size=16, layers=1).save_pretrained(folder)
    return folder


def policy() -> PreTrainedModel:
    """Build the same tiny random policy every time."""
    model = build_model(TOKENIZER, seed=1, hidden_size=16, layers=1)
    model.config._name_or_path = reference()
    return model


def whole_gradient(model: torch.nn.Module) -> torch.Tensor:
    """Join the gradients of all parameters, and their shards where FSDP made some."""
    grads = [p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in grads]
    return torch.cat([g.flatten().double() for g in whole])


@dataclass
class Trace(TrainerCallback):
    """Loss and gradient of every optimizer step, rows and padded width of every pass in it."""

    losses: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    passes: list[tuple[int, int]] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    logs: list[dict[str, float]] = field(default_factory=list)
    batching: Batching | None = None

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self.gradients.append(whole_gradient(model))
        self.losses.append(sum(self.turns))
        self.turns.clear()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        self.logs.append(dict(logs))


DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_generations": GROUP,
    "max_completion_length": LONGEST,
    "max_steps": 2,
    "learning_rate": 0.1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "shuffle_dataset": False,
}


def run(
    trainer_class: type[GRPOTrainer],
    config_class: type[GRPOConfig],
    *,
    model: PreTrainedModel | None = None,
    tools: bool = False,
    prompts: int = 4,
    arguments: dict[str, Any] | None = None,
    importance_ratio: bool = False,
    resume: str | None = None,
    **options: Any,
) -> Trace:
    """Train a few steps on the fixed completions and return what happened.

    With `importance_ratio`, the loss is computed as after sampling by vLLM: TRL multiplies the
    surrogate by a ratio that it finds in the inputs. (Its engine itself: test_vllm.py.)
    """
    trace = Trace()
    given: dict[str, Any] = {
        "eval_dataset": Dataset.from_dict({"prompt": PROMPTS[-2:]}),
        "processing_class": TOKENIZER,
        "rollout_func": rollouts_with(tools),
        "reward_funcs": reward,
        "train_dataset": Dataset.from_dict({"prompt": PROMPTS[:prompts]}),
    }
    trainer = trainer_class(
        model=policy() if model is None else model,
        args=config_class(**{**DEFAULTS, "output_dir": tempfile.mkdtemp(), **options}),
        callbacks=[trace],
        **(given | (arguments or {})),
    )
    with _watched(trace, importance_ratio):
        trainer.train(resume_from_checkpoint=resume)
    engine = getattr(trainer, "_engine", None)
    trace.batching = engine and engine.batching  # as it was settled in training
    return trace


@contextmanager
def _watched(trace: Trace, importance_ratio: bool) -> Generator[None]:
    """Note each pass of TRL's loss, and give it an importance ratio."""
    of_one_pass = GRPOTrainer._compute_loss

    def one_pass(trainer: Any, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        ids = inputs["completion_ids"]
        trace.passes.append((len(ids), inputs["prompt_ids"].size(1) + ids.size(1)))
        trainer.use_vllm = importance_ratio
        if importance_ratio:
            inputs = {**inputs, "importance_sampling_ratio": 1 + ids % 7 / 9}
        loss = of_one_pass(trainer, model, inputs)
        trainer.use_vllm = False
        if trainer.model.training:
            trace.turns.append(float(loss.detach().double()))
        return loss

    # of TRL's class: an override of the trainer's own would keep TRL's micro-batches
    with patch.object(GRPOTrainer, "_compute_loss", one_pass):
        yield


def trl(**options: Any) -> Trace:
    """Train with TRL's own trainer."""
    return run(GRPOTrainer, GRPOConfig, **options)


def ours(**options: Any) -> Trace:
    """Train with ours."""
    return run(CreditGRPOTrainer, CreditGRPOConfig, **options)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Give |a - b| / |b|, Euclidean."""
    return float((a - b).norm() / b.norm())
