"""A number of each strategy on each task, as a shade."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from grpo_credit.experiments.figures.drawing import LIGHT, Frame
from grpo_credit.text import visible

CELL = 92, 24  # points
DEEPEST = 0.7  # so that the number on it stays readable


@dataclass(frozen=True)
class Heat:
    """Strategies by tasks; the shade is the distance from a middle, its sign the colour.

    Args:
        title: Above it.
        strategies: The names of the rows.
        tasks: The names of the columns.
        values: A row for each strategy, a number for each task; NaN where it was not measured.
        middle: The number without a shade.
        widest: The distance from it that has the deepest shade.
    """

    title: str
    strategies: Sequence[str]
    tasks: Sequence[str]
    values: Sequence[Sequence[float]]
    middle: float
    widest: float

    @property
    def frame(self) -> Frame:
        """As large as the cells need."""
        names = 12 + 7 * max(map(len, self.strategies), default=1)
        width, height = CELL[0] * len(self.tasks), CELL[1] * max(1, len(self.strategies))
        return Frame(names + width + 8, height + 30, left=names, right=8, bottom=4, top=26)

    def points(self) -> pd.DataFrame:
        """Return the numbers, a row a strategy."""
        table = pd.DataFrame(self.values, columns=list(self.tasks))
        table.insert(0, "strategy", list(self.strategies))
        return table

    def draw(self, axes: Axes) -> None:
        """Draw a cell for each number, which stands in it."""
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlim(0, len(self.tasks))
        axes.set_ylim(max(1, len(self.strategies)), 0)
        axes.set_xticks([n + 0.5 for n in range(len(self.tasks))], map(visible, self.tasks))
        axes.set_yticks(
            [n + 0.5 for n in range(len(self.strategies))], map(visible, self.strategies)
        )
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        for row, numbers in enumerate(self.values):
            for column, number in enumerate(numbers):
                self._cell(axes, row, column, number)

    def _cell(self, axes: Axes, row: int, column: int, number: float) -> None:
        if math.isnan(number):
            axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=LIGHT["dim"])
            return
        apart = max(-1.0, min(1.0, (number - self.middle) / self.widest))
        colour = LIGHT["accent" if apart >= 0 else "held"]
        axes.add_patch(Rectangle((column + 0.02, row + 0.05), 0.96, 0.9, linewidth=0,
                                 facecolor=colour, alpha=DEEPEST * abs(apart)))  # fmt: skip
        axes.text(column + 0.5, row + 0.5, f"{number:.2f}", ha="center", va="center")
