"""Curves in a small panel; panels that are compared get the same axes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from grpo_credit.experiments.figures.axes import Axis, Span, drawing, label, span, stroke, ticks

WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 32
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A line through points.

    Args:
        points: (x, y), in the order of x; y is finite.
        kind: CSS classes.
    """

    points: Sequence[Point]
    kind: str

    @classmethod
    def through(cls, x: np.ndarray, y: np.ndarray, kind: str) -> "Curve":
        """Return a line through points whose places are in two arrays."""
        return cls(list(zip(x.tolist(), y.tolist(), strict=True)), kind)


@dataclass(frozen=True)
class Band:
    """An area between two curves.

    Args:
        points: (x, low, high), in the order of x.
        kind: CSS classes.
    """

    points: Sequence[tuple[float, float, float]]
    kind: str


@dataclass(frozen=True)
class Panel:
    """A figure with a title.

    Args:
        title: above it.
        svg: the figure.
    """

    title: str
    svg: Markup


def panel(
    title: str, curves: Sequence[Curve], bands: Sequence[Band], x: Span, y: Span, unit: str
) -> Markup:
    """Draw curves on common axes.

    Args:
        title: Said to screen readers.
        curves: What comes later is drawn above.
        bands: Drawn below all curves.
        x: What the axis to the right spans.
        y: What the axis upwards spans.
        unit: Below the axis.

    Returns:
        An `<svg>` element.
    """
    right = Axis(*x, LEFT, WIDTH - RIGHT)
    up = Axis(*y, HEIGHT - BOTTOM, TOP)
    body = [_frame(right, up, unit)]
    body += [_band(band, right, up) for band in bands if band.points]
    body += [_curve(curve, right, up) for curve in curves if curve.points]
    return drawing(title, WIDTH, HEIGHT, body, "panel")


def spans(curves: Sequence[Curve], bands: Sequence[Band] = ()) -> tuple[Span, Span]:
    """Return axes that hold all curves and bands: to the right without room, upwards with some."""
    points = [point for curve in curves for point in curve.points]
    points += [(x, y) for band in bands for x, *ends in band.points for y in ends]
    across = [x for x, _ in points]
    wide = max(across, default=0.0) > min(across, default=0.0)
    return span(across, 0.0) if not wide else (min(across), max(across)), span(y for _, y in points)


def _frame(right: Axis, up: Axis, unit: str) -> str:
    bottom = HEIGHT - BOTTOM
    rows = "".join(
        stroke("grid", LEFT, up(v), WIDTH - RIGHT, up(v))
        + label("tick y", LEFT - 5, up(v) + 4, compact(v))
        for v in ticks(up.low, up.high, 4)
    )
    columns = "".join(
        label("tick", right(v), bottom + 14, compact(v)) for v in ticks(right.low, right.high, 4)
    )
    axis = stroke("axis", LEFT, bottom, WIDTH - RIGHT, bottom)
    return f"{rows}{axis}{columns}{label('unit', (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, unit)}"


def _curve(curve: Curve, right: Axis, up: Axis) -> str:
    places = [f"{right(x):.1f},{up(y):.1f}" for x, y in curve.points]
    if len(places) == 1:
        x, y = places[0].split(",")
        return f'<circle class="{curve.kind} alone" cx="{x}" cy="{y}" r="3"/>'
    return f'<polyline class="{curve.kind}" points="{" ".join(places)}"/>'


def _band(band: Band, right: Axis, up: Axis) -> str:
    there = [f"{right(x):.1f},{up(high):.1f}" for x, _, high in band.points]
    back = [f"{right(x):.1f},{up(low):.1f}" for x, low, _ in reversed(band.points)]
    return f'<polygon class="{band.kind}" points="{" ".join(there + back)}"/>'


def compact(value: float) -> str:
    """Write the number of a tick.

    Example:
        >>> [compact(v) for v in (0.25, 1500.0, 2_000_000.0, -0.0)]
        ['0.25', '1.5k', '2M', '0']
    """
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}" if value else "0"
