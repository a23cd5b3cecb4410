"""Curves in a small panel; panels that are compared get the same axes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from grpo_credit.experiments.figures.drawing import LIGHT, Frame, set_ticks
from grpo_credit.experiments.figures.palette import Line
from grpo_credit.text import visible

SMALL = Frame(300, 190, left=40, right=8, bottom=34, top=8)
WIDE = Frame(900, 260, left=40, right=8, bottom=34, top=8)
MARGIN = 0.02  # beyond shares of 0 and 1, for the line's own width


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
        share: Of shares from 0 to 1: no band is drawn beyond.
        frame: Its size.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    room: np.ndarray | Sequence[float] = ()
    share: bool = False
    frame: Frame = SMALL

    def draw(self, axes: Axes) -> None:
        """Draw the curves."""
        axes.margins(0, 0.05)
        axes.set_xlabel(visible(self.unit))
        axes.grid(axis="x", visible=False)
        set_ticks(axes)
        for curve in self.curves:
            _draw(curve, axes, (0.0, 1.0) if self.share else (-np.inf, np.inf))
        axes.update_datalim(self.room)
        axes.autoscale_view()
        if self.share:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -MARGIN), min(high, 1 + MARGIN))

    @property
    def constant(self) -> bool:
        """Whether no curve ever changes, beyond rounding."""
        return all(np.ptp(c.y) <= 1e-9 * max(1.0, np.abs(c.y).max()) for c in self.curves)

    def points(self) -> pd.DataFrame:
        """Return what is drawn, a row a point: panel, curve, x, y, and the ends of the band."""
        return pd.concat(
            [
                pd.DataFrame({
                    "panel": self.title, "curve": curve.line.label.removeprefix("_"),
                    "x": curve.x, "y": curve.y,
                    "low": curve.y - (np.nan if curve.half is None else curve.half),
                    "high": curve.y + (np.nan if curve.half is None else curve.half),
                })
                for curve in self.curves
            ] or [pd.DataFrame(columns=["panel", "curve", "x", "y", "low", "high"])]
        )  # fmt: skip


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


def _draw(curve: Curve, axes: Axes, bounds: tuple[float, float]) -> None:
    x, y, line, half = curve
    colour, marker = LIGHT[line.colour], "o" if len(x) == 1 else ""
    axes.plot(
        x, y, color=colour, linewidth=line.width, linestyle=line.dash, alpha=line.alpha,
        label=visible(line.label), marker=marker, clip_on=False,
    )  # fmt: skip
    if half is not None:
        low, high = (np.clip(y + side * half, *bounds) for side in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, clip_on=False)
