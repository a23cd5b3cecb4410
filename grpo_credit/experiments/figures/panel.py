"""Curves in a small panel; panels that are compared get the same axes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from grpo_credit.experiments.figures.drawing import LIGHT, Frame, set_ticks
from grpo_credit.experiments.figures.palette import Line
from grpo_credit.text import visible


class Curve(NamedTuple):
    """A line through points, and a band around it.

    Args:
        x: `(k,)`, ascending.
        y: `(k,)`, finite.
        line: How it is drawn.
        half: `(k,)`, half the height of the band; None without one.
    """

    x: np.ndarray
    y: np.ndarray
    line: Line
    half: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """Curves on common axes.

    Args:
        title: Above it.
        unit: Below the axis.
        curves: What comes later is drawn above.
        room: Points that the axes hold, too, `(2, 2)`: the `extent` of all that are compared.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    room: np.ndarray | Sequence[float] = ()
    frame = Frame(300, 190, left=40, right=8, bottom=34, top=8)

    def draw(self, axes: Axes) -> None:
        """Draw the curves."""
        axes.margins(0, 0.05)
        axes.set_xlabel(visible(self.unit))
        axes.grid(axis="x", visible=False)
        set_ticks(axes)
        for curve in self.curves:
            _draw(curve, axes)
        axes.update_datalim(self.room)
        axes.autoscale_view()


def extent(curves: Iterable[Curve]) -> np.ndarray:
    """Return two corners of the box around curves and their bands, `(2, 2)`; none without any."""
    points = [
        np.column_stack([curve.x, curve.y + side * (0.0 if curve.half is None else curve.half)])
        for curve in curves
        for side in (-1, 1)
    ]
    if not points:
        return np.empty((0, 2))
    every = np.concatenate(points)
    return np.stack([every.min(axis=0), every.max(axis=0)])


def _draw(curve: Curve, axes: Axes) -> None:
    x, y, line, half = curve
    colour, marker = LIGHT[line.colour], "o" if len(x) == 1 else ""
    axes.plot(
        x, y, color=colour, linewidth=line.width, linestyle=line.dash, alpha=line.alpha,
        label=visible(line.label), marker=marker, clip_on=False,
    )  # fmt: skip
    if half is not None:
        axes.fill_between(
            x, y - half, y + half, color=colour, alpha=0.16, linewidth=0, clip_on=False
        )
