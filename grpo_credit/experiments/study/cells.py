"""The cells of a study as their directories tell them.

    OUT/cells/<strategy>/seed-<n>/        the run directory of the recipe
    OUT/cells/<strategy>/seed-<n>.log     what its processes printed
    OUT/cells/<strategy>/seed-<n>.json    what the runner knows: status, attempts, last lines

A cell is finished when the manifest of its run says so; the runner's own record never decides. What
cannot be read is set aside under another name, and the cell runs anew.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError
from grpo_credit.experiments.design import Study, credit_arguments, slug
from grpo_credit.experiments.study.child import is_held
from grpo_credit.experiments.study.process import Ended, Job
from grpo_credit.records import lock
from grpo_credit.records.files import METRICS, free, read_lines, read_object, replace_text
from grpo_credit.records.provenance import MANIFEST, describe_command, now
from grpo_credit.records.shape import fit

STATUSES = ("waiting", "running", "finished", "failed", "interrupted")
TAIL_LINES, TAIL_BYTES = 12, 8192
_RECORD = {"status": str, "attempts": list[Any], "tail": list[str]}
_ATTEMPT = {"ended": str | None, "seconds": float | None}


@dataclass(frozen=True)
class Cell:
    """One strategy with one seed.

    Args:
        root: directory of the cells, such as OUT/cells.
        recipe: path of the script.
        credit: the strategy as typed.
        seed: of the run.
        options: more options of the recipe.
    """

    root: Path
    recipe: str
    credit: str
    seed: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Path below the root."""
        return f"{slug(self.credit)}/seed-{self.seed}"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / self.name

    @property
    def log(self) -> Path:
        """What the processes printed."""
        return self.run.with_name(f"{self.run.name}.log")

    @property
    def record(self) -> Path:
        """What the runner knows."""
        return self.run.with_name(f"{self.run.name}.json")

    @property
    def lock(self) -> Path:
        """Held by the process of the cell."""
        return self.run.with_name(f".{self.run.name}.lock")

    def arguments(self) -> list[str]:
        """Return the recipe's command line, without the program.

        A preflight in every cell would say the same each time, so it is left to the options.
        """
        fixed = [f"--seed={self.seed}", f"--output_dir={self.run}", "--preflight=off"]
        return [*credit_arguments(self.credit), *fixed, *self.options]

    def command(self) -> list[str]:
        """Return the command that starts the cell, or goes on with it."""
        resume = ["--resume"] if (self.run / MANIFEST).exists() else []
        return [sys.executable, self.recipe, *self.arguments(), *resume]

    def job(self, env: Mapping[str, str]) -> Job:
        """Describe the process to start now."""
        return Job(self.command(), self.log.absolute(), self.lock.absolute(), Path.cwd(), dict(env))


def cells_of(study: Study, out: Path) -> list[Cell]:
    """List the cells of a study in a directory, seed by seed: whole pairs are there early."""
    return [
        Cell(out / "cells", study.recipe, credit, seed, study.options_of(seed))
        for seed in study.seeds
        for credit in study.credits
    ]


@dataclass
class State:
    """What is known of a cell.

    Args:
        status: one of `STATUSES`.
        attempts: command, start, end, exit code, seconds and memory of each process so far.
        tail: last lines of the log of a failed one.
    """

    status: str = "waiting"
    attempts: list[dict[str, Any]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)

    def begin(self, command: Sequence[str]) -> None:
        """Note that a process was started."""
        command = describe_command(command)["argv"]
        unknown = dict.fromkeys(("ended", "exit_code", "seconds", "peak_memory_bytes"))
        self.attempts.append({"command": command, "started": now(), **unknown})
        self.status, self.tail = "running", []

    def end(self, cell: Cell, ended: Ended, log_start: int, *, stopping: bool) -> None:
        """Note how the last process ended; the run's manifest decides what that means."""
        self.attempts[-1] |= {
            "ended": now(),
            "exit_code": ended.exit_code,
            "seconds": ended.seconds,
            "peak_memory_bytes": ended.peak_memory_bytes,
        }
        says = manifest_status(cell)
        stopped = says == "interrupted" or stopping
        self.status = "finished" if says == "finished" else "interrupted" if stopped else "failed"
        if self.status == "failed":
            self.tail = [*last_lines(cell.log, log_start), how_it_ended(ended, says)]


