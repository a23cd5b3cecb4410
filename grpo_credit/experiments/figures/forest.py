"""A forest plot: a row for each strategy, with its runs, its mean, and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from grpo_credit.experiments.figures.axes import Axis, Span, drawing, label, span, stroke, ticks
from grpo_credit.experiments.figures.lines import compact

WIDTH, ROW, TOP, BOTTOM, MARGIN = 400, 46, 6, 38, 14


@dataclass(frozen=True)
class Row:
    """What is known of one strategy.

    Args:
        name: Above the row.
        note: Above the row, at its right end: the numbers.
        dots: A number for each run.
        mean: Their mean; None where there is none.
        wide: Interval that is drawn thick, None for none.
        thin: Interval that is drawn thin below it, None for none.
        strong: Whether this row says something: the mean is filled.
    """

    name: str
    note: str
    dots: Sequence[float]
    mean: float | None
    wide: Span | None
    thin: Span | None
    strong: bool = True


def forest(title: str, unit: str, rows: Sequence[Row], reference: float | None = None) -> Markup:
    """Draw one row a strategy on a common axis.

    Args:
        title: Said to screen readers.
        unit: Below the axis.
        rows: From top to bottom.
        reference: Number to include and mark; None for none.

    Returns:
        An `<svg>` element.
    """
    held = [] if reference is None else [reference]
    axis = Axis(*span([*_numbers(rows), *held]), MARGIN, WIDTH - MARGIN)
    tall = height(len(rows))
    bottom = tall - BOTTOM
    body = [
        stroke("grid", axis(v), TOP, axis(v), bottom)
        + label("tick", axis(v), bottom + 15, compact(v))
        for v in ticks(axis.low, axis.high)
    ]
    body += [stroke("reference", axis(v), TOP, axis(v), bottom) for v in held]
    body += [_row(row, axis, TOP + ROW * place) for place, row in enumerate(rows)]
    body.append(label("unit", WIDTH / 2, tall - 5, unit))
    return drawing(title, WIDTH, tall, body, "forest")


def height(rows: int) -> int:
    """Return the height of a plot with so many rows."""
    return TOP + ROW * rows + BOTTOM


def _numbers(rows: Sequence[Row]) -> list[float]:
    ends = [end for row in rows for pair in (row.wide, row.thin) if pair for end in pair]
    means = [row.mean for row in rows if row.mean is not None]
    return [*ends, *means, *(dot for row in rows for dot in row.dots)]


def _row(row: Row, axis: Axis, top: float) -> str:
    y = top + 30
    parts = [
        label("label", MARGIN, top + 15, row.name),
        label("note", WIDTH - MARGIN, top + 15, row.note),
    ]
    parts += [
        f'<circle class="run" cx="{axis(dot):.1f}" cy="{y - 4:.1f}" r="2.5"/>' for dot in row.dots
    ]
    if row.thin:
        parts.append(stroke("thin", axis(row.thin[0]), y + 6, axis(row.thin[1]), y + 6))
    if row.wide:
        parts.append(stroke("wide", axis(row.wide[0]), y, axis(row.wide[1]), y))
    if row.mean is not None:
        kind = "mean" if row.strong else "mean open"
        parts.append(
            f'<circle class="{kind}" cx="{axis(row.mean):.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(row.name)}: {row.mean:.4g}</title></circle>"
        )
    return "".join(parts)
