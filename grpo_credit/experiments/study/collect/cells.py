"""How each run of a study stands, and the held-out number that it came to."""

import itertools
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError, named_line
from grpo_credit.experiments.design import Study
from grpo_credit.experiments.report.data import FINISHED, RunResult
from grpo_credit.experiments.study.collect.metrics import Log, read_log
from grpo_credit.records.files import HELD_OUT, read_lines, read_object
from grpo_credit.records.provenance import MANIFEST
from grpo_credit.records.shape import fit, is_usable
from grpo_credit.records.tables import DAMAGE
from grpo_credit.text import did_you_mean

_RECORDS = "cells/*/seed-*.json"
_ATTEMPT = {"seconds": float | None, "peak_memory_bytes": float | None, "command": Any}
_RULE = dict.fromkeys(("file", "sha256", "function", "module"), str | None)
_REASONS = {
    "waiting": "not started yet",
    "running": "still running when this was collected",
    "interrupted": "interrupted; the study's command goes on with it",
    "missing": "nothing is known of this run",
}


def _shell(command: Any) -> str:
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def find_metric(out: Path, study: Study) -> Study:
    """Name the metric by what the first finished run is about, if the study names none."""
    if study.metric is not None:
        return study
    for path in sorted(out.glob(f"cells/*/seed-*/{MANIFEST}")):
        manifest = read_run(path.parent)
        if manifest.get("status") == FINISHED and (name := manifest["extra"].get("metric")):
            return replace(study, metric=name)
    return study


def read_cells(
    out: Path, study: Study, problems: list[str]
) -> tuple[list[RunResult], dict[str, Log]]:
    """Return a cell for every strategy and seed of the study, whatever there is of it.

    A run is finished when its own manifest says so; the record beside it tells the rest.

    Args:
        out: the directory of the study.
        study: what was to be run.
        problems: grows by a sentence for each record that cannot be read.

    Returns:
        The cells; and run directory, from the study's -> what the trainer logged there.
    """
    records = {path: _record(out, path, problems) for path in sorted(out.glob(_RECORDS))}
    folders = {record["credit"]: path.parent for path, record in records.items() if record}
    cells, logs = [], {}
    for credit, seed in itertools.product(study.credits, study.seeds):
        run = folders.get(credit, out / "nothing") / f"seed-{seed}"
        path = run.relative_to(out).as_posix() if run.is_dir() else None
        log = read_log(run) if path else Log()
        cells.append(_cell(RunResult(credit, seed, "missing", path=path), run, study, records, log))
        logs |= {path: log} if path else {}
    return cells, logs


def _record(out: Path, path: Path, problems: list[str]) -> dict[str, Any]:
    """Read what the runner noted of a cell; nothing where that is damaged."""
    try:
        kinds = {"credit": str, "attempts": list[Any], "tail": list[str]}
        record = fit(kinds, {"tail": [], **read_object(path)}, path.name)
        for number, attempt in enumerate(record["attempts"]):
            fit(_ATTEMPT, {**dict.fromkeys(_ATTEMPT), **attempt}, f"{path.name}: attempt {number}")
        return record
    except DAMAGE as error:
        problems.append(f"{path.relative_to(out)} cannot be read: {error}".replace(f"{out}/", ""))
        return {}


def _cell(
    cell: RunResult, run: Path, study: Study, records: Mapping[Path, Mapping[str, Any]], log: Log
) -> RunResult:
    record = records.get(run.with_name(f"{run.name}.json"), {})
    manifest_says = read_run(run).get("status")
    status = str(record.get("status", manifest_says or cell.status))
    cell = replace(cell, status=status, **_attempts(record.get("attempts", [])))
    if manifest_says == FINISHED:
        return _finished(replace(cell, status=FINISHED), run, study, log)
    if cell.status == FINISHED:
        return _damaged(cell, f"its manifest.json says {manifest_says!r}, not {FINISHED!r}")
    tail = "\n".join(record.get("tail", ()))
    reason = _REASONS.get(cell.status) or _failure(tail, run)
    cell = replace(cell, reason=reason, tail=tail or None)
    try:
        return replace(cell, **log.progress())
    except DAMAGE:  # how far it came is not known, but why it has no number is
        return cell


