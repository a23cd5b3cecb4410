"""The main figures as files, for a page of documentation or a message."""

from collections.abc import Sequence

from markupsafe import Markup

from grpo_credit.experiments.figures import forest, lines
from grpo_credit.experiments.figures.sheet import sheet
from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.view_curves import Block, learning, lengths
from grpo_credit.experiments.report.view_results import differences_figure, values_figure
from grpo_credit.text import visible

COLUMNS = 4


def pictures(report: Report, style: str, limits: Limits | None = None) -> dict[str, Markup]:
    """Return the name of a file -> an SVG document.

    Args:
        report: the study.
        style: the CSS rules of figures.
        limits: how much to show.
    """
    limits = limits or Limits()
    found = {"results.svg": _results(report, style)}
    for name, blocks in (
        ("curves.svg", learning(report, report.finished_curves, limits)),
        ("lengths.svg", lengths(report, report.finished_curves, limits)),
    ):
        if blocks:
            found[name] = _panels(blocks, style)
    return found


def _results(report: Report, style: str) -> Markup:
    comparison, unit = report.comparison, visible(report.study.metric or "metric")
    figures = [
        ("Each strategy", values_figure(comparison, report.values, unit)),
        (
            f"Difference to {visible(report.study.baseline)}, seed by seed",
            differences_figure(comparison, report.values, f"difference in {unit}"),
        ),
    ]
    size = (forest.WIDTH, forest.height(len(comparison.results)))
    return sheet("Results", figures, size, 2, style)


def _panels(blocks: Sequence[Block], style: str) -> Markup:
    """Put the panels of the first block onto a sheet, against steps."""
    first = blocks[0]
    figures = [(panel.title, panel.svg) for panel in first.axes["step"]]
    return sheet(first.title, figures, (lines.WIDTH, lines.HEIGHT), COLUMNS, style)
