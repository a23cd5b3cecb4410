"""What it cost, and how to repeat it."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from grpo_credit.experiments.report.data import FINISHED, Pairing, Report, RunResult
from grpo_credit.experiments.report.intervals import mean
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.words import NONE, Table, number, size, time_taken
from grpo_credit.text import visible


def cost_table(report: Report) -> Table:
    """Put time, pace, memory and the overhead of credit into a table."""
    columns = ["strategy", "runs", "wall time of a run", "tokens per second", "peak memory",
               "optimizer step", "step relative to the baseline (seeds)", "credit of a step",
               "share of the step"]  # fmt: skip
    return Table(columns, [_cost(report, credit) for credit in report.study.credits])


def _cost(report: Report, credit: str) -> list[str]:
    cells = [c for c in report.cells if c.credit == credit and c.status == FINISHED]
    credit_ms = report.examples.milliseconds.get(credit) if report.examples else None
    step = mean([cell.step_seconds for cell in cells])
    share = None if credit_ms is None or not step else credit_ms / 1000 / step
    return [
        credit,
        str(len(cells)),
        time_taken(mean([cell.seconds for cell in cells])),
        number(mean([_pace(cell) for cell in cells])),
        size(max((c.peak_memory_bytes for c in cells if c.peak_memory_bytes), default=None)),
        time_taken(step),
        _times(_relative(report, cells)),
        NONE if credit_ms is None else f"{credit_ms:.3g} ms",
        NONE if share is None else f"{100 * share:.2g} %",
    ]


def _pace(cell: RunResult) -> float | None:
    return cell.tokens / cell.train_seconds if cell.tokens and cell.train_seconds else None


def _relative(report: Report, cells: Sequence[RunResult]) -> list[float]:
    """Return the step's time relative to the baseline's, for each seed that both finished."""
    baseline = {
        c.seed: c.step_seconds
        for c in report.cells
        if c.credit == report.study.baseline and c.status == FINISHED
    }
    return [
        cell.step_seconds / theirs
        for cell in cells
        if cell.step_seconds and (theirs := baseline.get(cell.seed))
    ]


def _times(ratios: Sequence[float]) -> str:
    """Write the geometric mean of ratios, and the smallest and the largest of them."""
    if not ratios:
        return NONE
    middle = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{middle:.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def listed(report: Report, limits: Limits) -> dict[str, RunResult]:
    """Choose the runs to list, by their id on the page: first of all what did not finish."""
    cells = {f"run-{place}": cell for place, cell in enumerate(report.cells)}
    order = sorted(cells, key=lambda anchor: cells[anchor].status == FINISHED)[: limits.runs]
    return {anchor: cell for anchor, cell in cells.items() if anchor in set(order)}


def configuration(report: Report) -> dict[str, Any]:
    """Return the options that all runs have in common."""
    common = report.manifest.get("common", {})
    return {name[7:]: value for name, value in common.items() if name.startswith("config.")}


def code(text: str) -> Markup:
    """Write a source with its lines as lines."""
    return Markup("\n").join(map(visible, text.split("\n")))


def by_strategy(runs: Sequence[str]) -> str:
    """Write runs shorter.

    Example:
        >>> print(by_strategy(["seq, seed 0", "seq, seed 1", "dapo, seed 1"]))
        seq: seed 0, 1; dapo: seed 1
    """
    seeds: dict[str, list[str]] = {}
    for credit, _, seed in (run.rpartition(", seed ") for run in runs):
        seeds.setdefault(credit, []).append(seed)
    return "; ".join(f"{credit}: seed {', '.join(each)}" for credit, each in seeds.items())


def unlike(report: Report, limits: Limits) -> list[str]:
    """Name the runs whose rules or last steps are not those of the others."""
    named = [f"{c.credit}, seed {c.seed}: {c.unlike}" for c in report.cells if c.unlike]
    more = [f"{len(named) - limits.seeds} more"] if len(named) > limits.seeds else []
    return [*named[: limits.seeds], *more]


def seeds_vary(pairing: Pairing) -> str:
    """Return what differs between seeds.

    Example:
        >>> print(seeds_vary(Pairing([], [], [[0, 1]])))
        All seeds start from the same weights: they vary sampling and data, not the initialisation.
    """
    groups = pairing.weights
    if not groups:
        return "No run recorded the weights that it started from."
    if len(groups) == 1:
        return (
            "All seeds start from the same weights: they vary sampling and data, not the "
            "initialisation."
        )
    if all(len(group) == 1 for group in groups):
        return "Each seed starts from weights of its own: they vary initialisation, sampling, data."
    listed = "; ".join(", ".join(map(str, group)) for group in groups)
    return f"Some seeds start from the same weights ({listed}): they are not independent."


def counted(report: Report) -> str:
    """Return which comparisons share the chance of a false claim."""
    number, others = report.comparison.comparisons, report.others
    if others:
        among = " and ".join(others)
        return f"Holm's correction is over {number} comparisons, those of {among} among them."
    return (
        f"Holm's correction is over the {number} comparisons of this study." if number > 1 else ""
    )
