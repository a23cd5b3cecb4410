"""The data of a report, beside the study: what is rendered, and nothing else is read for it.

report.json          the study, its cells, its manifest; with the comparison, for other programs
runs.csv             a row for each cell; texts as `to_cell` writes them
curves.parquet       credit, seed, step, tokens, seconds, name, value; a row group for each run
credit.parquet       some completions, their tokens and the credit of each strategy
completions.parquet  completions of every strategy
"""

import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grpo_credit.errors import CreditError
from grpo_credit.experiments.report.data import Report, RunResult
from grpo_credit.experiments.report.series import COLUMNS, Curves
from grpo_credit.experiments.report.view_credit import CREDIT as CREDIT_COLUMN
from grpo_credit.records.files import aside, parse_json, read_json, replace_text
from grpo_credit.records.shape import HUGE, fit, is_usable
from grpo_credit.records.tables import DAMAGE, open_table, read_table
from grpo_credit.text import encodable, to_cell

SCHEMA = 2
REPORT, RUNS, CURVES = "report.json", "runs.csv", "curves.parquet"
CREDIT, COMPLETIONS = "credit.parquet", "completions.parquet"
_AS_CODES = ["credit", "step", "tokens", "seconds", "name"]  # few different values in a run
_CODED = ("credit", "name")  # each text is held once
_POINTS_OF = pa.schema(
    [(f.name, pa.dictionary(pa.int32(), f.type) if f.name in _CODED else f.type) for f in COLUMNS]
)
_POINTS = 2**27  # of a study
_CREDIT_COLUMNS = {
    "step": int, "row": int, "group": int, "prompt": str, "reward": float, "advantage": float,
    "truncated": bool, "decided": float | None, "tokens": list[str], "counted": list[bool],
}  # fmt: skip
_COMPLETION_COLUMNS = {
    "credit": str, "seed": int, "step": int, "prompt": str, "completion": str,
    "rewards": dict[str, float | None], "advantage": float | None,
}  # fmt: skip
_MANIFEST = {"runs": int, "common": dict[str, Any], "differs": dict[str, dict[str, list[str]]]}
_NO_RUNS = {"runs": 0, "common": {}, "differs": {}}
_TEXTS = ("prompt", "completion", "rewards", "tokens")  # JSON, which holds any Python string
_ELSEWHERE = ("curves", "credit", "completions", "others")  # not in report.json


def write(report: Report, folder: Path) -> None:
    """Write the data; each file is replaced in one step, report.json last."""
    _write_table(report.credit, folder / CREDIT)
    _write_table(report.completions, folder / COMPLETIONS)
    _write_curves(report.curves, folder / CURVES)
    replace_text(folder / RUNS, _csv(pd.DataFrame(map(_encodable, report.cells))))
    replace_text(folder / REPORT, dump(report))


def _csv(frame: pd.DataFrame) -> str:
    """Write a table whose texts no spreadsheet takes for formulas."""
    texts = frame.select_dtypes(exclude="number").columns
    cells = {name: {text: to_cell(text) for text in frame[name].unique()} for name in texts}
    return frame.assign(**{n: frame[n].map(known) for n, known in cells.items()}).to_csv(
        index=False
    )


def _encodable(cell: RunResult) -> dict[str, Any]:
    return {n: encodable(v) if isinstance(v, str) else v for n, v in asdict(cell).items()}


def dump(report: Report) -> str:
    """Write report.json's text: strict JSON, null for what is no number."""
    content = {f.name: getattr(report, f.name) for f in fields(report) if f.name not in _ELSEWHERE}
    # for other programs; it is computed again when this is read
    content = {"schema": SCHEMA, **content, "comparison": report.comparison}
    return json.dumps(_strict(content), indent=1, allow_nan=False) + "\n"


def load(folder: Path) -> Report:
    """Read the data of a report.

    Raises:
        CreditError: if there is none, or it is damaged or of another version.
    """
    given = {f.name: f.type for f in fields(Report) if f.name not in _ELSEWHERE}
    content = _content(folder)
    with _told(folder / REPORT):
        if isinstance(content.get("study"), dict):  # of earlier versions it lacks this
            content["study"].setdefault("own_warm_starts", False)
        parts = fit(given, content, str(folder / REPORT))
        fit(_MANIFEST, {**_NO_RUNS, **parts["manifest"]}, f"{folder / REPORT}.manifest")
    report = Report(
        **{name: parts[name] for name in given},
        curves=_curves(folder),
        credit=_read_table(folder / CREDIT, _CREDIT_COLUMNS),
        completions=_read_table(folder / COMPLETIONS, _COMPLETION_COLUMNS),
    )
    _expect_whole(report, str(folder / REPORT))
    return report


