"""The page: one HTML file that needs no network, and no script but for hover and filters."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grpo_credit.experiments import html
from grpo_credit.experiments.figures import palette
from grpo_credit.experiments.figures.drawing import Plot, inline, save
from grpo_credit.experiments.report import (
    view_credit,
    view_curves,
    view_diagnostics,
    view_results,
    view_run,
)
from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits, cut
from grpo_credit.experiments.report.markdown import markdown
from grpo_credit.experiments.report.store import load
from grpo_credit.records.files import replace_text, sweep
from grpo_credit.text import in_line

PAGE, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
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
    "coverage": "Coverage",
    "results": "Results",
    "curves": "Learning curves",
    "lengths": "Lengths",
    "diagnostics": "Diagnostics",
    "credit": "Credit by token",
    "completions": "Completions",
    "cost": "Cost",
    "manifest": "Manifest",
    "reading": "How to read",
}


def render(folder: Path, beside: Sequence[Path] = (), formats: Sequence[str] = ()) -> Path:
    """Write report.html, report.md and figures/*.svg from a folder's data; return the page.

    Args:
        folder: where `grpo_credit.experiments.study.collect.collect` wrote the data.
        beside: folders of other studies of the same question, such as another task: Holm's
            correction is over the comparisons of all of them.
        formats: of the figures, beside SVG: "pdf", "png".

    Raises:
        CreditError: if the data is missing, damaged or of another version.
    """
    others = {str(each): load(each).comparison.differences for each in beside}
    report = replace(load(folder), others=others)
    (folder / FIGURES).mkdir(exist_ok=True)
    for each in (folder, folder / FIGURES):
        sweep(each)
    drawn = pictures(report, Limits())
    for name, plots in drawn.items():
        for suffix in {"svg", *formats}:
            save(folder / FIGURES / f"{name}.{suffix}", plots)
    replace_text(folder / MARKDOWN, markdown(report, [f"{FIGURES}/{name}.svg" for name in drawn]))
    replace_text(folder / PAGE, page(report))
    return folder / PAGE


def pictures(report: Report, limits: Limits) -> dict[str, Sequence[Plot]]:
    """Choose the plots that are files, too: name -> those of one sheet."""
    blocks = {
        "curves": view_curves.learning(report, limits)[:1],
        "lengths": view_curves.lengths(report, limits)[:1],
    }
    return {
        "results": [view_results.values_figure(report), view_results.differences_figure(report)],
        **{name: block.axes["step"] for name, chosen in blocks.items() for block in chosen},
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
    """Write report.html and report.md from the data beside them; needs no torch."""
    for study in args.studies:
        beside = [each for each in args.studies if each != study]
        page = render(study, beside, args.figures)
        print(f"wrote {in_line(page)}")
    return 0
