"""Figures of the lab as inline SVG: no script, no network, light and dark by the page's colours."""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from markupsafe import Markup

from grpo_credit.experiments.figures.axes import drawing, ticks

WIDTH, LABELS, ROW, MARGIN = 720, 210, 26, 34


class Mark(NamedTuple):
    """A number on a row: a dot with an interval of one standard error, and what it is held to.

    Args:
        value: where the dot is.
        error: standard error, 0 for none.
        reference: position of a tick to compare with, None for none.
    """

    value: float
    error: float = 0.0
    reference: float | None = None


def dots(title: str, unit: str, rows: Mapping[str, Mark]) -> Markup:
    """Draw one labelled dot a row on a common axis that begins at 0.

    Args:
        title: said to screen readers.
        unit: below the axis.
        rows: label -> mark; labels are escaped.

    Returns:
        An `<svg>` element.
    """
    ends = [m.value + m.error for m in rows.values()]
    ends += [m.reference for m in rows.values() if m.reference is not None]
    top = max([1e-12, *ends]) * 1.05
    height = ROW * len(rows) + 2 * MARGIN
    body = [_axis(top, height, unit)]
    for place, (label, mark) in enumerate(rows.items()):
        body.append(_row(label, mark, MARGIN / 2 + ROW * (place + 0.5), top))
    return drawing(title, WIDTH, height, body)


def _x(value: float, top: float) -> float:
    return LABELS + (WIDTH - LABELS - 60) * max(0.0, value) / top


def _axis(top: float, height: int, unit: str) -> str:
    bottom = height - MARGIN
    lines = "".join(
        f'<line class="grid" x1="{_x(v, top):.1f}" x2="{_x(v, top):.1f}" y1="8" y2="{bottom}"/>'
        f'<text class="tick" x="{_x(v, top):.1f}" y="{bottom + 14}">{v:.3g}</text>'
        for v in ticks(0, top)
    )
    return f'{lines}<text class="unit" x="{LABELS}" y="{height - 4}">{escape(unit)}</text>'


def _row(label: str, mark: Mark, y: float, top: float) -> str:
    low, high = _x(mark.value - mark.error, top), _x(mark.value + mark.error, top)
    held = (
        ""
        if mark.reference is None
        else f'<line class="reference" x1="{_x(mark.reference, top):.1f}" '
        f'x2="{_x(mark.reference, top):.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>'
    )
    return (
        f'<text class="label" x="{LABELS - 10}" y="{y + 4:.1f}">{escape(label)}</text>{held}'
        f'<line class="error" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="dot" cx="{_x(mark.value, top):.1f}" cy="{y:.1f}" r="4.5">'
        f"<title>{escape(label)}: {mark.value:.4g} ± {mark.error:.2g}</title></circle>"
    )