def how_it_ended(ended: Ended, manifest: str | None) -> str:
    """Say in words how a process ended that did not finish its run."""
    if ended.error:
        return ended.error
    if ended.exit_code == -9:
        return "killed by signal 9: out of memory, or somebody's kill"
    if ended.exit_code is not None and ended.exit_code < 0:
        return f"killed by signal {-ended.exit_code}"
    if ended.exit_code == 0:
        return f"exit code 0, but the manifest of the run says {manifest!r}"
    return f"exit code {ended.exit_code}"


def last_lines(log: Path, start: int = 0) -> list[str]:
    """Return the last lines of a log from a place on."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError as error:
        return [f"no log: {error}"]
    return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]


def manifest_status(cell: Cell) -> str | None:
    """Return what the manifest of the run says; None if there is none that can be read."""
    try:
        return fit({"status": str}, read_object(cell.run / MANIFEST), MANIFEST)["status"]
    except (OSError, CreditError):
        return None


def is_finished(cell: Cell) -> bool:
    """Return whether the manifest of the run says so."""
    return manifest_status(cell) == "finished"


def save(cell: Cell, state: State) -> None:
    """Write the record of a cell."""
    cell.record.parent.mkdir(parents=True, exist_ok=True)
    content = {"credit": cell.credit, "seed": cell.seed, **vars(state)}
    replace_text(cell.record, json.dumps(content, indent=2) + "\n")


def at_work(cell: Cell) -> bool:
    """Return whether a process is at work on the cell: an engine's, or one started by hand."""
    return is_held(str(cell.lock)) or lock.is_held(cell.run)


def look(cell: Cell) -> tuple[State, list[str]]:
    """Find out how a cell stands; set aside what is damaged.

    Returns:
        The state, with a status of "running" only if a process is at work; what was set aside, in
        words.
    """
    state, notes = _read_record(cell)
    if at_work(cell):
        state.status = "running"
        return state, notes
    if wrong := _damage(cell.run):
        aside = _set_aside(cell.run)
        notes.append(f"{cell.run} is damaged ({wrong}); it is now {aside.name}, the cell runs anew")
    manifest = manifest_status(cell)
    if manifest == "finished":
        _finish(cell, state)
    elif state.status in ("running", "finished"):  # the runner was killed, or the run is gone
        state.status = "interrupted" if manifest else "waiting"
    return state, notes


def _finish(cell: Cell, state: State) -> None:
    """Complete a record whose runner did not live to see the end of the run."""
    state.status, state.tail = "finished", []
    if state.attempts and state.attempts[-1]["ended"] is None:
        state.attempts[-1]["ended"] = read_object(cell.run / MANIFEST).get("ended")


def _read_record(cell: Cell) -> tuple[State, list[str]]:
    if not cell.record.exists():
        return State(), []
    try:
        content = fit(_RECORD, read_object(cell.record), cell.record.name)
        attempts = [
            fit(_ATTEMPT, attempt, f"{cell.record.name}: attempt {n}")
            for n, attempt in enumerate(content["attempts"])
        ]
        if content["status"] in STATUSES:
            return State(content["status"], attempts, content["tail"]), []
        wrong = f"status {content['status']!r}"
    except (OSError, CreditError) as error:
        wrong = str(error).replace(f"{cell.record.parent}/", "")
    aside = _set_aside(cell.record)
    return State(), [f"{cell.record} is damaged ({wrong}); it is now {aside.name}"]


def _damage(run: Path) -> str:
    """Say what is wrong with a run directory; nothing if a run can begin, go on or be believed."""
    if not run.exists():
        return ""
    if not run.is_dir():
        return "it is no directory"
    if not lock.entries(run):
        return ""
    try:
        status = fit({"status": str}, read_object(run / MANIFEST), MANIFEST)["status"]
        if status == "finished" and not read_lines(run / METRICS):
            return f"finished, but {METRICS} is missing or empty"
    except (OSError, CreditError) as error:
        return str(error).replace(f"{run}/", "")
    return ""


def _set_aside(path: Path) -> Path:
    return path.rename(free(path.with_name(f"{path.name}.damaged"), first=1))
