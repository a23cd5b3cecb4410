"""Curves of every run: what the trainer logged, and what was measured on held-out prompts."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_credit.errors import named_line
from grpo_credit.report.data import Cell
from grpo_credit.run.directory import METRICS
from grpo_credit.run.files import HELD_OUT, read_lines
from grpo_credit.run.shape import fit, is_usable
from grpo_credit.study.collect.cells import read_metrics
from grpo_credit.tables import DAMAGE

Row = tuple[str, int, int, float | None, float | None, str, float]
HELD_OUT_PREFIX = "held_out/"
_NOT_CURVES = ("step", "epoch", "time_s", "num_tokens", "total_flos")


def read_curves(out: Path, cells: Sequence[Cell], problems: list[str]) -> list[Row]:
    """Return (credit, seed, step, tokens, seconds, name, value) of every run that has any.

    Args:
        out: the directory of the study.
        cells: its runs.
        problems: grows by a sentence for each file that cannot be read.
    """
    rows: list[Row] = []
    for cell in cells:
        if cell.path is None:
            continue
        try:
            rows += _of_run(out / cell.path, cell)
        except DAMAGE as error:
            why = named_line(error).replace(f"{out}/", "")
            problems.append(f"{cell.path} has curves that cannot be read: {why}")
    return rows


def _of_run(run: Path, cell: Cell) -> list[Row]:
    metrics = read_metrics(run)
    clock = Clock(metrics)
    found = {(line["step"], name): value for line in metrics for name, value in _numbers(line)}
    for line in read_lines(run / HELD_OUT):
        found |= {(line["step"], HELD_OUT_PREFIX + name): v for name, v in _numbers(line)}
    return [
        (cell.credit, cell.seed, step, *clock.at(step), name, value)
        for (step, name), value in found.items()
    ]


def _numbers(line: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return what changes with training; the last line of a run sums up (train_...)."""
    return [
        (name, float(value))
        for name, value in line.items()
        if isinstance(value, int | float)
        and is_usable(value)
        and name not in _NOT_CURVES
        and not name.startswith("train_")
    ]


class Clock:
    """Tokens and seconds at a step.

    The later line holds where there are two, but for the last one, which sums a run up.

    Args:
        metrics: the lines of metrics.jsonl.
    """

    def __init__(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        known = [{"num_tokens": None, **m} for m in metrics]
        kinds = {"num_tokens": float | None, "time_s": float}
        known = [fit(kinds, m, f"{METRICS}: step {m['step']}") for m in known]
        self._tokens = {m["step"]: m["num_tokens"] for m in known if m["num_tokens"]}
        self._seconds = {m["step"]: m["time_s"] for m in known if "train_runtime" not in m}

    def at(self, step: int) -> tuple[float | None, float | None]:
        """Return both at the last logged step up to this one; 0 before the first step."""
        if step == 0:
            return 0.0, 0.0
        return _last(self._tokens, step), _last(self._seconds, step)


def _last(known: Mapping[int, float], step: int) -> float | None:
    steps = sorted(known)
    place = bisect_right(steps, step)
    return known[steps[place - 1]] if place else None
