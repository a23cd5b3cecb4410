"""Two numbers of each strategy against each other, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from grpo_credit.experiments.figures.drawing import LIGHT, Frame, set_ticks
from grpo_credit.text import visible

LINE = 13  # points between the names of neighbours


@dataclass(frozen=True)
class Dot:
    """What is known of one strategy.

    Args:
        name: Beside it.
        across: Its number along the lower axis, and the ends of its interval.
        up: Likewise along the other.
    """

    name: str
    across: tuple[float, float, float]
    up: tuple[float, float, float]


@dataclass(frozen=True)
class Scatter:
    """Dots on two axes that begin at 0.

    Args:
        title: Above it.
        across: Below the lower axis.
        up: Beside the other.
        dots: One for each strategy.
    """

    title: str
    across: str
    up: str
    dots: Sequence[Dot]

    @property
    def frame(self) -> Frame:
        """Wide enough for the names at the right of the last dot."""
        return Frame(620, 360, left=52, right=120, bottom=38, top=10)

    def points(self) -> pd.DataFrame:
        """Return what is drawn, a row a strategy."""
        return pd.DataFrame([
            {"strategy": dot.name,
             **dict(zip((self.across, f"{self.across}, low", f"{self.across}, high"), dot.across,
                        strict=True)),
             **dict(zip((self.up, f"{self.up}, low", f"{self.up}, high"), dot.up, strict=True))}
            for dot in self.dots
        ])  # fmt: skip

    def draw(self, axes: Axes) -> None:
        """Draw each strategy as a disc with a cross of intervals."""
        axes.set_xlabel(visible(self.across))
        axes.set_ylabel(visible(self.up))
        set_ticks(axes)
        for dot in self.dots:
            (x, left, right), (y, low, high) = dot.across, dot.up
            axes.plot([left, right], [y, y], color=LIGHT["dim"], linewidth=1.2)
            axes.plot([x, x], [low, high], color=LIGHT["dim"], linewidth=1.2)
            axes.plot(x, y, "o", markersize=8, color=LIGHT["accent"], clip_on=False)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        self._name(axes)

    def _name(self, axes: Axes) -> None:
        """Write the names from the top down, none above the line of the one before."""
        height = self.frame.height - self.frame.bottom - self.frame.top
        _, most = axes.get_ylim()
        free = height + LINE
        for dot in sorted(self.dots, key=lambda dot: -dot.up[0]):
            wanted = dot.up[0] / most * height
            free = min(wanted, free - LINE)
            axes.annotate(
                visible(dot.name), (dot.across[0], dot.up[0]), xytext=(8, 7 + free - wanted),
                textcoords="offset points", va="center", annotation_clip=False,
            )  # fmt: skip
