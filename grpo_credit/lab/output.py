"""What a verb of the lab leaves: a table on the terminal, lab.json, CSV, and one offline page."""

import csv
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from grpo_credit.credit.shading import listing, paragraph
from grpo_credit.experiments.figures.drawing import Plot, alone, inline
from grpo_credit.experiments.figures.forest import Row
from grpo_credit.experiments.html import render
from grpo_credit.experiments.words import Table as Written
from grpo_credit.experiments.words import number
from grpo_credit.records.files import aside, replace_text
from grpo_credit.records.jsonfile import plain
from grpo_credit.text import to_cell, visible

SCHEMA = 1
DIGITS = 4
ERROR = " ±"  # ends the name of a column that holds the standard errors of another
HEADING = 9  # characters: headings of numbers are broken into lines as wide as these, or wider
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of the same columns.

    Args:
        name: of its CSV file.
        title: above it.
        rows: column -> value; None where there is no number. A column `x ±` holds the standard
            errors of `x`; people see the two together.
        shown: column -> its heading, for a terminal; all columns if empty.
        formats: column -> how to write its numbers, where four digits are not it.
    """

    name: str
    title: str
    rows: Sequence[Mapping[str, Cell]]
    shown: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns, in the order of the first row."""
        return list(self.rows[0]) if self.rows else []

    @property
    def headings(self) -> dict[str, str]:
        """The columns that people see, errors apart, with their headings."""
        return {column: column for column in self.columns if not column.endswith(ERROR)}

    def text(self, row: Mapping[str, Cell], column: str) -> str:
        """Write a cell with its error."""
        value, error = row[column], row.get(f"{column}{ERROR}")
        if isinstance(value, float) and isinstance(error, float):
            return plus_minus(value, error)
        if isinstance(value, float) and column in self.formats:
            return format(value, self.formats[column])
        return value if isinstance(value, str) else number(value, DIGITS)

    @property
    def written(self) -> Written:
        """What people see of it."""
        texts = [[self.text(row, column) for column in self.headings] for row in self.rows]
        return Written(list(self.headings.values()), texts)


@dataclass(frozen=True)
class Figure:
    """A drawing with its words.

    Args:
        caption: below it.
        plot: with its title.
    """

    caption: str
    plot: Plot


@dataclass(frozen=True)
class Findings:
    """What an instrument found.

    Args:
        title: of the page.
        sentences: what a reader should take home, with its uncertainty; the first one first.
        tables: the numbers.
        figures: the numbers, drawn.
        command: that makes this again.
        settings: what was measured, and how.
        words: what the words of the page mean.
    """

    title: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    figures: Sequence[Figure]
    command: str
    settings: Mapping[str, Any]
    words: Mapping[str, str] = field(default_factory=dict)

    def to_pandas(self, name: str = "") -> pd.DataFrame:
        """Return the rows of a table, by default the first.

        Raises:
            KeyError: if there is no table of that name.
        """
        tables = {table.name: table.rows for table in self.tables}
        return pd.DataFrame(tables[name or self.tables[0].name])

    def _repr_html_(self) -> str:
        parts = [paragraph(sentence) for sentence in self.sentences]
        for table in self.tables:
            columns = table.shown or table.headings
            rows = [[table.text(row, column) for column in columns] for row in table.rows]
            parts.append(listing(table.title, list(columns.values()), rows))
        return "\n".join([*parts, *(alone(figure.plot) for figure in self.figures)])


def show(findings: Findings, console: Console) -> None:
    """Print tables and sentences; words wrap where the terminal is narrow, numbers stay whole."""
    for table in findings.tables:
        console.print(_drawn(table), crop=False)
    for sentence in findings.sentences:
        console.print(escape(visible(sentence)), highlight=False)


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(title=escape(table.title), title_justify="left", box=SIMPLE, padding=(0, 1))
    columns = table.shown or table.headings
    for column, heading in columns.items():
        texts = [table.text(row, column) for row in table.rows]
        words = any(isinstance(row[column], str) for row in table.rows)
        narrow = max(HEADING, *map(len, [*texts, *heading.split()]))
        drawn.add_column(
            escape(heading if words else "\n".join(textwrap.wrap(heading, narrow))),
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=None if words else max(map(len, texts), default=0),
        )
    for row in table.rows:
        drawn.add_row(*(escape(visible(table.text(row, column))) for column in columns))
    return drawn


def refuse_taken(folder: Path) -> None:
    """Refuse a folder that holds findings already.

    Raises:
        FileExistsError: naming it; nothing is overwritten.
    """
    if (folder / "lab.json").exists():
        raise FileExistsError(f"{folder} holds findings already; name another --out.")


def write(findings: Findings, folder: Path) -> Path:
    """Write lab.json, one CSV per table and page.html; return the page.

    Raises:
        FileExistsError: if the folder holds findings already; nothing is overwritten.
    """
    refuse_taken(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for table in findings.tables:
        with (
            aside(folder / f"{table.name}.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.DictWriter(file, table.columns)
            writer.writeheader()
            writer.writerows(
                {name: to_cell(cell) for name, cell in row.items()} for row in table.rows
            )
    page = folder / "page.html"
    replace_text(
        page, render("lab/page.html", title=findings.title, findings=findings, inline=inline)
    )
    replace_text(folder / "lab.json", as_json(findings))
    return page


def as_json(findings: Findings) -> str:
    """Write titles, sentences, settings and tables, errors and what is not shown included."""
    content = {
        "schema": SCHEMA,
        "title": findings.title,
        "sentences": findings.sentences,
        "command": findings.command,
        "settings": findings.settings,
        "tables": {table.name: table.rows for table in findings.tables},
    }
    return json.dumps(plain(content), indent=1, allow_nan=False) + "\n"


def plus_minus(value: float, error: float) -> str:
    """Write a number and its standard error with the same digits, as many as the error tells.

    One digit of the error, two if the first is a 1; four of the number where the error is 0.

    Example:
        >>> plus_minus(0.71134, 0.00581), plus_minus(-0.25, 0.0123), plus_minus(0.5, 0.0)
        ('0.711 ± 0.006', '-0.250 ± 0.012', '0.5')
    """
    if not (math.isfinite(value) and 1e-9 * abs(value) < error < math.inf):
        return number(value, DIGITS)
    digits = digits_of(error)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def digits_of(error: float) -> int:
    """Return how many decimals a number with this standard error, above 0, is worth."""
    power = math.floor(math.log10(error))
    return max(0, -power + (error < 2 * 10.0**power))


def disc(
    label: str, value: float, error: float = 0.0, interval: tuple[float, float] | None = None
) -> Row:
    """Return the row of a forest plot: a disc, one standard error to either side, an interval."""
    wide = (value - error, value + error) if error else None
    return Row(visible(label), plus_minus(value, error), [], value, wide, interval)
