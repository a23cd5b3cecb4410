"""The data of a report, beside the study: what is rendered, and nothing else is read for it.

report.json          the study, its cells, its manifest; with the comparison, for other programs
runs.csv             a row for each cell
curves.csv           credit, seed, step, tokens, seconds, name, value
credit.parquet       some completions, their tokens and the credit of each strategy
completions.parquet  completions of every strategy
"""

import json
import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_credit.errors import CreditError
from grpo_credit.report.statistics import Comparison, compare
from grpo_credit.run.files import replace_text

SCHEMA = 1
REPORT, RUNS, CURVES = "report.json", "runs.csv", "curves.csv"
CREDIT, COMPLETIONS = "credit.parquet", "completions.parquet"
FINISHED = "finished"
_KINDS: Any = {"credit": str, "name": str}
_EMPTY: Any = {"tokens": [""], "seconds": [""], "value": [""]}  # a strategy may be called "nan"
_CURVE_COLUMNS = ["credit", "seed", "step", "tokens", "seconds", "name", "value"]
_DERIVED = ("comparison",)  # written for other programs, computed again when read


@dataclass(frozen=True)
class Study:
    """What was to be run.

    Args:
        recipe: its script.
        credits: strategies as they were typed.
        seeds: of the runs; each strategy has them all.
        options: of the recipe, the same for every run.
        baseline: the strategy that the others are compared with.
        metric: the held-out number that is compared; None where no run said one.
        higher_is_better: its direction.
        command: that runs the study again.
    """

    recipe: str
    credits: list[str]
    seeds: list[int]
    options: list[str]
    baseline: str
    metric: str | None
    higher_is_better: bool
    command: str


@dataclass(frozen=True)
class Cell:
    """One run: a strategy with a seed.

    Args:
        credit: the strategy.
        seed: of the run.
        status: finished, failed, interrupted, running, waiting, missing or damaged.
        reason: why there is no number, in a sentence; None for a finished run.
        path: the run directory, from the study's.
        value: the held-out number after training; None unless finished.
        before: the same before training.
        step: optimizer steps done.
        tokens: that the run has read and written.
        seconds: wall time of all its attempts, start-up and tests included.
        train_seconds: of training alone.
        step_seconds: median time of an optimizer step.
        peak_memory_bytes: of the process and its children.
        attempts: how often it was started.
        command: that repeats it.
        tail: the last lines of its log, if it failed.
    """

    credit: str
    seed: int
    status: str
    reason: str | None = None
    path: str | None = None
    value: float | None = None
    before: float | None = None
    step: int | None = None
    tokens: float | None = None
    seconds: float | None = None
    train_seconds: float | None = None
    step_seconds: float | None = None
    peak_memory_bytes: float | None = None
    attempts: int = 0
    command: str | None = None
    tail: str | None = None


@dataclass(frozen=True)
class Examples:
    """Where the completions of credit.parquet come from.

    Args:
        credit: the strategy that they were sampled under.
        seed: of that run.
        steps: optimizer steps.
        available: completions in those steps.
        milliseconds: strategy -> time to compute the credit of one of the steps.
        left_out: strategy -> why its credit could not be computed.
    """

    credit: str
    seed: int
    steps: list[int]
    available: int
    milliseconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairing:
    """Whether the runs of a seed began alike.

    Args:
        alike: seeds whose runs had the same completions in the first step that was kept.
        unlike: seeds whose runs had not.
    """

    alike: list[int]
    unlike: list[int]


@dataclass(frozen=True)
class Report:
    """A study with all that its page shows.

    Args:
        study: what was to be run.
        cells: one for each strategy and seed, in that order.
        problems: files that could not be read, in sentences.
        threshold: a training completion is called right where its reward is above.
        pairing: whether the runs of a seed began alike.
        examples: where the completions in credit.parquet come from; None without any.
        manifest: what is common to all runs, and what differs.
        calibration: of the gradient norms, if there was one.
        collected: when, UTC.
        curves: see `CURVES` in the head of this module.
        credit: rows of credit.parquet.
        completions: rows of completions.parquet.
    """

    study: Study
    cells: list[Cell]
    problems: list[str]
    threshold: float | None
    pairing: Pairing
    examples: Examples | None
    manifest: dict[str, Any]
    calibration: dict[str, Any] | None
    collected: str
    curves: pd.DataFrame = field(compare=False)
    credit: list[dict[str, Any]]
    completions: list[dict[str, Any]]

    @property
    def values(self) -> dict[str, dict[int, float | None]]:
        """Strategy -> seed -> held-out number; None where there is none."""
        found: dict[str, dict[int, float | None]] = {name: {} for name in self.study.credits}
        for cell in self.cells:
            found[cell.credit][cell.seed] = cell.value
        return found

    @property
    def comparison(self) -> Comparison:
        """The strategies against the baseline."""
        return compare(self.values, self.study.baseline, self.study.higher_is_better)


