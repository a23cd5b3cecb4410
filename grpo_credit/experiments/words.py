"""Numbers and tables as a reader takes them in at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_credit.text import duration, size_of

NONE = "–"


@dataclass(frozen=True)
class Table:
    """Cells of text under headings.

    Args:
        columns: headings.
        rows: of cells; the first names the row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with some digits; a dash for none.

    Example:
        >>> number(0.12345), number(999.7), number(12345.6), number(None), number(2.0)
        ('0.123', '1,000', '12,346', '–', '2')
    """
    if value is None or value != value:
        return NONE
    large = abs(value) >= 10**digits - 0.5
    return f"{value:,.0f}" if large else f"{value + 0.0:.{digits}g}"  # no -0


def aligned(value: float | None) -> str:
    """Write a number with three digits, zeros at its end included.

    Example:
        >>> aligned(0.5), aligned(12.0), aligned(1234.0), aligned(None)
        ('0.500', '12.0', '1,234', '–')
    """
    return f"{value:#.3g}" if value is not None and abs(value) < 999 else number(value)


def signed(value: float | None) -> str:
    """Write a number with its sign.

    Example:
        >>> signed(0.5), signed(-0.25), signed(0.0), signed(None)
        ('+0.5', '-0.25', '0', '–')
    """
    if value is None or value != value:
        return NONE
    return f"{value:+.3g}" if value else "0"


def moment(text: str) -> str:
    """Write a UTC time in ISO format.

    Example:
        >>> moment("2026-11-27T18:34:49+00:00")
        '2026-11-27 18:34 UTC'
    """
    return f"{text[:16].replace('T', ' ')} UTC"


def time_taken(seconds: float | None) -> str:
    """Write a time that may not be known."""
    return NONE if seconds is None else duration(seconds)


def size(amount: float | None) -> str:
    """Write bytes that may not be known.

    Example:
        >>> size(865_095_680), size(None)
        ('825.0 MiB', '–')
    """
    return NONE if amount is None else size_of(amount)
