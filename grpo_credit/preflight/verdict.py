"""The preflight itself: sample from a trainer, and say what will keep it from learning."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from grpo_credit.preflight.attack import TRIED, attacked
from grpo_credit.preflight.batches import Batches, check_batches
from grpo_credit.preflight.checks import check_sample
from grpo_credit.preflight.columns import (
    check_columns,
    check_golds,
    check_values,
    columns_read,
    spread,
)
from grpo_credit.preflight.draw import draw
from grpo_credit.preflight.engine import check_context, check_prefix_caching, check_probabilities
from grpo_credit.preflight.findings import Finding, Findings, errors, ordered
from grpo_credit.preflight.precision import check_precision
from grpo_credit.preflight.report import print_report
from grpo_credit.preflight.sample import Sample
from grpo_credit.records.ranks import is_main, on_main
from grpo_credit.rewards import check_format, specimen_of

if TYPE_CHECKING:
    from grpo_credit.trainer.seams import Seams

HOW = ("auto", "strict", "off")
ROWS = 256  # of the data that are looked through for empty columns


class NotFit(Exception):
    """A strict preflight found an error."""


def tell(refusal: Exception) -> None:
    """Say in one line on stderr, on the main process, why nothing was trained."""
    if is_main():
        print(f"preflight: error: {refusal}", file=sys.stderr)


def preflight(
    trainer: "Seams",
    *,
    strict: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[Sample, Sequence[Finding], Batches], None] = print_report,
) -> Findings:
    """Sample a few groups and print what was found; call it on every rank, before training.

    It costs one or two generation batches, and scoring them once with gradients of the last layer
    (`trainer.probing`). The trainer, its logs, the order of the data and the random states are left
    as they were.

    Args:
        trainer: a `CreditGRPOTrainer`, or TRL's `GRPOTrainer`.
        strict: whether an error stops.
        clock: tells the time in seconds.
        report: prints what was found, on the main process.

    Returns:
        The findings, errors first, the same on every rank; a notebook shows them as a table.

    Raises:
        NotFit: if it is strict and there is an error; on every rank.
    """
    sample = draw(trainer, clock)
    findings = ordered(on_main(_judge, trainer, sample))
    if is_main():
        report(sample, findings, Batches.of(trainer.args, trainer.train_dataset))
    if strict and (stopping := errors(findings)):
        kinds = ", ".join(finding.kind for finding in stopping)
        raise NotFit(f"nothing was trained: {kinds}. --preflight auto goes on in spite of it.")
    return findings


def read_how(option: Any) -> str:
    """Return `auto`, `strict` or `off`; YAML reads a bare `off` as False.

    Raises:
        ValueError: for anything else.
    """
    how = "off" if option is False else option
    if how not in HOW:
        raise ValueError(f"preflight is {option!r}, expected one of {', '.join(HOW)}.")
    return how


def _judge(trainer: "Seams", sample: Sample) -> list[Finding]:
    named = list(zip(trainer.reward_func_names, trainer.reward_funcs, strict=True))
    data = trainer.train_dataset
    columns = getattr(data, "column_names", None)
    findings = check_sample(sample, alone=getattr(getattr(trainer, "plan", None), "alone", False))
    findings += check_batches(Batches.of(trainer.args, data))
    findings += check_precision(trainer) + check_prefix_caching(trainer)
    findings += check_probabilities(sample.apart, trainer.args)
    findings += check_context(trainer.args, sample.prompt_tokens)
    if columns:  # unknown for some streams
        findings += check_columns(named, columns)
        read = columns_read(named, columns)
        rows = spread(data.select_columns([*read]), ROWS) if read else []
        findings += check_values(read, rows) + check_golds(named, rows)
    few = spread(data, TRIED)
    for (name, reward), drawn in zip(named, sample.rewards, strict=True):
        if not drawn.failures and not drawn.relief:
            findings += _format(name, reward, trainer)
        if not drawn.failures:
            findings += attacked(name, reward, few, drawn.calls)
    return findings


def _format(name: str, reward: Any, trainer: "Seams") -> list[Finding]:
    """Let `rewards.check_format` try a format reward out on what the tokenizer makes of it."""
    if getattr(reward, "columns", ()) or not callable(reward) or specimen_of(reward) is None:
        return []
    rows = spread(trainer.train_dataset, 16)
    prompts = [row["prompt"] for row in rows if "prompt" in row]
    if not prompts:
        return []
    found = check_format(reward, trainer._tokenizer, prompts, **trainer.chat_template_kwargs)
    return [Finding(f.level, f"reward {name}: format", f.message) for f in found]
