"""The page: one HTML file that needs no network, and no script but for hover and filters."""

import argparse
import json
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from grpo_credit.experiments import html
from grpo_credit.experiments.figures import palette
from grpo_credit.experiments.figures.drawing import Sheet, inline, save
from grpo_credit.experiments.report import (
    view_credit,
    view_curves,
    view_diagnostics,
    view_results,
    view_run,
)
from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, cut
from grpo_credit.experiments.report.markdown import markdown, table
from grpo_credit.experiments.report.paste import csv, latex
from grpo_credit.experiments.report.store import load
from grpo_credit.experiments.report.terminal import print_verdicts
from grpo_credit.experiments.words import Table
from grpo_credit.records.files import replace_text, sweep
from grpo_credit.text import in_line

PAGE, MARKDOWN, FIGURES, TABLES = "report.html", "report.md", "figures", "tables"
KINDS = {"csv": csv, "md": lambda content: f"{table(content)}\n", "tex": latex}  # of tables
LARGEST = 3_000_000  # bytes of the page
_TEMPLATES = "experiments/report/templates"
_VIEWS = {  # what templates choose from
    "credit": view_credit,
    "curves": view_curves,
    "diagnostics": view_diagnostics,
    "lines": palette,
    "results": view_results,
    "runs": view_run,
}
SECTIONS = {
    "verdict": "Verdict",
    "results": "Results",
    "credit": "Credit by token",
    "curves": "Learning curves",
    "lengths": "Lengths",
    "diagnostics": "Diagnostics",
    "completions": "Completions",
    "coverage": "Coverage",
    "cost": "Cost",
    "manifest": "Manifest",
    "reading": "How to read",
}


def read(folder: Path, beside: Sequence[Path] = ()) -> Report:
    """Read a study's data.

    Args:
        folder: of the study.
        beside: folders of other studies of the same question, such as another task: Holm's
            correction is over the comparisons of all of them.

    Returns:
        What the page shows; a notebook shows its verdicts, `to_pandas()` its runs.

    Raises:
        CreditError: if the data is missing, damaged or of another version.

    Example:
        from grpo_credit.experiments import report

        report.read(Path("reports/regex"))
    """
    others = {str(each): load(each).comparison.differences for each in beside}
    return replace(load(folder), others=others)


def render(folder: Path, beside: Sequence[Path] = ()) -> Path:
    """Write the page of the study in a folder; see `read` and `write`."""
    return write(folder, read(folder, beside))


def write(folder: Path, report: Report) -> Path:
    """Write report.html, report.md, and their figures and tables; return the page.

    A figure is a file for papers (SVG, PDF), for slides (PNG) and for drawing it anew (CSV), a
    table one for papers (LaTeX), pages (Markdown) and programs (CSV).

    Example:
        from grpo_credit.experiments import report

        report.write(Path("reports/regex"), report.read(Path("reports/regex")))
    """
    for each in (folder, folder / FIGURES, folder / TABLES):
        each.mkdir(exist_ok=True)
        sweep(each)
    drawn = pictures(report)
    for name, plots in drawn.items():
        for suffix in ("svg", "pdf", "png"):
            save(folder / FIGURES / f"{name}.{suffix}", plots)
        points = pd.concat([plot.points() for plot in plots])
        replace_text(folder / FIGURES / f"{name}.csv", points.to_csv(index=False))
    for name, content in tables(report).items():
        for suffix, written in KINDS.items():
            replace_text(folder / TABLES / f"{name}.{suffix}", written(content))
    replace_text(folder / MARKDOWN, markdown(report, [f"{FIGURES}/{name}.svg" for name in drawn]))
    replace_text(folder / PAGE, page(report))
    return folder / PAGE


def tables(report: Report) -> dict[str, Table]:
    """Choose the tables that are files, too."""
    return {
        "strategies": view_results.strategies_table(report),
        "differences": view_results.differences_table(report),
    }


def pictures(report: Report, limits: Limits | None = None) -> dict[str, Sheet]:
    """Choose the plots that are files, too: name -> those of one sheet, as a notebook shows them.

    Args:
        report: what `read` returns.
        limits: how much is shown of a large study; all by default.

    Example:
        from grpo_credit.experiments import report

        report.pictures(report.read(Path("reports/regex")))["results"]
    """
    limits = limits or Limits()
    blocks = {
        "curves": view_curves.learning(report, limits)[:1],
        "lengths": view_curves.lengths(report, limits)[:1],
    }
    profile = view_results.profile(report)
    results = (view_results.values_figure(report), view_results.differences_figure(report))
    return {
        "results": Sheet(results),
        **({"profile": Sheet((profile,))} if profile.curves else {}),
        **{name: Sheet(block.axes["step"]) for name, chosen in blocks.items() for block in chosen},
    }


def page(report: Report, limits: Limits | None = None) -> str:
    """Write the page; of a large study, less and less until it is small enough."""
    limits = limits or Limits()
    text = _rendered(report, limits)
    while len(text.encode()) >= LARGEST and limits != limits.tighter():
        limits = limits.tighter()
        text = _rendered(report, limits)
    return text


def _rendered(report: Report, limits: Limits) -> str:
    listed = view_run.listed(report, limits)
    return html.render(
        f"{_TEMPLATES}/page.html",
        script=f"{_TEMPLATES}/page.js",
        **_VIEWS,
        title=f"{Path(report.study.recipe).stem}: credit strategies compared",
        sections=SECTIONS,
        report=report,
        study=report.study,
        limits=limits,
        listed=listed,
        anchors={(cell.credit, cell.seed): anchor for anchor, cell in listed.items()},
        inline=inline,
        cut=lambda value: cut(_text(value), limits.text),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_report(args: argparse.Namespace) -> int:
    """Write the page from the data beside it, or print a study for pasting; needs no torch."""
    for study in args.studies:
        report = read(study, [each for each in args.studies if each != study])
        FORMATS[args.format](study, report, args.open)
    return 0


def _write_page(study: Path, report: Report, opened: bool) -> None:
    page = write(study, report)
    print_verdicts(report)
    print(f"wrote {in_line(page)}")
    if opened:
        webbrowser.open(page.absolute().as_uri())


FORMATS = {  # of `grpo-credit report`
    "html": _write_page,
    "md": lambda study, report, opened: print(markdown(report), end=""),
    "tex": lambda study, report, opened: print(*map(latex, tables(report).values()), sep="\n"),
}
