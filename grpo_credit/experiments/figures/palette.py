"""Colours of pages and plots, and the lines that are drawn with them; imports no matplotlib."""

from typing import NamedTuple

# Name of the CSS variable -> light, dark. No two light ones are equal: a page's plots are drawn in
# these and know the name by them.
PALETTE = {
    "text": ("#1c2024", "#e8eaed"),
    "page": ("#ffffff", "#14171b"),
    "line": ("#dcdfe4", "#343a43"),
    "dim": ("#5d6570", "#a2abb6"),
    "accent": ("#0067a5", "#5db4f0"),
    "held": ("#c24a00", "#f2a35e"),
    "s0": ("#0072b2", "#5db4f0"),
    "s1": ("#d55e00", "#f08b4a"),
    "s2": ("#00805c", "#3fc79a"),
    "s3": ("#b0568a", "#e08fbf"),
    "s4": ("#3f97cf", "#9bd3f7"),
    "s5": ("#8a6d00", "#dcc04f"),
    "s6": ("#5b4aa8", "#a99bf0"),
    "s7": ("#444a52", "#b9c0c9"),
}
_SERIES = 8  # colours of strategies; after them the dashes change
_DASHES = ("solid", "dashed", "dotted")  # matplotlib's and CSS's words


class Line(NamedTuple):
    """How a curve is drawn.

    Args:
        colour: Its name in `PALETTE`.
        label: In the legend; one that begins with "_" is in none.
        width: Points.
        dash: "solid", "dashed" or "dotted".
        alpha: 1 covers what is below.
    """

    colour: str
    label: str
    width: float = 2.2
    dash: str = "solid"
    alpha: float = 1.0


MEAN = Line("accent", "mean")
SEED = Line("accent", "one seed", 0.8, alpha=0.45)
BASELINE = Line("held", "mean of the baseline", 1.5, "dashed")
OTHER = Line("dim", "means of the others", 0.8, alpha=0.4)
RIGHT = Line("accent", "right")
WRONG = Line("held", "wrong", dash="dashed")


def strategy_line(place: int, name: str) -> Line:
    """Return the line of a strategy: colours and then dashes tell them apart."""
    return Line(f"s{place % _SERIES}", name, dash=_DASHES[place // _SERIES % len(_DASHES)])
