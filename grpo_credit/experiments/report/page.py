"""The page: one HTML file that needs no network, and no script but for hover and filters."""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_credit.experiments import html
from grpo_credit.experiments.figures.drawing import Plot, inline, save
from grpo_credit.experiments.figures.palette import (
    BASELINE,
    MEAN,
    OTHER,
    RIGHT,
    SEED,
    WRONG,
    strategy_line,
)
from grpo_credit.experiments.report.data import Report, shown
from grpo_credit.experiments.report.limits import Limits, cut
from grpo_credit.experiments.report.markdown import markdown
from grpo_credit.experiments.report.series import AXES
from grpo_credit.experiments.report.store import load
from grpo_credit.experiments.report.view_completions import browsed
from grpo_credit.experiments.report.view_credit import shaded
from grpo_credit.experiments.report.view_curves import learning, lengths
from grpo_credit.experiments.report.view_diagnostics import (
    diagnostics,
    gradient_panel,
    gradient_table,
)
from grpo_credit.experiments.report.view_results import (
    SIGNS,
    differences_figure,
    differences_table,
    grid,
    strategies_table,
    values_figure,
)
from grpo_credit.experiments.report.view_run import (
    by_strategy,
    calibration_table,
    code,
    cost_table,
    counted,
    listed,
    seeds_vary,
    unlike,
)
from grpo_credit.experiments.words import moment
from grpo_credit.records.files import replace_text, sweep
from grpo_credit.text import in_line

PAGE, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
LARGEST = 3_000_000  # bytes of the page
_TEMPLATES = "experiments/report/templates"
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
    curves, unit = report.finished_curves, report.study.metric or "metric"
    figures = (values_figure, differences_figure)
    blocks = {
        "curves": learning(report, curves, limits)[:1],
        "lengths": lengths(report, curves, limits)[:1],
    }
    return {
        "results": [figure(report.comparison, report.values, unit) for figure in figures],
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
    content = _results(report, limits) | _curves(report, limits) | _runs(report, limits)
    return html.render(
        f"{_TEMPLATES}/page.html",
        script=f"{_TEMPLATES}/page.js",
        **content,
        title=f"{Path(report.study.recipe).stem}: credit strategies compared",
        collected=moment(report.collected),
        sections=SECTIONS,
        report=report,
        study=report.study,
        inline=inline,
        cut=lambda value: cut(_text(value), limits.text),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _results(report: Report, limits: Limits) -> dict[str, Any]:
    comparison, values = report.comparison, report.values
    unit = report.study.metric or "metric"
    return {
        "comparison": comparison,
        "several": sum(result.verdict is not None for result in comparison.results) > 1,
        "pairing": report.pairing,
        "seeds_vary": seeds_vary(report.pairing),
        "counted": counted(report),
        "unlike": unlike(report, limits),
        "grid": grid(report, limits),
        "signs": SIGNS,
        "statuses": Counter(cell.status for cell in report.cells),
        "total": len(report.cells),
        "problems": report.problems,
        "values_figure": values_figure(comparison, values, unit),
        "differences_figure": differences_figure(comparison, values, unit),
        "strategies": strategies_table(report, comparison, report.finished_curves),
        "differences": differences_table(comparison),
    }


def _curves(report: Report, limits: Limits) -> dict[str, Any]:
    curves, drawn = report.finished_curves, shown(report, limits)
    return {
        "axes": AXES,
        "learning": learning(report, curves, limits),
        "lengths": lengths(report, curves, limits),
        "learning_key": (SEED, MEAN, BASELINE, OTHER),
        "lengths_key": (RIGHT, WRONG),
        "strategies_key": [strategy_line(n, name) for n, name in enumerate(drawn)],
        "diagnostics": diagnostics(report, curves, limits),
        "ratio_table": gradient_table(report, curves),
        "gradient_panel": gradient_panel(report, curves, limits),
        "points": limits.points if curves.longest > limits.points else None,
        "strategies_left_out": len(report.study.credits) - len(drawn),
    }


def _runs(report: Report, limits: Limits) -> dict[str, Any]:
    runs, lines, common = (
        listed(report, limits),
        browsed(report, limits),
        report.manifest.get("common", {}),
    )
    return {
        "examples": report.examples,
        "shaded": shaded(report, limits),
        "browsed": lines,
        "completions_left_out": len(report.completions) - len(lines),
        "cost": cost_table(report),
        "common": common,
        "configured": sum(name.startswith("config.") for name in common),
        "differs": report.manifest.get("differs", {}),
        "by_strategy": by_strategy,
        "code": code,
        "calibration": calibration_table(report),
        "runs": runs,
        "anchors": defaultdict(str, {(c.credit, c.seed): anchor for anchor, c in runs.items()}),
        "runs_left_out": len(report.cells) - len(runs),
    }


def write_report(args: argparse.Namespace) -> int:
    """Write report.html and report.md from the data beside them; needs no torch."""
    for study in args.studies:
        beside = [each for each in args.studies if each != study]
        page = render(study, beside, args.figures)
        print(f"wrote {in_line(page)}")
    return 0
