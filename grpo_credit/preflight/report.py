"""A preflight on the terminal: what was sampled, and what follows from it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from grpo_credit import terminal
from grpo_credit.preflight.batches import Batches
from grpo_credit.preflight.findings import Finding, ordered, show
from grpo_credit.preflight.groups import SIZES, dead_shares, mean_informative
from grpo_credit.preflight.headroom import headroom, told
from grpo_credit.preflight.sample import RewardSample, Sample, milliseconds
from grpo_credit.text import duration, in_line, visible

COLUMNS = ("mean", "std", "at its maximum", "abstains", "ms of a call: p50", "p95")
BEGIN, END = 240, 120  # characters of a completion that are shown


def print_report(
    sample: Sample, findings: Sequence[Finding], batches: Batches, console: Any = None
) -> None:
    """Print a sample's numbers and the findings."""
    out = console or terminal.console()
    out.print(_rewards(sample))
    for line in (*_first(sample), *_said(sample, batches)):
        out.print(Text(line))
    show(findings, out)
    if not findings:
        out.print("nothing found that would keep it from learning", highlight=False)


def print_json(sample: Sample, findings: Sequence[Finding], batches: Batches) -> None:
    """Print the same as one JSON document."""
    content = {
        "prompts": len(sample.lengths) // sample.size,
        "num_generations": sample.size,
        "rewards": {
            reward.name: dict(zip(COLUMNS, _numbers(reward), strict=True))
            for reward in sample.rewards
        },
        "said": list(_said(sample, batches)),
        "findings": [finding._asdict() for finding in ordered(findings)],
    }
    print(json.dumps(content, indent=1))


def _said(sample: Sample, batches: Batches) -> Iterator[str]:
    for lines in (_lengths(sample), _groups(sample), _headroom(sample, batches)):
        yield from lines
    yield from _pace(sample, batches)


def _rewards(sample: Sample) -> Any:
    prompts = len(sample.lengths) // sample.size
    table = Table(
        title=f"preflight: {prompts} prompts, {sample.size} completions each", title_justify="left"
    )
    table.add_column("reward")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for reward in sample.rewards:
        table.add_row(escape(visible(reward.name)), *_numbers(reward))
    return table


def _numbers(reward: RewardSample) -> tuple[str, ...]:
    given = reward.scores[~np.isnan(reward.scores)]
    times = milliseconds(reward)
    shown = ("-", "-") if times is None else tuple(f"{ms:,.1f}" for ms in times)
    if reward.failures or not given.size:
        return ("failed" if reward.failures else "-", "-", "-", "-", *shown)
    best = float(np.mean(given == given.max())) if given.max() > given.min() else 0.0
    abstains = 1 - given.size / len(reward.scores)
    numbers = (f"{given.mean():.3f}", f"{given.std():.3f}", f"{best:.0%}", f"{abstains:.0%}")
    return *numbers, *shown


def _first(sample: Sample) -> list[str]:
    """Show what the model writes, its beginning and its end, on one line."""
    text = in_line(sample.first)
    cut = text if len(text) <= BEGIN + END else f"{text[:BEGIN]} […] {text[-END:]}"
    return [f"the first completion: {cut}"] if text else []


def _lengths(sample: Sample) -> list[str]:
    lengths = np.array(sample.lengths)
    cut = np.mean(sample.truncated)
    return [
        f"completions: {lengths.mean():.0f} tokens on average, {lengths.max()} at most; "
        f"{cut:.0%} cut off at max_completion_length={sample.longest}"
    ]


def _groups(sample: Sample) -> list[str]:
    if any(reward.failures for reward in sample.rewards):
        return []
    groups = sample.groups
    shares = {size: mean_informative(groups, size) or 0.0 for size in SIZES}
    by_size = ", ".join(
        f"{'' if size <= sample.size else 'at least '}{share:.0%} for G={size}"
        for size, share in shares.items()
    )
    low, high = dead_shares(groups, sample.group)
    return [
        f"groups expected to be informative (their rewards differ): {by_size}",
        f"dead groups (their rewards are equal) with num_generations={sample.group}: {low:.0%} all "
        f"low, {high:.0%} all high",
    ]


def _headroom(sample: Sample, batches: Batches) -> list[str]:
    found = headroom(sample)
    return told(found, batches.completions, tools=sample.tools is not None) if found else []


def _pace(sample: Sample, batches: Batches) -> list[str]:
    tokens = sum(sample.lengths) / max(sample.seconds, 1e-9)
    scale = sample.generated / sample.at_once
    rewards = sum(s for r in sample.rewards for _, s in r.calls) / batches.ranks
    batch = scale * (sample.seconds + rewards)
    return [
        f"sampled {tokens:,.0f} tokens per second; a generation of {sample.generated} completions "
        f"with its rewards takes about {duration(batch)}, the {batches.generations:,} of the run "
        f"{duration(batch * batches.generations)}. Forward and backward passes come on top."
    ]
