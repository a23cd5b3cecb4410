"""A forest plot: a row for each strategy, with its runs, its mean, and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from grpo_credit.experiments.figures.drawing import LIGHT, Frame, set_ticks
from grpo_credit.text import visible

Ends = tuple[float, float]
ROW = 46  # points


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
    wide: Ends | None
    thin: Ends | None
    strong: bool = True


@dataclass(frozen=True)
class Forest:
    """Rows on a common axis.

    Args:
        title: Above it.
        unit: Below the axis.
        rows: From top to bottom.
        reference: Number to include and mark; None for none.
    """

    title: str
    unit: str
    rows: Sequence[Row]
    reference: float | None = None

    @property
    def frame(self) -> Frame:
        """As high as the rows need; one row without any, since axes need a height."""
        return Frame(400, ROW * max(1, len(self.rows)) + 44, left=14, right=14, bottom=38, top=6)

    def points(self) -> pd.DataFrame:
        """Return what is drawn: a row a strategy, and a dot a column."""
        nothing = (None, None)
        return pd.DataFrame([
            {"strategy": row.name, "mean": row.mean,
             **dict(zip(("low", "high"), row.wide or nothing, strict=True)),
             **dict(zip(("low, bootstrap", "high, bootstrap"), row.thin or nothing, strict=True)),
             **{f"run {place}": dot for place, dot in enumerate(row.dots, 1)}}
            for row in self.rows
        ])  # fmt: skip

    def draw(self, axes: Axes) -> None:
        """Draw one row a strategy."""
        axes.margins(x=0.05)
        axes.set_xlabel(visible(self.unit))
        axes.spines.bottom.set_visible(False)
        set_ticks(axes)
        axes.yaxis.set_visible(False)
        if self.reference is not None:
            axes.axvline(self.reference, color=LIGHT["dim"], linewidth=1, linestyle="dashed")
        for place, row in enumerate(self.rows):
            _draw(row, place, axes)
        axes.set_ylim(max(1, len(self.rows)), 0)


def _draw(row: Row, top: int, axes: Axes) -> None:
    """Draw a row below `top`, in rows: its words, and below them its numbers."""
    words, runs, line, below = (top + share for share in (0.24, 0.58, 0.66, 0.79))
    on_page = {"facecolor": LIGHT["page"], "edgecolor": "none", "pad": 1}  # not on the grid
    axes.text(0, words, visible(row.name), transform=axes.get_yaxis_transform(), va="center",
              fontweight="bold", bbox=on_page)  # fmt: skip
    axes.text(1, words, row.note, transform=axes.get_yaxis_transform(), va="center", ha="right",
              color=LIGHT["dim"], bbox=on_page)  # fmt: skip
    axes.plot(row.dots, [runs] * len(row.dots), "o", color=LIGHT["dim"], alpha=0.55,
              markersize=5, markeredgewidth=0, clip_on=False)  # fmt: skip
    if row.thin:
        axes.plot(row.thin, [below] * 2, color=LIGHT["dim"], linewidth=1.5, clip_on=False)
    if row.wide:
        axes.plot(row.wide, [line] * 2, color=LIGHT["accent"], linewidth=3,
                  solid_capstyle="round", clip_on=False)  # fmt: skip
    if row.mean is not None:
        fill, edge, width = ("accent", "page", 1) if row.strong else ("page", "accent", 2)
        axes.plot(row.mean, line, "o", markersize=10, markerfacecolor=LIGHT[fill],
                  markeredgecolor=LIGHT[edge], markeredgewidth=width, clip_on=False)  # fmt: skip
