"""What a verb of the lab leaves: a table on the terminal, lab.json, CSV, and one offline page."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from grpo_credit.run.jsonfile import plain

SCHEMA = 1
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of the same columns.

    Args:
        name: of its CSV file.
        title: above it.
        rows: column -> value; None where there is no number.
    """

    name: str
    title: str
    rows: Sequence[Mapping[str, Cell]]

    @property
    def columns(self) -> list[str]:
        """The columns, in the order of the first row."""
        return list(self.rows[0]) if self.rows else []


@dataclass(frozen=True)
class Figure:
    """A drawing with its words.

    Args:
        title: above it.
        caption: below it.
        svg: as `grpo_credit.lab.figures` draws it, its labels escaped there.
    """

    title: str
    caption: str
    svg: Markup


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
    """

    title: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    figures: Sequence[Figure]
    command: str
    settings: Mapping[str, Any]


def show(findings: Findings, console: Console) -> None:
    """Print tables and sentences."""
    for table in findings.tables:
        drawn = RichTable(title=escape(table.title), title_justify="left")
        for place, column in enumerate(table.columns):
            drawn.add_column(escape(column), justify="right" if place else "left")
        for row in table.rows:
            drawn.add_row(*(escape(number(row[column])) for column in table.columns))
        console.print(drawn)
    for sentence in findings.sentences:
        console.print(escape(sentence), highlight=False)


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
        with (folder / f"{table.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, table.columns)
            writer.writeheader()
            writer.writerows(table.rows)
    page = folder / "page.html"
    page.write_text(_page(findings), encoding="utf-8")
    (folder / "lab.json").write_text(_json(findings), encoding="utf-8")
    return page


def _json(findings: Findings) -> str:
    content = {
        "schema": SCHEMA,
        "title": findings.title,
        "sentences": findings.sentences,
        "command": findings.command,
        "settings": findings.settings,
        "tables": {table.name: table.rows for table in findings.tables},
    }
    return json.dumps(plain(content), indent=1, allow_nan=False) + "\n"


def _page(findings: Findings) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(findings=findings, number=number)


def number(value: Cell) -> str:
    """Write a cell: four digits, a dash for none.

    Example:
        >>> number(0.123456), number(1234), number(None)
        ('0.1235', '1234', '–')
    """
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
