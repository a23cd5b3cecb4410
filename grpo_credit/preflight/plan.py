"""What a configuration means, printed without training, loading weights or writing anything."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_credit.preflight.batches import Batches, check_batches
from grpo_credit.preflight.columns import check_columns, reward_name
from grpo_credit.preflight.findings import Finding, show
from grpo_credit.preflight.memory import Load, Memory, ModelSize, estimate, model_size
from grpo_credit.show.visible import visible

LOOKED_AT = 64  # prompts whose length is counted
_FORWARD = frozenset({"old_logps", "entropies", "sum_sq_probs", "privileged_logps"})


@dataclass(frozen=True)
class Outline:
    """What a configuration comes to.

    Args:
        batches: the batch arithmetic.
        credit: the resolved `config.Plan`.
        rewards: names.
        prompt_tokens: mean, maximum and number of some prompts; None where no tokenizer is there.
        size: of the model; None where its configuration is not there yet.
        memory: of a rank; None likewise.
        available: bytes of the accelerator; None without one.
        saves_rollouts: whether all that any strategy may need is kept now and then.
        findings: what is wrong already.
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


def outline(args: Any, model_args: Any, task: Any, peft_config: Any = None) -> Outline:
    """Work out what a recipe's options come to.

    Args:
        args: the `CreditGRPOConfig`.
        model_args: TRL's `ModelConfig`.
        task: the recipe's `Task`.
        peft_config: of the adapter, if one is trained.
    """
    from grpo_credit.config import plan

    batches = Batches.of(args, task.train)
    config, tokenizer = _described(args, model_args, task)
    tokens = _prompt_tokens(task.train, tokenizer, args) if tokenizer is not None else None
    size = _size(config, args, model_args, peft_config) if config is not None else None
    memory = None if size is None else estimate(size, Load.of(args, tokens[1] if tokens else 0))
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
        prompt_tokens=tokens,
        size=size,
        memory=memory,
        available=available,
        saves_rollouts=bool(args.save_rollouts),
        findings=findings,
    )


def _described(args: Any, model_args: Any, task: Any) -> tuple[Any, Any]:
    """Return the configuration and the tokenizer of the model; no weights are loaded."""
    from transformers import AutoConfig, AutoTokenizer

    name = model_args.model_name_or_path
    if not name:
        return task.tiny_outline() if task.tiny_outline is not None else (None, None)
    where = {
        "revision": model_args.model_revision,
        "trust_remote_code": args.trust_remote_code,
    }
    return AutoConfig.from_pretrained(name, **where), AutoTokenizer.from_pretrained(name, **where)


def _size(config: Any, args: Any, model_args: Any, peft_config: Any) -> ModelSize:
    bits = 4 if model_args.load_in_4bit else 8 if model_args.load_in_8bit else None
    dtype = (args.model_init_kwargs or {}).get("dtype", model_args.dtype)
    return model_size(config, dtype, peft_config, bits)