_TABLES = ("curves", "credit", "completions")


def write(report: Report, folder: Path) -> None:
    """Write the data; each file is replaced in one step, report.json last."""
    _write_table(pd.DataFrame(report.credit), folder / CREDIT)
    _write_table(pd.DataFrame(report.completions), folder / COMPLETIONS)
    replace_text(folder / CURVES, report.curves.to_csv(index=False))
    replace_text(
        folder / RUNS, pd.DataFrame([asdict(cell) for cell in report.cells]).to_csv(index=False)
    )
    replace_text(folder / REPORT, dump(report))


def dump(report: Report) -> str:
    """Write report.json's text: strict JSON, null for what is no number."""
    content = {f.name: getattr(report, f.name) for f in fields(report) if f.name not in _TABLES}
    content = {"schema": SCHEMA, **content, "comparison": report.comparison}
    return json.dumps(_strict(content), indent=1, allow_nan=False) + "\n"


def load(folder: Path) -> Report:
    """Read the data of a report.

    Raises:
        CreditError: if there is none, or it is damaged or of another version.
    """
    content = _content(folder)
    given = {f.name: f.type for f in fields(Report) if f.name not in _TABLES}
    where = str(folder / REPORT)
    parts = {
        name: _read(kind, _entry(content, name, where), f"{where}: {name}")
        for name, kind in given.items()
    }
    report = Report(
        **parts,
        curves=_curves(folder / CURVES),
        credit=_read_table(folder / CREDIT),
        completions=_read_table(folder / COMPLETIONS),
    )
    _expect_whole(report, where)
    return report


def _content(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    if not path.is_file():
        raise CreditError(
            f"{folder} holds no {REPORT}; expected the directory of a study. If it is one, its "
            "command, run again, collects what there is."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CreditError(f"{path} is damaged: {error}. {_AGAIN}") from None
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise CreditError(f"{path} has schema {version}, expected {SCHEMA}. {_AGAIN}")
    return content


_AGAIN = "Run the study's command again: finished runs are kept, and the data is collected anew."


def _entry(content: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in content:
        raise CreditError(f"{where} is damaged: it lacks {name!r}. {_AGAIN}")
    return content[name]


def _read(kind: Any, value: Any, where: str) -> Any:
    """Build a value of an annotated kind from JSON, or say where it does not fit."""
    if is_dataclass(kind) and isinstance(value, dict):
        known = {f.name: f.type for f in fields(kind)}
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise CreditError(f"{where} is damaged: it has an unknown {unknown[0]!r}. {_AGAIN}")
        return kind(
            **{n: _read(k, _entry(value, n, where), f"{where}.{n}") for n, k in known.items()}
        )
    if isinstance(kind, types.UnionType):
        options = get_args(kind)
        return None if value is None else _read(options[0], value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list and isinstance(value, list):
        return [_read(inner[0], each, f"{where}[{n}]") for n, each in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _read(inner[1], each, f"{where}.{name}") for name, each in value.items()}
    if kind is Any or _is(kind, value):
        return value
    raise CreditError(f"{where} is damaged: got {value!r:.60}, expected {kind}. {_AGAIN}")


def _is(kind: Any, value: Any) -> bool:
    if not isinstance(kind, type) or isinstance(value, bool) != (kind is bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _expect_whole(report: Report, where: str) -> None:
    """Check that the parts fit each other."""
    cells = [(cell.credit, cell.seed) for cell in report.cells]
    planned = [(credit, seed) for credit in report.study.credits for seed in report.study.seeds]
    if cells != planned or report.study.baseline not in report.study.credits:
        raise CreditError(f"{where} is damaged: its cells are not those of the study. {_AGAIN}")


def _curves(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path,
            dtype=_KINDS,
            keep_default_na=False,
            na_values=_EMPTY,
            float_precision="round_trip",
        )
    except (OSError, ValueError) as error:
        raise CreditError(f"{path} cannot be read: {error}. {_AGAIN}") from None
    if list(frame.columns) != _CURVE_COLUMNS:
        raise CreditError(
            f"{path} has columns {', '.join(frame.columns)}; expected "
            f"{', '.join(_CURVE_COLUMNS)}. {_AGAIN}"
        )
    return frame


def curve_frame(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Make a table of curves: credit, seed, step, tokens, seconds, name, value."""
    return pd.DataFrame(rows, columns=_CURVE_COLUMNS)


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(
            pa.Table.from_pandas(frame, preserve_index=False), temporary, compression="zstd"
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        return pq.ParquetFile(path).read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CreditError(f"{path} cannot be read: {error}. {_AGAIN}") from None


def _strict(value: Any) -> Any:
    """Turn dataclasses into dictionaries and what is no number into None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _strict(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
