"""Completions of every strategy, to read."""

import json
from collections.abc import Mapping
from typing import Any

from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, fitting, in_turn

_TEXTS = ("prompt", "completion", "rewards")  # JSON in the table


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
