"""vLLM's engine on a CPU, started once for all trainers, and the gradient that they should have."""

import copy
import functools
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils.other import get_free_port
from datasets import Dataset
from harness import Trace, whole_gradient
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.tiny.tokenizer import build_word_tokenizer

LONGEST = 8
TOKENIZER = build_word_tokenizer(list("abcdefghijkl"))
EOS = TOKENIZER.eos_token_id
ENDS = {EOS, TOKENIZER.pad_token_id}  # as TRL has it
PROMPTS = ["a b", "c", "d e f", "g a b c"]


@contextmanager
def one_engine() -> Iterator[None]:
    """Let every trainer have the same engine, one that can be given new weights.

    It computes in float32, where left alone it takes bfloat16 for a model in float32. On a CPU it
    packs the weights of linear layers and drops the originals, which TRL loads new ones into.
    """
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    import vllm.model_executor.layers.utils as layers
    from trl.generation import vllm_generation

    os.environ.setdefault("MASTER_PORT", str(get_free_port()))  # TRL's first choice is everybody's

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    llm = functools.partial(vllm_generation.LLM, enforce_eager=True, dtype="float32")
    with (
        patch.object(layers, "dispatch_cpu_unquantized_gemm", plain),
        patch.object(vllm_generation, "LLM", functools.cache(llm)),
    ):
        yield


@functools.cache
def saved() -> str:
    """Save a random model of a shape that vLLM has a kernel for, and its tokenizer."""
    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENIZER), hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, eos_token_id=EOS, bos_token_id=None,
        pad_token_id=TOKENIZER.pad_token_id, max_position_embeddings=512, initializer_range=0.1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Score a completion by its tokens."""
    return [sum(ids) % 7 / 3 for ids in completion_ids]


def copy_of(model: Any) -> Any:
    """Copy a model, without accelerate's forward pass: that stays bound to the original."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        vars(module).pop("forward", None)
    return copied


@dataclass
class Row:
    """A completion as vLLM gave it: token ids, and the logarithm of each one's probability."""

    prompt: list[int]
    completion: list[int]
    sampled: torch.Tensor
    counted: bool = True


@dataclass
class Seen(Trace):
    """What a trainer's engine generated, call by call, and the weights before each step."""

    calls: list[list[Row]] = field(default_factory=list)
    before: list[PreTrainedModel] = field(default_factory=list)

    def on_step_begin(self, *_: Any, model: Any, **__: Any) -> None:
        self.before.append(copy_of(model).double())


def trainer_of(
    prompts: list[str] = PROMPTS, callbacks: list[Any] | None = None, **options: Any
) -> tuple[CreditGRPOTrainer, Seen]:
    """Make a trainer that samples by vLLM in its process, and is looked at."""
    seen, peft_config = Seen(), options.pop("peft_config", None)
    args = CreditGRPOConfig(**{
        "output_dir": tempfile.mkdtemp(), "use_vllm": True, "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.2, "report_to": [], "use_cpu": True, "bf16": False,
        "per_device_train_batch_size": 16, "num_generations": 4, "max_steps": 1,
        "max_completion_length": LONGEST, "logging_steps": 1, "save_strategy": "no",
        "gradient_checkpointing": False, "disable_tqdm": True, "shuffle_dataset": False,
        "scale_rewards": "none", "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", **options,
    })  # fmt: skip
    trainer = CreditGRPOTrainer(
        saved(), reward, args, Dataset.from_dict({"prompt": prompts}),
        processing_class=TOKENIZER, callbacks=[seen, *(callbacks or [])], peft_config=peft_config,
    )  # fmt: skip
    generate = trainer.vllm_generation.generate

    def recorded(*given: Any, **named: Any) -> Any:
        output = generate(*given, **named)
        prompt_ids, completion_ids, logps, _ = output
        seen.calls.append([
            Row(prompt, list(ids), torch.tensor(of_row, dtype=torch.float64)[:, 0])
            for prompt, ids, of_row in zip(prompt_ids, completion_ids, logps, strict=True)
        ])  # fmt: skip
        return output

    trainer.vllm_generation.generate = recorded
    return trainer, seen


