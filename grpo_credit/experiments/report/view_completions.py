"""Completions of every strategy, to read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, cut
from grpo_credit.experiments.words import signed
from grpo_credit.text import visible

_ABSTAINED = "none"


@dataclass(frozen=True)
class Line:
    """A completion as it is shown.

    Args:
        credit: the strategy it was trained with.
        seed: of the run.
        step: optimizer step that sampled it.
        rewards: reward function -> what it said, as text.
        reward: the sum of what is a number, as text; for the filter.
        advantage: as text.
        prompt: as text.
        completion: as text.
        start: of the completion, on one line.
    """

    credit: str
    seed: int
    step: int
    rewards: Mapping[str, str]
    reward: str
    advantage: str
    prompt: str
    completion: str
    start: str


@dataclass(frozen=True)
class Browser:
    """What there is to read.

    Args:
        lines: in the order of showing.
        strategies: to choose from.
        steps: to choose from.
        left_out: completions of completions.parquet that are not shown.
    """

    lines: list[Line]
    strategies: list[str]
    steps: list[int]
    left_out: int


def browser(report: Report, limits: Limits) -> Browser:
    """Choose completions to read: of every strategy and step in turn while there is room."""
    chosen = set(_within(report.completions, limits))
    lines = [_line(row, limits) for n, row in enumerate(report.completions) if n in chosen]
    return Browser(
        lines,
        list(dict.fromkeys(line.credit for line in lines)),
        sorted({line.step for line in lines}),
        len(report.completions) - len(lines),
    )


def _within(rows: Sequence[Mapping[str, Any]], limits: Limits) -> list[int]:
    """Return the places of the rows to show."""
    turns: dict[tuple[str, int], int] = {}
    order = []
    for place, row in enumerate(rows):
        key = (row["credit"], row["step"])
        turns[key] = turns.get(key, -1) + 1
        order.append((turns[key], place))
    kept, used = [], 0
    for _, place in sorted(order):
        used += 400 + sum(min(len(rows[place][n]), limits.text) for n in ("prompt", "completion"))
        if kept and used > limits.characters:
            break
        kept.append(place)
    return kept


def _line(row: Mapping[str, Any], limits: Limits) -> Line:
    rewards = json.loads(row["rewards"])
    text = json.loads(row["completion"])
    scored = [value for value in rewards.values() if value is not None]
    return Line(
        visible(row["credit"]),
        row["seed"],
        row["step"],
        {visible(n): _ABSTAINED if v is None else f"{v:.4g}" for n, v in rewards.items()},
        f"{sum(scored):.4g}" if scored else "",
        _ABSTAINED if row["advantage"] is None else signed(row["advantage"]),
        visible(cut(json.loads(row["prompt"]), limits.text)),
        visible(cut(text, limits.text)),
        visible(" ".join(text[:200].split()))[:120] or "(empty)",
    )
