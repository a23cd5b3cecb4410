"""The same completions under every strategy, token by token."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_credit.experiments.figures.shading import number, shade
from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, cut
from grpo_credit.text import visible

CREDIT = "credit "  # and the strategy's name: its column in credit.parquet


@dataclass(frozen=True)
class Token:
    """A token as it is shown.

    Args:
        text: with symbols for what cannot be seen.
        settled: whether the reward was settled with it.
        shades: a CSS class for each strategy; "x" where it is not trained on.
        numbers: the credit under each strategy, as text; empty where it is not trained on.
    """

    text: str
    settled: bool
    shades: list[str]
    numbers: list[str]


@dataclass(frozen=True)
class Completion:
    """A completion as it is shown.

    Args:
        step: optimizer step that it was trained on.
        row: in that step's batch.
        group: of completions of the same prompt.
        reward: as text.
        advantage: as text.
        notes: what else is to be known.
        prompt: as text.
        tokens: the first ones.
        left_out: tokens that are not shown.
    """

    step: int
    row: int
    group: int
    reward: str
    advantage: str
    notes: list[str]
    prompt: str
    tokens: list[Token]
    left_out: int


@dataclass(frozen=True)
class Shaded:
    """Completions with one scale per strategy.

    Args:
        strategies: their names.
        scales: the largest |credit| of what is shown, as text.
        completions: in the order of showing.
        left_out: completions of credit.parquet that are not shown.
    """

    strategies: list[str]
    scales: list[str]
    completions: list[Completion]
    left_out: int


def shaded(report: Report, limits: Limits) -> Shaded:
    """Choose completions, of every step in turn, and shade their tokens."""
    names = _strategies(report, limits)
    kept = _within(_in_turn(report.credit), len(names), limits)
    scales = [_scale(kept, name, limits) for name in names]
    return Shaded(
        [visible(name) for name in names],
        [number(scale) for scale in scales],
        [_completion(row, names, scales, limits) for row in sorted(kept, key=lambda r: r["step"])],
        len(report.credit) - len(kept),
    )


def _strategies(report: Report, limits: Limits) -> list[str]:
    """Return the strategies whose credit is known, the baseline first."""
    columns = set(report.credit[0]) if report.credit else set()
    known = [name for name in report.study.credits if CREDIT + name in columns]
    known.sort(key=lambda name: name != report.study.baseline)
    return known[: limits.strategies]


def _in_turn(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Order rows: the first of every step, the second of every step, ..."""
    seen: dict[int, int] = {}
    turns = []
    for row in rows:
        seen[row["step"]] = turn = seen.get(row["step"], -1) + 1
        turns.append(turn)
    return [row for _, row in sorted(zip(turns, rows, strict=True), key=lambda entry: entry[0])]


def _within(
    rows: Sequence[Mapping[str, Any]], strategies: int, limits: Limits
) -> list[Mapping[str, Any]]:
    """Keep rows while there is room; one is kept in any case."""
    kept, used = [], 0
    for row in rows[: limits.examples]:
        used += max(1, strategies) * min(len(row["counted"]), limits.tokens)
        if kept and used > limits.shaded:
            break
        kept.append(row)
    return kept


def _scale(rows: Sequence[Mapping[str, Any]], name: str, limits: Limits) -> float:
    sizes = (abs(c) for row in rows for c in (row[CREDIT + name] or [])[: limits.tokens])
    return max(sizes, default=0.0)


def _completion(
    row: Mapping[str, Any], names: Sequence[str], scales: Sequence[float], limits: Limits
) -> Completion:
    texts = json.loads(row["tokens"])
    credits = [row[CREDIT + name] or [0.0] * len(texts) for name in names]
    count = sum(row["counted"])
    notes = [f"{count} token{'' if count == 1 else 's'}"]
    if row["truncated"]:
        notes.append("cut off at the limit")
    decided = row["decided"]
    if decided is not None:
        notes.append(f"reward settled after {int(decided)}")
    return Completion(
        row["step"],
        row["row"],
        row["group"],
        f"{row['reward']:.4g}",
        number(row["advantage"]),
        notes,
        visible(cut(json.loads(row["prompt"]), limits.text)),
        [
            _token(texts[place], place, row, [c[place] for c in credits], scales, limits)
            for place in range(min(len(texts), limits.tokens))
        ],
        max(0, len(texts) - limits.tokens),
    )


def _token(
    text: str,
    place: int,
    row: Mapping[str, Any],
    credits: Sequence[float],
    scales: Sequence[float],
    limits: Limits,
) -> Token:
    shown = visible(cut(text, limits.tokens))
    settled = row["decided"] is not None and place + 1 == int(row["decided"])
    if not row["counted"][place]:
        return Token(shown, settled, ["x"] * len(credits), [""] * len(credits))
    shades = [shade(credit, scale) for credit, scale in zip(credits, scales, strict=True)]
    return Token(shown, settled, shades, [number(credit) for credit in credits])
