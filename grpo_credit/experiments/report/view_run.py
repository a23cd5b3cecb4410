"""What it cost, and how to repeat it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_credit.experiments.report.data import FINISHED, Cell, Pairing, Report
from grpo_credit.experiments.report.intervals import mean
from grpo_credit.experiments.report.limits import Limits, cut
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
        visible(credit),
        str(len(cells)),
        time_taken(mean([cell.seconds for cell in cells])),
        number(mean([_pace(cell) for cell in cells])),
        size(max((c.peak_memory_bytes for c in cells if c.peak_memory_bytes), default=None)),
        time_taken(step),
        _times(_relative(report, cells)),
        NONE if credit_ms is None else f"{credit_ms:.3g} ms",
        NONE if share is None else f"{100 * share:.2g} %",
    ]


def _pace(cell: Cell) -> float | None:
    return cell.tokens / cell.train_seconds if cell.tokens and cell.train_seconds else None


def _relative(report: Report, cells: Sequence[Cell]) -> list[float]:
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


@dataclass(frozen=True)
class Run:
    """One run in the list of runs.

    Args:
        anchor: its id on the page.
        title: strategy and seed.
        status: in a word.
        reason: why there is no number; empty for a finished run.
        facts: name -> text.
        command: that repeats it; empty if unknown.
        tail: the last lines of its log, if it failed.
    """

    anchor: str
    title: str
    status: str
    reason: str
    facts: Mapping[str, str]
    command: str
    tail: str


def listed(report: Report, limits: Limits) -> list[Run]:
    """Choose the runs to list: what did not finish comes first, then all in order."""
    order = sorted(range(len(report.cells)), key=lambda n: report.cells[n].status == FINISHED)
    kept = sorted(order[: limits.runs])
    return [_run(n, report.cells[n], limits) for n in kept]


def anchors(report: Report, limits: Limits) -> dict[tuple[str, int], str]:
    """Return (strategy, seed) -> id on the page, of the runs that are listed."""
    names = {run.anchor for run in listed(report, limits)}
    every = {(cell.credit, cell.seed): f"run-{n}" for n, cell in enumerate(report.cells)}
    return {key: anchor for key, anchor in every.items() if anchor in names}


def _run(place: int, cell: Cell, limits: Limits) -> Run:
    facts = {
        "directory": visible(cell.path or NONE),
        "steps": number(cell.step, 9),
        "before → after": f"{number(cell.before)} → {number(cell.value)}",
        "attempts": str(cell.attempts),
        "wall time": time_taken(cell.seconds),
        "peak memory": size(cell.peak_memory_bytes),
    }
    return Run(
        f"run-{place}",
        f"{visible(cell.credit)}, seed {cell.seed}",
        visible(cell.status),
        visible(cut(cell.reason or "", limits.text)),
        facts,
        visible(cut(cell.command or "", limits.text)),
        visible(cut(cell.tail or "", limits.text)),
    )


@dataclass(frozen=True)
class Manifest:
    """What the runs say of themselves.

    Args:
        runs: how many have a manifest.
        main: name -> text: commit, versions, hardware, model, data.
        rest: name -> text: the whole configuration.
        differs: name -> what is said -> by which runs.
    """

    runs: int
    main: Mapping[str, str]
    rest: Mapping[str, str]
    differs: Mapping[str, Mapping[str, str]]


def manifest(report: Report, limits: Limits) -> Manifest:
    """Sort what all runs have in common, and say where they differ."""
    common = {n: _text(v, limits) for n, v in report.manifest.get("common", {}).items()}
    differs = {
        visible(name): {
            visible(cut(text, limits.text)): cut(", ".join(map(visible, runs)), limits.text)
            for text, runs in said.items()
        }
        for name, said in report.manifest.get("differs", {}).items()
    }
    return Manifest(
        report.manifest.get("runs", 0),
        {visible(n): text for n, text in common.items() if not n.startswith("config.")},
        {visible(n)[7:]: text for n, text in common.items() if n.startswith("config.")},
        differs,
    )


def _text(value: Any, limits: Limits) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return visible(cut(text, limits.text))


@dataclass(frozen=True)
class OwnRule:
    """A version of a rule that is a user's own.

    Args:
        title: name, file and hash.
        runs: that were trained by it.
        function: its source.
        module: the source of its file.
    """

    title: str
    runs: str
    function: str
    module: str


def sources(report: Report, limits: Limits) -> list[OwnRule]:
    """Show the rules that are a user's own, a version each."""
    return [
        OwnRule(
            visible(f"{each.rule}: {each.file or 'no file'}, sha256 {(each.sha256 or NONE)[:12]}"),
            visible(cut(_by_strategy(each.runs), limits.text)),
            _code(each.function or "its source was not to be had", limits),
            _code(each.module or "", limits),
        )
        for each in report.sources
    ]


def _by_strategy(runs: Sequence[str]) -> str:
    """Write runs shorter.

    Example:
        >>> print(_by_strategy(["seq, seed 0", "seq, seed 1", "dapo, seed 1"]))
        seq: seed 0, 1; dapo: seed 1
    """
    seeds: dict[str, list[str]] = {}
    for credit, _, seed in (run.rpartition(", seed ") for run in runs):
        seeds.setdefault(credit, []).append(seed)
    return "; ".join(f"{credit}: seed {', '.join(each)}" for credit, each in seeds.items())


def _code(text: str, limits: Limits) -> str:
    """Show a source with its lines as lines."""
    return "\n".join(map(visible, cut(text, limits.text).split("\n")))


def unlike(report: Report, limits: Limits) -> list[str]:
    """Name the runs whose rules or last steps are not those of the others."""
    found = [f"{c.credit}, seed {c.seed}: {c.unlike}" for c in report.cells if c.unlike]
    more = [f"{len(found) - limits.seeds} more"] if len(found) > limits.seeds else []
    return [visible(cut(text, limits.text)) for text in [*found[: limits.seeds], *more]]


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
        among = visible(" and ".join(others))
        return f"Holm's correction is over {number} comparisons, those of {among} among them."
    return (
        f"Holm's correction is over the {number} comparisons of this study." if number > 1 else ""
    )


def calibration_table(report: Report) -> Table | None:
    """Put the scales that make the first gradients equally long into a table, if there are any."""
    scales = (report.calibration or {}).get("scale")
    if not isinstance(scales, dict):
        return None
    rows = [[visible(name), f"{scale:.4g}"] for name, scale in scales.items()]
    return Table(["strategy", "its credit is multiplied by"], rows)
