"""Curves of every run: what the trainer logged, and what was measured on held-out prompts."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from grpo_credit.errors import named_line
from grpo_credit.experiments.report import series
from grpo_credit.experiments.report.data import RunResult
from grpo_credit.experiments.report.series import Key, Points, in_order
from grpo_credit.experiments.study.collect.metrics import Log, Pieces, points
from grpo_credit.records.files import HELD_OUT, read_lines
from grpo_credit.records.tables import DAMAGE


def read_curves(
    out: Path, cells: Sequence[RunResult], logs: Mapping[str, Log], problems: list[str]
) -> dict[Key, Points]:
    """Return the curves of every run that has any.

    Args:
        out: the directory of the study.
        cells: its runs.
        logs: run directory, from the study's -> what the trainer logged; its curves are moved out
            of it.
        problems: grows by a sentence for each file that cannot be read.
    """
    curves: dict[Key, Points] = {}
    for cell in cells:
        if cell.path is None:
            continue
        log = logs[cell.path]
        try:
            if log.wrong is not None:
                raise log.wrong
            tests = points(read_lines(out / cell.path / HELD_OUT), series.HELD_OUT)
            curves |= of_run(cell, log, [log.curves, tests])
        except DAMAGE as error:
            why = named_line(error).replace(f"{out}/", "")
            problems.append(f"{cell.path} has curves that cannot be read: {why}")
        log.curves = {}
    return curves


def of_run(cell: RunResult, log: Log, parts: Sequence[Pieces]) -> dict[Key, Points]:
    """Join the pieces of a run's curves; of a step that is there twice the later one holds."""
    axes: dict[bytes, tuple[np.ndarray, ...]] = {}  # most curves of a run have the same
    curves = {}
    for name in dict.fromkeys(chain.from_iterable(parts)):
        pieces = [piece for part in parts for piece in part.get(name, ())]
        step, value = (np.concatenate(column) for column in zip(*pieces, strict=True))
        order = in_order(step)
        step = step[order]
        if (key := step.tobytes()) not in axes:
            axes[key] = (step, *log.clock(step))
        curves[name, cell.credit, cell.seed] = Points(*axes[key], value[order])
    return curves
