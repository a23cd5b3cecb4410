"""How deep a token is shaded by its credit."""

import math

LEVELS = 8  # shades of each sign


def level(credit: float, scale: float) -> int:
    """Choose a shade: 0 for no credit, otherwise ±1 to ±LEVELS in proportion to |credit|.

    Example:
        >>> [level(credit, 2.0) for credit in (0.0, 1e-9, 1.0, -2.0)]
        [0, 1, 4, -8]
    """
    size = math.ceil(abs(credit) / scale * LEVELS) if credit else 0
    return int(math.copysign(min(size, LEVELS), credit))


def shade(credit: float, scale: float) -> str:
    """Name the CSS class of a shade: p1 to p8, z, n1 to n8."""
    depth = level(credit, scale)
    return f"{'p' if depth > 0 else 'n'}{abs(depth)}" if depth else "z"


def number(credit: float) -> str:
    """Write a credit with its sign."""
    return f"{credit:+.3g}" if credit else "0"
