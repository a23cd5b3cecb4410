"""The data of a report, beside the study: what is rendered, and nothing else is read for it.

report.json          the study, its cells, its manifest; with the comparison, for other programs
runs.csv             a row for each cell
curves.parquet       credit, seed, step, tokens, seconds, name, value; a row group for each run
credit.parquet       some completions, their tokens and the credit of each strategy
completions.parquet  completions of every strategy
"""

import json
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from grpo_credit.errors import CreditError
from grpo_credit.report.data import Report
from grpo_credit.report.series import COLUMNS, Curves
from grpo_credit.run.files import aside, replace_text

SCHEMA = 2
REPORT, RUNS, CURVES = "report.json", "runs.csv", "curves.parquet"
CREDIT, COMPLETIONS = "credit.parquet", "completions.parquet"
_OLD_CURVES = "curves.csv"  # of earlier versions
_AS_CODES = ["credit", "step", "tokens", "seconds", "name"]  # few different values in a run
Batch = pa.Table | pa.RecordBatch
_PARSE = csv.ParseOptions(newlines_in_values=True)
_CREDIT_COLUMNS = {"step", "row", "group", "prompt", "reward", "advantage", "truncated", "decided",
                   "tokens", "counted"}  # fmt: skip
_COMPLETION_COLUMNS = {"credit", "seed", "step", "prompt", "completion", "rewards", "advantage"}
_ELSEWHERE = ("curves", "credit", "completions", "others")  # not in report.json


def write(report: Report, folder: Path) -> None:
    """Write the data; each file is replaced in one step, report.json last."""
    _write_table(report.credit, folder / CREDIT)
    _write_table(report.completions, folder / COMPLETIONS)
    _write_curves(report.curves, folder / CURVES)
    replace_text(
        folder / RUNS, pd.DataFrame([asdict(cell) for cell in report.cells]).to_csv(index=False)
    )
    replace_text(folder / REPORT, dump(report))
    (folder / _OLD_CURVES).unlink(missing_ok=True)


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
    content = _content(folder)
    given = {f.name: f.type for f in fields(Report) if f.name not in _ELSEWHERE}
    where = str(folder / REPORT)
    parts = {
        name: _read(kind, _entry(content, name, where), f"{where}: {name}")
        for name, kind in given.items()
    }
    report = Report(
        **parts,
        curves=_curves(folder),
        credit=_read_table(folder / CREDIT, _CREDIT_COLUMNS),
        completions=_read_table(folder / COMPLETIONS, _COMPLETION_COLUMNS),
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


def _curves(folder: Path) -> Curves:
    """Read the curves, of an older study from curves.csv."""
    path, read = folder / CURVES, _parquet
    if not path.exists() and (folder / _OLD_CURVES).exists():
        path, read = folder / _OLD_CURVES, _csv
    try:
        return Curves.join(map(_expect_columns, read(path)))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise CreditError(f"{path} cannot be read: {error}. {_AGAIN}") from None


def _parquet(path: Path) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        yield file.read_row_group(group)


def _csv(path: Path) -> Iterator[pa.RecordBatch]:
    kinds = dict(zip(COLUMNS.names, COLUMNS.types, strict=True))
    options = csv.ConvertOptions(column_types=kinds, null_values=[""])
    reader = csv.open_csv(path, parse_options=_PARSE, convert_options=options)
    yield reader.schema.empty_table()  # so that its columns are looked at
    yield from reader


def _expect_columns(table: Batch) -> Batch:
    found, expected = ", ".join(table.schema.names), ", ".join(COLUMNS.names)
    if found != expected:
        raise ValueError(f"it has columns {found}; expected {expected}")
    return table.cast(COLUMNS)


def _write_curves(curves: Curves, path: Path) -> None:
    with aside(path) as temporary, _writer(temporary) as writer:
        for table in curves.tables():
            writer.write_table(table)


def _writer(path: Path) -> pq.ParquetWriter:
    split = {"value": "BYTE_STREAM_SPLIT"}
    return pq.ParquetWriter(
        path, COLUMNS, compression="zstd", use_dictionary=_AS_CODES, column_encoding=split
    )


def _write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    with aside(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _read_table(path: Path, needed: set[str]) -> list[dict[str, Any]]:
    """Read rows; a table without rows may have no columns."""
    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise CreditError(f"{path} cannot be read: {error}. {_AGAIN}") from None
    if table.num_rows and not needed <= set(table.column_names):
        raise CreditError(
            f"{path} has columns {', '.join(table.column_names)}; expected "
            f"{', '.join(sorted(needed))} among them. {_AGAIN}"
        )
    return table.to_pylist()


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
