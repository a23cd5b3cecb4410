"""Axes and text of a figure."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup

Span = tuple[float, float]


class Axis(NamedTuple):
    """A linear map from numbers to places.

    Args:
        low: The number at `start`.
        high: The number at `stop`, more than `low`.
        start: Place in the figure.
        stop: Place in the figure; below `start` for an axis that goes up.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        return self.start + (self.stop - self.start) * (value - self.low) / (self.high - self.low)


def ticks(low: float, high: float, about: int = 5) -> Sequence[float]:
    """Choose round numbers between two numbers, both included.

    Args:
        low: The first number.
        high: The second, more than `low`.
        about: How many are wanted; there are up to twice as many.

    Example:
        >>> ticks(0, 1.05), ticks(-0.31, 0.4), ticks(0, 1.0, 3)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [-0.2, 0.0, 0.2, 0.4], [0.0, 0.5, 1.0])
    """
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= (high - low) / (about + 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]


def span(values: Iterable[float], pad: float = 0.05) -> Span:
    """Return an interval that holds all finite values, with some room; (0, 1) without any.

    Example:
        >>> span([0.0, 2.0]), span([3.0, 3.0]), span([])
        ((-0.1, 2.1), (2.5, 3.5), (0.0, 1.0))
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = pad * (high - low)
    if room <= 1e-9 * max(abs(low), abs(high)):  # all alike
        room = 0.5 if low in (0.0, 1.0) or abs(low) > 1 else abs(low) / 2
    return low - room, high + room


def label(kind: str, x: float, y: float, content: str) -> str:
    """Write a text of a CSS class, escaped."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw a straight line of a CSS class."""
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def drawing(title: str, width: float, height: float, body: Iterable[str], kind: str = "") -> Markup:
    """Put parts together into an `<svg>` with a title for screen readers.

    Args:
        title: What is shown, in words; escaped.
        width: Of the view box.
        height: Of the view box.
        body: SVG elements, escaped already.
        kind: CSS classes.
    """
    named = f' class="{kind}"' if kind else ""
    return Markup(
        f'<svg{named} role="img" aria-label="{escape(title)}" viewBox="0 0 {width:g} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )
