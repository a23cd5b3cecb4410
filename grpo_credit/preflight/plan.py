"""What a configuration means, printed without training, loading weights or writing anything."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer

from grpo_credit import terminal
from grpo_credit.preflight.batches import Batches, check_batches
from grpo_credit.preflight.columns import check_columns, reward_name, spread
from grpo_credit.preflight.engine import check_context, check_room
from grpo_credit.preflight.findings import Finding, show
from grpo_credit.preflight.held_out import held_out_rows
from grpo_credit.preflight.memory import ModelSize, engine_of, estimate, model_size
from grpo_credit.preflight.plan_rows import (
    Row,
    batch_rows,
    credit_rows,
    document_rows,
    engine_rows,
    model_rows,
    rule_rows,
    vine_rows,
)
from grpo_credit.text import size_of, visible
from grpo_credit.trainer.config import plan

LOOKED_AT = 64  # prompts whose length is counted


class Explanation(NamedTuple):
    """What a configuration means, and what is wrong with it already."""

    rows: Sequence[Row]
    findings: Sequence[Finding] = ()

    def print(self) -> None:
        """Print a table, and below it what was found."""
        print_rows(self.rows)
        show(self.findings)

    def as_json(self) -> str:
        """Write label -> lines, and what was found."""
        rows: dict[str, list[str]] = {}
        for label, text in self.rows:  # a row without a label goes on with the one above
            rows.setdefault(label or next(reversed(rows), ""), []).append(text)
        findings = [finding._asdict() for finding in self.findings]
        return json.dumps({"rows": rows, "findings": findings}, indent=1)


def explain(setup: Any, peft_config: Any = None) -> Explanation:
    """Return what a recipe's options come to, and what is wrong already.

    Args:
        setup: the recipe's task on a checked configuration, a `run.recipe.Setup`.
        peft_config: of the adapter, if one is trained.
    """
    args, task = setup.args, setup.task
    batches = Batches.of(args, task.train)
    config, tokenizer = _described(args, setup.model_args, task)
    to_train, to_test = (_prompt_tokens(rows, tokenizer, args) for rows in (task.train, task.test))
    size = _size(config, args, setup.model_args, peft_config) if config is not None else None
    longest = [lengths[1] if lengths else 0 for lengths in (to_train, to_test)]
    credit = plan(args)
    memory = None if size is None else estimate(size, args, *longest, refers=credit.refers)
    available = _available()
    named = [(reward_name(reward), reward) for reward in task.rewards]
    columns = getattr(task.train, "column_names", None)
    findings = check_batches(batches) + (check_columns(named, columns) if columns else [])
    engine = None if size is None else engine_of(size, args)
    left = available and round(available * (1 - (engine.share if engine else 0)))
    if memory and left and memory.peak > 0.9 * left:
        findings.append(_too_large(memory.peak, left))
    room = max(longest) + args.max_completion_length
    context = args.vllm_max_model_length or getattr(config, "max_position_embeddings", room)
    findings += check_context(args, max(longest)) + check_room(engine, available, context)
    rows = [
        *batch_rows(batches, to_train),
        *held_out_rows(args, setup.script, task, batches),
        *model_rows(size, memory, available),
        *engine_rows(engine, available, room),
        *credit_rows(credit, [name for name, _ in named], args.save_rollouts > 0),
        *vine_rows(credit.vine, batches),
    ]  # fmt: skip
    return Explanation(rows, findings)


def explain_supervised(setup: Any, planned: Any) -> Explanation:
    """Return what a supervised recipe's options come to.

    Args:
        setup: the recipe's task on a checked configuration, a `run.recipe.Setup`.
        planned: the credit, a `trainer.sft_config.Supervision`.
    """
    rows = len(setup.task.train) if hasattr(setup.task.train, "__len__") else None
    told = ("held-out numbers", setup.task.title)
    return Explanation([*document_rows(setup.args, rows), told, *rule_rows(planned)])


def print_rows(rows: Sequence[Row], console: Any = None) -> None:
    """Print rows of a plan as a table."""
    table = Table(title="what this configuration means", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for label, text in rows:
        table.add_row(label, escape(visible(text)))
    (console or terminal.console()).print(table)


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
        f"about {size_of(peak)} are needed at the peak, and there are {size_of(available)}.",
        "Lower --per_device_train_batch_size and raise --gradient_accumulation_steps by the same "
        "factor, train an adapter (--use_peft), or spread the model over devices (FSDP, ZeRO-3).",
    )