# ---- the gradient, from the sampled tokens ----------------------------------------------------


def scored(model: Any, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each token of a completion, and the entropy there, in nats."""
    ids = torch.tensor([[*row.prompt, *row.completion]])
    logps = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
    of_token = logps.gather(1, torch.tensor(row.completion)[:, None])[:, 0]
    return of_token, -(logps.exp() * logps).sum(-1).detach()


def corrected(how: str, difference: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return the weight of each token for having been sampled by another program's probabilities.

    `difference` is log p of the trainer - log p of the engine, per token, in nats.
    """
    level, _, action = how.partition("_")
    exponent = difference.sum().expand_as(difference) if level == "sequence" else difference
    ratio = exponent.exp()
    if action == "truncate":
        return ratio.clamp(low, high)
    return torch.where((ratio < low) | (ratio > high), 0.0, ratio)


WEIGHT = {  # of a token: N completions, L tokens of its own one, T tokens of all
    "uniform": lambda n, length, total: 1 / (n * LONGEST),
    "length": lambda n, length, total: 1 / (n * length),
    "seq": lambda n, length, total: 1 / n,
    "dapo": lambda n, length, total: 1 / total,
}


def credit(name: str, rows: list[Row], entropies: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return what each token is credited with, by the formulas of the rules."""
    allocation, _, aggregation = name.rpartition("/")
    rewards = torch.tensor(reward([row.completion for row in rows]), dtype=torch.float64)
    groups = rewards.view(-1, 4)
    landed = (groups - groups.mean(1, keepdim=True)).flatten()
    if allocation == "wreinforce":
        landed = torch.where(rewards > 0.5, 0.1, -1.0).double()
    counted = [row.counted for row in rows]
    every = torch.cat([e for e, c in zip(entropies, counted, strict=True) if c] or [torch.ones(1)])
    threshold = every.sort(descending=True).values[-(-len(every) // 2) - 1]
    total = sum(len(row.completion) for row in rows if row.counted)
    return [
        value * row.counted * WEIGHT[aggregation](len(rows), len(row.completion), max(1, total))
        * (entropy >= threshold if allocation == "entropy_top" else torch.ones_like(entropy))
        for row, value, entropy in zip(rows, landed, entropies, strict=True)
    ]  # fmt: skip


def expected(
    name: str, model: Any, rows: list[Row], old: Any = None, how: str = "", low: float = 0.0,
    high: float = 3.0,
) -> torch.Tensor:  # fmt: skip
    """Compute the gradient of a step, in float64, row by row and without padding.

        L = - Σ_i Σ_t w · min(r C, clip(r, 0.8, 1.2) C)    r = π / π of `old`, w TRL's correction

    Args:
        name: of the strategy.
        model: the policy, in float64.
        rows: what was sampled, groups of four side by side.
        old: the policy that sampled, if it is another one.
        how: TRL's `vllm_importance_sampling_mode`; none for no correction.
        low: below which a ratio is cut or dropped.
        high: above which it is.
    """
    model.zero_grad()
    with torch.no_grad():
        before = [scored(old or model, row) for row in rows]
    for row, (old_logps, _), of_token in zip(
        rows, before, credit(name, rows, [entropy for _, entropy in before]), strict=True
    ):
        weight = corrected(how, old_logps - row.sampled, low, high) if how else 1.0
        ratio = (scored(model, row)[0] - old_logps).exp()
        surrogate = torch.minimum(ratio * of_token, ratio.clamp(0.8, 1.2) * of_token)
        (-(weight * surrogate).sum()).backward()
    return whole_gradient(model)


if __name__ == "__main__":  # a recipe and its options, with an engine as in the tests
    sys.argv = sys.argv[1:]
    with one_engine():
        runpy.run_path(sys.argv[0], run_name="__main__")