def _attempts(attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = [a["seconds"] for a in attempts if a.get("seconds") is not None]
    memory = [a["peak_memory_bytes"] for a in attempts if a.get("peak_memory_bytes") is not None]
    return {
        "attempts": len(attempts),
        "seconds": sum(seconds) if seconds else None,
        "peak_memory_bytes": max(memory, default=None),
        "command": _shell(attempts[-1].get("command", "")) if attempts else None,
    }


def _failure(tail: str, run: Path) -> str:
    """Say in a line why a run failed: its own word, or the last line of its log."""
    last = tail.strip().splitlines() or ["it left no word"]
    return str(read_run(run).get("error") or last[-1])


def read_run(run: Path) -> dict[str, Any]:
    """Read a run's manifest; an empty one where there is none to read.

    Its "extra", a dictionary, has a "metric" and the "rules" that are a user's own; its "earlier"
    are attempts with such an "extra", its "model" a dictionary with a "sha256".
    """
    try:
        manifest = {"earlier": [], "model": None, **read_object(run / MANIFEST)}
        attempts = fit(list[dict[str, Any]], manifest["earlier"], "earlier")
        model = fit(dict[str, Any] | None, manifest["model"], "model") or {}
        fit(str | None, model.get("sha256"), "model.sha256")
        return {**_attempt(manifest), "earlier": [*map(_attempt, attempts)], "model": model}
    except (OSError, CreditError):
        return {}


def _attempt(manifest: Mapping[str, Any]) -> dict[str, Any]:
    given = fit(dict[str, Any] | None, manifest.get("extra"), "extra") or {}
    kinds = {"metric": str | None, "rules": list[dict[str, str | None]]}
    extra = fit(kinds, {"metric": None, "rules": [], **given}, "extra")
    rules = [fit({"rule": str, **_RULE}, rule, "rule") for rule in extra["rules"]]
    return {**manifest, "extra": {**extra, "rules": rules}}


def _finished(cell: RunResult, run: Path, study: Study, log: Log) -> RunResult:
    """Add the numbers of a finished run; it is damaged where they are not all there."""
    try:
        tests = {line.pop("step"): line for line in read_lines(run / HELD_OUT)}
        cell = replace(cell, **log.progress())
    except DAMAGE as error:
        return _damaged(cell, named_line(error).replace(f"{run}/", ""))
    after = tests.get(cell.step, {})
    value = after.get(study.metric)
    if not isinstance(value, int | float) or not is_usable(value):
        wrong = f"held_out.jsonl has no finite {study.metric!r} at step {cell.step}"
        return _damaged(cell, f"{wrong}{_known(study.metric, after)}")
    before = tests.get(0, {}).get(study.metric)
    known = isinstance(before, int | float) and is_usable(before)
    return replace(cell, value=float(value), before=float(before) if known else None)


def other_ends(cells: Sequence[RunResult]) -> dict[tuple[str, int], str]:
    """Say of which finished runs the last step is not that of most; of all where there is no most.

    Example:
        >>> seeds = enumerate((4, 4, 5))
        >>> other_ends([RunResult("seq", seed, FINISHED, step=step) for seed, step in seeds])
        {('seq', 2): 'it ended at step 5, others at step 4'}
    """
    steps = Counter(cell.step for cell in cells if cell.status == FINISHED)
    most = [step for step, count in steps.items() if count == max(steps.values())]
    return {
        (cell.credit, cell.seed): f"it ended at step {cell.step}, others at step "
        + ", ".join(sorted(str(step) for step in steps if step != cell.step))
        for cell in cells
        if cell.status == FINISHED and len(steps) > 1 and most != [cell.step]
    }


def _known(metric: str | None, after: Mapping[str, Any]) -> str:
    """Name the numbers that there are instead of a metric; nothing where it is there."""
    if metric in after or not after:
        return ""
    return f"; it has {', '.join(after)}.{did_you_mean(metric or '', after)}"


def _damaged(cell: RunResult, reason: str) -> RunResult:
    return replace(cell, status="damaged", reason=reason)
