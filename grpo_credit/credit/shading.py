"""What notebooks show: plain HTML without a script; tokens shaded by a number each, and tables."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from grpo_credit.text import visible

ROWS, TOKENS = 16, 100  # that are shown
ABOVE, BELOW = "0,103,165", "194,74,0"  # blue rewards, orange blames
_TABLE = Markup('<div style="overflow-x:auto"><table>{}</table>{}</div>')
_ROW = Markup('<tr><th style="white-space:nowrap">{}</th>{}</tr>')
_CELL = Markup(
    '<td style="background:rgba({},{:.2f});text-align:center;white-space:nowrap;padding:.4em .3em">'
    "<code>{}</code><br>{}</td>"
)
_LISTING = Markup(
    '<div style="overflow-x:auto"><table><caption style="text-align:left;font-weight:bold">{}'
    "</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
)
_WORDS = Markup('<td style="text-align:left{}">{}</td>')


class Row(NamedTuple):
    """A completion as it is shown.

    Args:
        heading: what stands before it.
        tokens: as texts.
        numbers: one for each token; NaN for one that is not counted.
    """

    heading: str
    tokens: Sequence[str]
    numbers: Sequence[float]


def table(rows: Sequence[Row], total: int) -> str:
    """Return a table in which the depth of a shade is |number| over the largest one.

    Args:
        rows: at most `ROWS`; of each `TOKENS` are shown, escaped, and the others counted.
        total: how many rows there are.
    """
    shown = [Row(row.heading, row.tokens[:TOKENS], row.numbers[:TOKENS]) for row in rows]
    counted = [abs(x) for row in shown for x in row.numbers if x == x]
    scale = max(counted, default=0.0) or 1.0
    lines = Markup("").join(
        _ROW.format(
            visible(row.heading),
            Markup("").join(
                _cell(token, number, scale)
                for token, number in zip(row.tokens, row.numbers, strict=True)
            ),
        )
        for row in shown
    )
    return str(_TABLE.format(lines, _left_out(rows, total)))


def _cell(token: str, number: float, scale: float) -> Markup:
    told = "" if number != number else f"{number:+.3g}"
    depth = 0.75 * abs(number) / scale if told else 0.0
    return _CELL.format(ABOVE if number > 0 else BELOW, depth, visible(token), told)


def _left_out(rows: Sequence[Row], total: int) -> str:
    tokens = sum(max(0, len(row.tokens) - TOKENS) for row in rows)
    kinds = ((total - len(rows), "completions"), (tokens, "tokens at the end of those shown"))
    missing = " and ".join(f"{count:,} {kind}" for count, kind in kinds if count)
    return f"Left out: {missing}." if missing else ""


def listing(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    shades: Sequence[str] | None = None,
) -> str:
    """Return a table of texts, which are made visible and escaped.

    Args:
        title: above it.
        columns: their headings.
        rows: of cells, one for each column.
        shades: a colour behind each row, such as `BELOW`; "" for none. None: none at all.

    Example:
        >>> "<td" in listing("laws", ["law"], [["<b>"]]), "<b>" in listing("laws", [], [["<b>"]])
        (True, False)
    """
    head = Markup("").join(Markup("<th>{}</th>").format(visible(name)) for name in columns)
    lines = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_WORDS.format(_behind(shade), visible(cell)) for cell in row)
        )
        for row, shade in zip(rows, shades or [""] * len(rows), strict=True)
    )
    return str(_LISTING.format(visible(title), head, lines))


def _behind(shade: str) -> str:
    return f";background:rgba({shade},.25)" if shade else ""


def paragraph(text: str) -> str:
    """Return a paragraph of text, made visible and escaped."""
    return str(Markup("<p>{}</p>").format(visible(text)))
