"""Parquet files that may be anybody's: bounded by what they declare, and by what becomes of it."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_credit.errors import CreditError
from grpo_credit.records.files import expect_size

MOST = 2**31  # bytes of a file and of its table in memory; 1,024 × 16,000 tokens in 16 columns
SMALL, EXPANSION = 2**26, 500  # a table may be small, or so many times as large as its file
_BATCH_BYTES, _BATCH_ROWS = 2**26, 2**14
_TEXTS = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")

_ODD = (pa.types.is_dictionary, pa.types.is_run_end_encoded, pa.types.is_string_view,
        pa.types.is_binary_view, pa.types.is_union)  # fmt: skip

# What reading and using a damaged table raises, beside `CreditError`.
DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError,
          AttributeError, RuntimeError)  # fmt: skip


@contextmanager
def open_table(path: Path, coded: Sequence[str] = ()) -> Generator[pq.ParquetFile]:
    """Open a parquet file if what it declares is within bounds.

    Columns of texts that are `coded` are read as dictionaries: each text once, whatever the rows.

    Raises:
        CreditError: if it is not, or has columns whose size says nothing of what they hold.
        pyarrow.ArrowException: (or OSError) if it is no parquet file.
    """
    expect_size(path, MOST)
    with path.open("rb") as opened:  # by its name pyarrow opens no path that is not UTF-8
        file = pq.ParquetFile(opened, read_dictionary=[*coded])
        for field in file.schema_arrow:
            if field.name not in coded:
                _expect_plain(field.type, f"{path}: {field.name!r}")
        _expect_bounded(file, path)
        yield file


def _expect_bounded(file: pq.ParquetFile, path: Path) -> None:
    columns = [group.column(n) for group in _groups(file) for n in range(group.num_columns)]
    room = _room(path)
    for what in ("num_values", "total_uncompressed_size"):
        if (total := sum(max(getattr(column, what), 0) for column in columns)) > room:
            raise CreditError(f"{path} has a {what} of {total:,}, expected at most {room:,}.")


def _groups(file: pq.ParquetFile) -> list[pq.RowGroupMetaData]:
    return [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]


def _room(path: Path) -> int:
    return min(MOST, SMALL + EXPANSION * path.stat().st_size)


def _expect_plain(kind: pa.DataType, where: str) -> None:
    """Refuse types whose size in memory says nothing of what they hold."""
    if any(is_odd(kind) for is_odd in _ODD) or isinstance(kind, pa.BaseExtensionType):
        raise CreditError(f"{where} is of type {kind}, expected numbers, texts, lists or structs.")
    for place in range(kind.num_fields):
        _expect_plain(kind.field(place).type, where)


def read_table(
    path: Path, columns: Sequence[str] | None = None, group: int | None = None
) -> pa.Table:
    """Read a parquet file, some of its columns or a group of its rows, as far as there is room.

    A file of kilobytes may be a table of gigabytes: the same text in every row is stored once. So
    it is read in parts, of as many rows as fit into memory if each held the largest value.

    Raises:
        CreditError: if there is more.
        pyarrow.ArrowException: (or OSError) if it is no parquet file.
    """
    room = _room(path)
    with open_table(path) as file:
        groups = None if group is None else [group]
        parts = []
        for part in file.iter_batches(_rows(file, columns), groups, columns):
            if (room := room - part.nbytes) < 0:
                raise CreditError(f"{path} is a table of more than {_room(path):,} bytes.")
            parts.append(part)
        return pa.Table.from_batches(parts, None if parts else file.schema_arrow)


def _rows(file: pq.ParquetFile, columns: Sequence[str] | None) -> int:
    """Return of how many rows at most a text each fits into memory, and the mean of numbers."""
    most = _BATCH_ROWS
    for group in _groups(file):
        parts = [group.column(n) for n in range(group.num_columns)]
        used = [c for c in parts if columns is None or _is_of(c.path_in_schema, columns)]
        texts = sum(c.total_uncompressed_size for c in used if c.physical_type in _TEXTS)
        numbers = 8 * sum(c.num_values for c in used) // max(group.num_rows, 1)
        most = min(most, _BATCH_BYTES // max(texts + numbers, 1))
    return max(most, 1)


def _is_of(path: str, columns: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in columns)
