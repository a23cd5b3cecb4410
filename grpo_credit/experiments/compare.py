"""Two runs beside each other: what was set otherwise, and what came out."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from grpo_credit import terminal
from grpo_credit.errors import CreditError
from grpo_credit.experiments.study.collect.cells import read_run
from grpo_credit.experiments.study.collect.provenance import flat
from grpo_credit.records.files import HELD_OUT, read_lines
from grpo_credit.records.summary import change_rows
from grpo_credit.text import visible

CAUTION = (
    "One run of each: what of a difference is luck cannot be told from it. `grpo-credit ablate` "
    "runs both with several seeds."
)

_ITS_OWN = ("started", "ended", "command", "process", "earlier", "preflight")
_PLACES = ("output_dir", "logging_dir", "run_name", "resume", "resume_from_checkpoint")


class Run(NamedTuple):
    """What is read of a run: its settings, and the last held-out numbers with their step."""

    settings: Mapping[str, str]
    numbers: Mapping[str, float]


def read(folder: Path) -> Run:
    """Read a run directory.

    Raises:
        CreditError: if it holds no manifest that can be read.
    """
    manifest = read_run(folder)
    if not manifest:
        raise CreditError(f"{folder} holds no manifest.json of a run; expected a run directory.")
    tested = read_lines(folder / HELD_OUT) if (folder / HELD_OUT).exists() else []
    return Run(flat(manifest, _ITS_OWN, _PLACES), tested[-1] if tested else {})


def differing(first: Run, second: Run) -> dict[str, tuple[str, str]]:
    """Return the settings that differ -> what each run says, as JSON; "-" for nothing."""
    names = dict.fromkeys([*first.settings, *second.settings])
    pairs = {n: (first.settings.get(n, "-"), second.settings.get(n, "-")) for n in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def compare_runs(args: argparse.Namespace) -> int:
    """Print what two runs differ in."""
    first, second = map(read, args.runs)
    settings = differing(first, second)
    if args.json:
        print(json.dumps({"differs": settings, "held_out": [first.numbers, second.numbers]}))
        return 0
    names = [str(folder) for folder in args.runs]
    console = terminal.console()
    console.print(_table("set otherwise", ["", *names], [[n, *p] for n, p in settings.items()]))
    rows = change_rows(first.numbers, second.numbers)
    console.print(_table("held out, last test", ["", *names, "difference"], rows))
    console.print(CAUTION)
    return 0


def _table(title: str, columns: list[str], rows: Any) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(escape(visible(column)), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(escape(visible(text)) for text in row))
    return table
