"""The end of a run on the terminal: what changed, and where everything is."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grpo_credit.records.ranks import is_main
from grpo_credit.text import in_line


def before_after(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    title: str = "before and after training",
    console: Console | None = None,
) -> None:
    """Print a table of measurements before and after, and their change, on the main process.

    A label, such as "format rate (sampled)", that is on one side only is shown as "-" on the other.
    """
    if not is_main():
        return
    table = Table(title=escape(title), title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, *numbers in change_rows(before, after):
        table.add_row(escape(label), *numbers)
    (console or Console()).print(table)


def change_rows(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> list[tuple[str, str, str, str]]:
    """Write measurements before and after, and their change; "-" for what is missing.

    Example:
        >>> change_rows({"mean@4": 0.25}, {"mean@4": 0.5, "pass@4": 1.0})
        [('mean@4', '0.250', '0.500', '+0.250'), ('pass@4', '-', '1.000', '-')]
    """
    labels = dict.fromkeys([*before, *after])
    return [(label, *_row(before.get(label), after.get(label))) for label in labels]


def _row(before: float | None, after: float | None) -> tuple[str, str, str]:
    def shown(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.3f}"

    change = None if before is None or after is None else after - before
    return shown(before), shown(after), shown(change, "+")


def where(paths: Mapping[str, Path | str], *, console: Console | None = None) -> None:
    """Print a list "what | where" on the main process, each path on one line, however long.

    Args:
        paths: what -> path.
        console: where to print; stdout by default.
    """
    if not is_main():
        return
    console = console or Console()
    width = max((len(what) for what in [*paths, "what"]), default=0)
    for what, path in {"what": "where", **paths}.items():
        line = f"{what:<{width}} | {in_line(path)}"
        # soft_wrap: a terminal may fold the line, but it is copied as one.
        console.print(line, markup=False, highlight=False, soft_wrap=True)
