"""Completions: the same under every strategy, token by token, and those of every strategy."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_credit.experiments.figures.shading import Completion, Shaded, Token
from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, cut, fitting, in_turn

_TEXTS = ("prompt", "completion", "rewards")  # JSON in completions.parquet
CREDIT = "credit "  # and the strategy's name: its column in credit.parquet


def shaded(report: Report, limits: Limits) -> Shaded:
    """Choose completions, of every step in turn, and shade their tokens."""
    names = _strategies(report, limits)
    rows = in_turn(report.credit, lambda row: row["step"])[: limits.examples]
    width = max(1, len(names))
    chosen = fitting(
        rows, lambda row: width * min(len(row["counted"]), limits.tokens), limits.shaded
    )
    scales = [_scale(chosen, name, limits) for name in names]
    return Shaded(
        names,
        scales,
        [_completion(row, names, limits) for row in sorted(chosen, key=lambda r: r["step"])],
        len(report.credit) - len(chosen),
    )


def _strategies(report: Report, limits: Limits) -> list[str]:
    """Return the strategies whose credit is known, the baseline first."""
    columns = set(report.credit[0]) if report.credit else set()
    known = [name for name in report.study.credits if CREDIT + name in columns]
    known.sort(key=lambda name: name != report.study.baseline)
    return known[: limits.strategies]


def _scale(rows: Sequence[Mapping[str, Any]], name: str, limits: Limits) -> float:
    sizes = (abs(c) for row in rows for c in (row[CREDIT + name] or [])[: limits.tokens])
    return max(sizes, default=0.0)


def _completion(row: Mapping[str, Any], names: Sequence[str], limits: Limits) -> Completion:
    texts = json.loads(row["tokens"])
    credits = [row[CREDIT + name] or [0.0] * len(texts) for name in names]
    count = sum(row["counted"])
    notes = [f"{count} token{'' if count == 1 else 's'}"]
    if row["truncated"]:
        notes.append("cut off at the limit")
    last = None if row["decided"] is None else int(row["decided"])
    if last is not None:
        notes.append(f"reward settled after {last}")
    tokens = [
        Token(cut(text, limits.tokens), counted, credit, settled=place == last)
        for place, (text, counted, *credit) in enumerate(
            zip(texts[: limits.tokens], row["counted"], *credits, strict=False), start=1
        )
    ]
    return Completion(
        row=row["row"],
        group=row["group"],
        reward=row["reward"],
        advantage=row["advantage"],
        prompt=cut(json.loads(row["prompt"]), limits.text),
        tokens=tokens,
        left_out=len(texts) - len(tokens),
        notes=notes,
        step=row["step"],
    )


# ---- completions of every strategy, to read ------------------------------------------------------


def browsed(report: Report, limits: Limits) -> list[dict[str, Any]]:
    """Choose rows of completions.parquet: of every strategy and step in turn while there is room.

    A row has "reward" besides, the sum of those that are numbers; None without any.
    """
    rows = report.completions
    order = in_turn(range(len(rows)), lambda n: (rows[n]["credit"], rows[n]["step"]))
    chosen = fitting(order, lambda n: _size(rows[n], limits), limits.characters)
    return [_decoded(rows[n]) for n in sorted(chosen)]


def _size(row: Mapping[str, Any], limits: Limits) -> int:
    """Return how many characters of the page a row takes, about."""
    return 400 + sum(min(len(row[name]), limits.text) for name in ("prompt", "completion"))


def _decoded(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: json.loads(row[name]) for name in _TEXTS}
    scored = [value for value in texts["rewards"].values() if value is not None]
    return {**row, **texts, "reward": sum(scored) if scored else None}
