"""Completions of every strategy, to read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, cut, fitting, in_turn
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
    rows = report.completions
    order = in_turn(range(len(rows)), lambda n: (rows[n]["credit"], rows[n]["step"]))
    chosen = fitting(order, lambda n: _size(rows[n], limits), limits.characters)
    lines = [_line(rows[n], limits) for n in sorted(chosen)]
    return Browser(
        lines,
        list(dict.fromkeys(line.credit for line in lines)),
        sorted({line.step for line in lines}),
        len(rows) - len(lines),
    )


def _size(row: Mapping[str, Any], limits: Limits) -> int:
    """Return how many characters of the page a row takes, about."""
    return 400 + sum(min(len(row[name]), limits.text) for name in ("prompt", "completion"))


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
