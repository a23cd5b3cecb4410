"""The data of a report, beside the study: what is rendered, and nothing else is read for it.

report.json          the study, its cells, its manifest; with the comparison, for other programs
runs.csv             a row for each cell
curves.csv           credit, seed, step, tokens, seconds, name, value
credit.parquet       some completions, their tokens and the credit of each strategy
completions.parquet  completions of every strategy
"""

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from grpo_credit.errors import CreditError
from grpo_credit.report.data import Report
from grpo_credit.run.files import aside, replace_text

SCHEMA = 2
REPORT, RUNS, CURVES = "report.json", "runs.csv", "curves.csv"
CREDIT, COMPLETIONS = "credit.parquet", "completions.parquet"
_KINDS = {
    "credit": pa.string(), "seed": pa.int64(), "step": pa.int64(), "tokens": pa.float64(),
    "seconds": pa.float64(), "name": pa.string(), "value": pa.float64(),
}  # fmt: skip
_CURVE_COLUMNS = list(_KINDS)
_PARSE = csv.ParseOptions(newlines_in_values=True)
_CREDIT_COLUMNS = {"step", "row", "group", "prompt", "reward", "advantage", "truncated", "decided",
                   "tokens", "counted"}  # fmt: skip
_COMPLETION_COLUMNS = {"credit", "seed", "step", "prompt", "completion", "rewards", "advantage"}
_ELSEWHERE = ("curves", "credit", "completions", "others")  # not in report.json


def write(report: Report, folder: Path) -> None:
    """Write the data; each file is replaced in one step, report.json last."""
    _write_table(report.credit, folder / CREDIT)
    _write_table(report.completions, folder / COMPLETIONS)
    replace_text(folder / CURVES, report.curves.to_csv(index=False))
    replace_text(
        folder / RUNS, pd.DataFrame([asdict(cell) for cell in report.cells]).to_csv(index=False)
    )
    replace_text(folder / REPORT, dump(report))


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
        curves=_curves(folder / CURVES),
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


def _curves(path: Path) -> pd.DataFrame:
    options = csv.ConvertOptions(column_types=_KINDS, null_values=[""])
    try:
        frame = csv.read_csv(path, parse_options=_PARSE, convert_options=options).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise CreditError(f"{path} cannot be read: {error}. {_AGAIN}") from None
    if list(frame.columns) != _CURVE_COLUMNS:
        raise CreditError(
            f"{path} has columns {', '.join(frame.columns)}; expected "
            f"{', '.join(_CURVE_COLUMNS)}. {_AGAIN}"
        )
    return frame


def curve_frame(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Make a table of curves: credit, seed, step, tokens, seconds, name, value."""
    frame = pd.DataFrame(rows, columns=_CURVE_COLUMNS)
    return frame.astype({"tokens": float, "seconds": float, "value": float})


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