def _content(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    if not path.is_file():
        raise CreditError(
            f"{folder} holds no {REPORT}; expected the directory of a study. If it is one, its "
            "command, run again, collects what there is."
        )
    with _told(path):
        content = read_json(path)
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise CreditError(f"{path} has schema {version}, expected {SCHEMA}. {_AGAIN}")
    return content


_AGAIN = "Run the study's command again: finished runs are kept, and the data is collected anew."


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Say of what is wrong with a file what to do."""
    try:
        yield
    except CreditError as error:
        raise CreditError(f"{error} {_AGAIN}") from None
    except DAMAGE as error:
        raise CreditError(f"{path} cannot be read: {error!s:.300}. {_AGAIN}") from None


def _expect_whole(report: Report, where: str) -> None:
    """Check that the parts fit each other."""
    cells = [(cell.credit, cell.seed) for cell in report.cells]
    planned = [(credit, seed) for credit in report.study.credits for seed in report.study.seeds]
    if cells != planned or report.study.baseline not in report.study.credits:
        raise CreditError(f"{where} is damaged: its cells are not those of the study. {_AGAIN}")


def _curves(folder: Path) -> Curves:
    path = folder / CURVES
    with _told(path), open_table(path, coded=_CODED) as file:
        _expect_columns(file.schema_arrow, path)
        groups = range(file.num_row_groups)
        if (points := sum(file.metadata.row_group(n).num_rows for n in groups)) > _POINTS:
            raise CreditError(f"{path} has {points:,} points, expected at most {_POINTS:,}.")
        return Curves.join(_expect_points(file.read_row_group(n), path) for n in groups)


def _expect_columns(schema: pa.Schema, path: Path) -> None:
    names, expected = ", ".join(schema.names), ", ".join(COLUMNS.names)
    if names != expected:
        raise CreditError(f"{path} has columns {names}; expected {expected}.")
    for field, wanted in zip(schema, COLUMNS, strict=True):
        if not pa.types.is_string(wanted.type) and not pa.types.is_primitive(field.type):
            raise CreditError(f"{path} has {field.name} of {field.type}; expected {wanted.type}.")


def _expect_points(table: pa.Table, path: Path) -> pa.Table:
    table = table.cast(_POINTS_OF)
    for name in ("tokens", "seconds", "value"):
        ends = pc.call_function("min_max", [table.column(name)]).as_py().values()
        if odd := [end for end in ends if end is not None and not is_usable(end)]:
            raise CreditError(f"{path} holds {odd[0]}, expected at most {HUGE}.")
    return table


def _write_curves(curves: Curves, path: Path) -> None:
    with aside(path) as temporary, temporary.open("wb") as file, _writer(file) as writer:
        for table in curves.tables():
            writer.write_table(table)


def _writer(file: BinaryIO) -> pq.ParquetWriter:
    split = {"value": "BYTE_STREAM_SPLIT"}
    return pq.ParquetWriter(
        file, COLUMNS, compression="zstd", use_dictionary=_AS_CODES, column_encoding=split
    )


def _write_table(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    with aside(path) as temporary, temporary.open("wb") as file:  # pyarrow opens UTF-8 names alone
        pq.write_table(table, file, compression="zstd")


def _read_table(path: Path, needed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read rows; a table without rows may have no columns."""
    with _told(path):
        table = read_table(path)
        if table.num_rows and not set(needed) <= set(table.column_names):
            raise CreditError(
                f"{path} has columns {', '.join(table.column_names)}; expected "
                f"{', '.join(sorted(needed))} among them."
            )
        rows = table.to_pylist()
        for number, row in enumerate(rows):
            _expect_row(row, needed, f"{path}: row {number}")
        return rows


def _expect_row(row: Mapping[str, Any], needed: Mapping[str, Any], where: str) -> None:
    """Check a row, what is JSON in it, and the credit of each of its tokens."""
    credits = dict.fromkeys((n for n in row if n.startswith(CREDIT_COLUMN)), list[float] | None)
    kinds = {**needed, **credits}
    fit({n: str if n in _TEXTS else kind for n, kind in kinds.items()}, row, where)
    texts = {name: parse_json(row[name], f"{where}.{name}") for name in _TEXTS if name in needed}
    fit({name: needed[name] for name in texts}, texts, where)
    tokens = texts.get("tokens", ())
    for name in ("counted", *credits) if "tokens" in texts else ():
        if len(row[name] or tokens) != len(tokens):
            raise CreditError(f"{where}: {name!r} has not one entry for each of its tokens.")


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