def _prompt_tokens(train: Any, tokenizer: Any, args: Any) -> tuple[float, int, int] | None:
    """Count the tokens of some prompts, spread over the data."""
    if not hasattr(train, "__len__") or not len(train):
        return None
    count = min(LOOKED_AT, len(train))
    prompts = [train[i * len(train) // count]["prompt"] for i in range(count)]
    lengths = [_tokens(tokenizer, prompt, args.chat_template_kwargs or {}) for prompt in prompts]
    return sum(lengths) / count, max(lengths), count


def _tokens(tokenizer: Any, prompt: Any, options: dict[str, Any]) -> int:
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=True, **options
    )
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _available() -> int | None:
    import torch

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


# ---- on the terminal --------------------------------------------------------------------------


def print_outline(found: Outline, console: Any = None) -> None:
    """Print an outline as a table, and what is wrong already below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = console or Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="what this configuration means", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for label, text in (*_batch_rows(found), *_model_rows(found), *_credit_rows(found)):
        table.add_row(label, escape(visible(text)))
    out.print(table)
    show(found.findings, out)


def _batch_rows(found: Outline) -> Iterator[tuple[str, str]]:
    b = found.batches
    yield (
        "optimizer step",
        f"{b.completions:,} completions of {number(b.completions / b.group)} prompts x {b.group} "
        f"(per device {b.micro} x accumulation {b.accumulation} x processes {b.ranks})",
    )
    yield (
        "generation",
        f"{b.generated:,} completions of {b.generated_prompts} prompts at once (per device "
        f"{b.micro} x steps_per_generation {b.slices} x processes {b.ranks})",
    )
    yield "window", _window(b)
    yield "policy", _policy(b)
    epochs = "a stream" if b.epochs is None else f"{number(b.epochs)} epochs"
    data = "" if b.prompts is None else f" of {b.prompts:,} prompts"
    yield "optimizer steps", f"{b.steps:,} ({epochs}{data}), {b.generations:,} generations"
    yield (
        "tokens",
        f"at most {b.step_tokens:,} of completions a step, {b.all_tokens:,} generated in all "
        f"(max_completion_length {b.longest}){_prompts(found.prompt_tokens)}",
    )


def _window(b: Batches) -> str:
    if b.uses == b.accumulation:
        return "one generation is one optimizer step"
    if b.uses > b.accumulation:
        return f"one generation serves {number(b.uses / b.accumulation)} optimizer steps"
    return f"one optimizer step joins {number(b.accumulation / b.uses)} generations"


def _policy(b: Batches) -> str:
    if b.on_policy:
        again = f", each completion {b.passes} times" if b.passes > 1 else ""
        return f"on-policy: a step trains on what its own policy sampled{again}"
    return (
        f"off-policy by up to {b.lag} steps (num_iterations {b.passes}, steps_per_generation "
        f"{b.slices}, accumulation {b.accumulation}): the ratio and its clipping matter"
    )


def _prompts(tokens: tuple[float, int, int] | None) -> str:
    if tokens is None:
        return ""
    mean, longest, count = tokens
    return f"; prompts {mean:.0f} on average, {longest} at most ({count} looked at)"


def _model_rows(found: Outline) -> Iterator[tuple[str, str]]:
    size, memory = found.size, found.memory
    if size is None or memory is None:
        yield "parameters", "of the recipe's own tiny model, which is made when training starts"
        return
    share = f"{size.trained / size.parameters:.2%}"
    what = f"an adapter's, {share} of {size.parameters:,}" if size.adapter else "all"
    yield "parameters trained", f"{size.trained:,} ({what})"
    unknown = "unknown" if memory.optimizer is None else size_of(memory.optimizer)
    kept = f"weights {size_of(memory.weights)}, gradients {size_of(memory.gradients)}, "
    kept += f"optimizer {unknown}"
    kept += f", reference model {size_of(memory.reference)}" if memory.reference else ""
    yield "memory of a rank", f"{kept}; counted"
    has = "" if found.available is None else f" of {size_of(found.available)} there are"
    yield (
        "",
        f"activations about {size_of(memory.activations)} a micro-batch, cache about "
        f"{size_of(memory.cache)} when generating; at the peak about {size_of(memory.peak)}{has}. "
        "Estimated; without fragmentation, CUDA's own and vLLM",
    )


def _credit_rows(found: Outline) -> Iterator[tuple[str, str]]:
    credit = found.credit
    yield "credit", str(credit)
    for rule in credit.strategy.rules:
        yield "", f"{rule.kind} {rule.name}: {rule.formula or rule.summary}"
    yield "rewards", ", ".join(found.rewards)
    yield "credit needs", _needs(credit.strategy.needs, found.saves_rollouts)


def _needs(needs: frozenset[str], saves: bool) -> str:
    forward, told = sorted(needs & _FORWARD), sorted(needs - _FORWARD)
    parts = [f"{', '.join(told)}, told by the rewards"] if told else []
    if forward:
        parts.append(
            f"{', '.join(forward)}: a forward pass over each generation"
            + (" (two: one after the privileged prompts)" if len(forward) > 1
               and "privileged_logps" in forward else "")
        )  # fmt: skip
    if saves:
        parts.append("a forward pass more in steps whose rollouts are saved")
    return "; ".join(parts) or "nothing beyond rewards and masks"


def number(value: float) -> str:
    """Write a count without needless digits.

    Example:
        >>> [number(v) for v in (8.0, 0.5, 1234.5678)]
        ['8', '0.5', '1,235']
    """
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.3g}"


def size_of(count: float) -> str:
    """Write bytes in the unit that suits.

    Example:
        >>> [size_of(n) for n in (512, 3 * 2**20, 5.5 * 2**30)]
        ['512 B', '3.0 MiB', '5.5 GiB']
    """
    power = next((p for p in range(4) if count < 1024 ** (p + 1)), 4)
    digits = 1 if power else 0
    return f"{count / 1024**power:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
