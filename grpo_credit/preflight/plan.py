"""What a configuration means, printed without training, loading weights or writing anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from grpo_credit.preflight.batches import Batches, check_batches
from grpo_credit.preflight.columns import check_columns, reward_name, spread
from grpo_credit.preflight.findings import Finding
from grpo_credit.preflight.held_out import HeldOutTests
from grpo_credit.preflight.memory import Memory, ModelSize, estimate, model_size

LOOKED_AT = 64  # prompts whose length is counted


@dataclass(frozen=True)
class Outline:
    """What a configuration comes to: its batches, its credit (a `config.Plan`), its rewards' names.

    `prompt_tokens` are mean, maximum and number of some prompts. They and what follows from the
    model's configuration are None where that is not there yet; `available`, the bytes of the
    accelerator, without one. `saves_rollouts`: whether some are kept for all that rules may need.
    """

    batches: Batches
    credit: Any
    rewards: Sequence[str]
    prompt_tokens: tuple[float, int, int] | None
    size: ModelSize | None
    memory: Memory | None
    available: int | None
    saves_rollouts: bool
    findings: Sequence[Finding]
    tests: HeldOutTests


def outline(setup: Any, peft_config: Any = None) -> Outline:
    """Work out what a recipe's options come to.

    Args:
        setup: the recipe's task on a checked configuration, a `run.recipe.Setup`.
        peft_config: of the adapter, if one is trained.
    """
    from grpo_credit.trainer.config import plan

    args, task = setup.args, setup.task
    batches = Batches.of(args, task.train)
    config, tokenizer = _described(args, setup.model_args, task)
    to_train, to_test = (_prompt_tokens(rows, tokenizer, args) for rows in (task.train, task.test))
    size = _size(config, args, setup.model_args, peft_config) if config is not None else None
    longest = [lengths[1] if lengths else 0 for lengths in (to_train, to_test)]
    memory = None if size is None else estimate(size, args, *longest)
    named = [(reward_name(reward), reward) for reward in task.rewards]
    columns = getattr(task.train, "column_names", None)
    findings = check_batches(batches) + (check_columns(named, columns) if columns else [])
    available = _available()
    if memory and available and memory.peak > 0.9 * available:
        findings.append(_too_large(memory.peak, available))
    return Outline(
        batches=batches,
        credit=plan(args),
        rewards=[name for name, _ in named],
        prompt_tokens=to_train,
        size=size,
        memory=memory,
        available=available,
        saves_rollouts=bool(args.save_rollouts),
        findings=findings,
        tests=HeldOutTests.of(args, setup.script, task, batches),
    )


def _described(args: Any, model_args: Any, task: Any) -> tuple[Any, Any]:
    """Return the configuration and the tokenizer of the model; no weights are loaded."""
    name = model_args.model_name_or_path
    if not name:
        return task.tiny_outline() if task.tiny_outline is not None else (None, None)
    where = {"revision": model_args.model_revision, "trust_remote_code": args.trust_remote_code}
    return AutoConfig.from_pretrained(name, **where), AutoTokenizer.from_pretrained(name, **where)


def _size(config: Any, args: Any, model_args: Any, peft_config: Any) -> ModelSize:
    bits = 4 if model_args.load_in_4bit else 8 if model_args.load_in_8bit else None
    dtype = (args.model_init_kwargs or {}).get("dtype", model_args.dtype)
    return model_size(config, dtype, peft_config, bits)


def _prompt_tokens(rows: Any, tokenizer: Any, args: Any) -> tuple[float, int, int] | None:
    """Count the tokens of some prompts, spread over the data; None where these are unknown."""
    if tokenizer is None or not hasattr(rows, "__len__") or not len(rows):
        return None
    options = args.chat_template_kwargs or {}
    lengths = [_tokens(tokenizer, row["prompt"], options) for row in spread(rows, LOOKED_AT)]
    return sum(lengths) / len(lengths), max(lengths), len(lengths)


def _tokens(tokenizer: Any, prompt: Any, options: dict[str, Any]) -> int:
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=True, **options
    )
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _available() -> int | None:
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def _too_large(peak: int, available: int) -> Finding:
    return Finding(
        "warning",
        "memory",
        f"about {size_of(peak)} are needed at the peak, and the device has {size_of(available)}.",
        "Lower --per_device_train_batch_size and raise --gradient_accumulation_steps by the same "
        "factor, train an adapter (--use_peft), or spread the model over devices (FSDP, ZeRO-3).",
    )


def size_of(count: float) -> str:
    """Write bytes in the unit that suits.

    Example:
        >>> [size_of(n) for n in (512, 3 * 2**20, 5.5 * 2**30)]
        ['512 B', '3.0 MiB', '5.5 GiB']
    """
    power = next((p for p in range(4) if count < 1024 ** (p + 1)), 4)
    digits = 1 if power else 0
    return f"{count / 1024**power:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
