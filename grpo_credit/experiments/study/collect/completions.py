"""Completions of every strategy, from TRL's own tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from grpo_credit.experiments.report.data import FINISHED, RunResult
from grpo_credit.experiments.study.collect.metrics import Log
from grpo_credit.records.files import step_of
from grpo_credit.records.shape import is_usable
from grpo_credit.records.tables import DAMAGE, read_table
from grpo_credit.text import prompt_text

ROWS = 12  # completions of each table that is read


def read_completions(
    out: Path, cells: Sequence[RunResult], logs: Mapping[str, Log], problems: list[str]
) -> list[dict[str, Any]]:
    """Return rows of completions.parquet: the first and the last table of one run a strategy.

    The run is the strategy's first that finished, otherwise its first with completions.

    Args:
        out: the directory of the study.
        cells: its runs.
        logs: run directory, from the study's -> what the trainer logged there.
        problems: grows by a sentence for each file that cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for credit in dict.fromkeys(cell.credit for cell in cells):
        own = [cell for cell in cells if cell.credit == credit]
        for cell in sorted(own, key=lambda cell: cell.status != FINISHED):
            lines = _of_run(out, cell, logs, problems)
            if lines:
                rows += lines
                break
    return rows


def _of_run(
    out: Path, cell: RunResult, logs: Mapping[str, Log], problems: list[str]
) -> list[dict[str, Any]]:
    if cell.path is None:
        return []
    folder = out / cell.path / "completions"
    paths = sorted(folder.glob("completions_*.parquet"), key=step_of)
    rewards = reward_names(logs[cell.path].names)
    rows: list[dict[str, Any]] = []
    for path in dict.fromkeys([*paths[:1], *paths[-1:]]):
        try:
            table = read_table(path).to_pandas(ignore_metadata=True)
            rows += [_row(cell, step_of(path), line, rewards) for line in _spread(table)]
        except DAMAGE as error:
            problems.append(f"{path.relative_to(out)} cannot be read: {error}")
    return rows


def _spread(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Take completions at even distances from the highest advantage to the lowest."""
    ordered = table.sort_values("advantage", ascending=False, kind="stable").to_dict("records")
    count = min(ROWS, len(ordered))
    places = [round(n * (len(ordered) - 1) / max(count - 1, 1)) for n in range(count)]
    return [ordered[place] for place in places]


def reward_names(logged: Iterable[str]) -> list[str]:
    """Name the reward functions of a run: TRL logs rewards/<name>/mean of each, and of them alone.

    A column of the tables may also be what a reward logged beside (`log_extra`).

    Example:
        >>> reward_names(["step", "rewards/form/mean", "rewards/form/std"])
        ['form']
    """
    return [
        name.removeprefix("rewards/").removesuffix("/mean")
        for name in logged
        if name.startswith("rewards/") and name.endswith("/mean")
    ]


def _row(cell: RunResult, step: int, line: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    given = {name: line.get(name, "") for name in names}
    rewards = {n: _number(v) for n, v in given.items() if v is None or isinstance(v, int | float)}
    return {
        "credit": cell.credit,
        "seed": cell.seed,
        "step": step,
        "prompt": json.dumps(prompt_text(line["prompt"])),
        "completion": json.dumps(prompt_text(line["completion"])),
        "rewards": json.dumps(rewards),
        "advantage": _number(line["advantage"]),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not is_usable(value) else float(value)
