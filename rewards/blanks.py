"""Characters that show nothing: white space, controls, and what Unicode lets a renderer ignore.

A text of them alone is no content, and around a text they are no part of it.
"""

import re

# Default_Ignorable_Code_Point of Unicode 16, as of DerivedCoreProperties.txt; U+2800, the blank
# Braille pattern; controls. First and last of each range.
_UNSEEN = (
    (0x0000, 0x001F), (0x007F, 0x009F), (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C),
    (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E),
    (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)  # fmt: skip
_SPACES = [code for code in range(0x3001) if chr(code).isspace()]  # none lies beyond
CODES = sorted({*_SPACES, *(c for first, last in _UNSEEN for c in range(first, last + 1))})
_BLANK = "".join(sorted(map(chr, CODES), key=" \n\r\t".find, reverse=True))  # common ones first
_RANGES = "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSEEN)
_SEEN = re.compile(rf"[^{_RANGES}\s]")


def is_blank(text: str) -> bool:
    """Return whether nothing of a text shows.

    Example:
        >>> is_blank(" \u200b\u2060"), is_blank("."), is_blank("")
        (True, False, True)
    """
    return not text or text.isspace() or _SEEN.search(text) is None


def stripped(text: str) -> str:
    r"""Return a text without the blank characters around it.

    Example:
        >>> stripped("\ufeff <think>\u200b</think> \n")
        '<think>\u200b</think>'
    """
    text = text.strip()
    ends = text[:1] + text[-1:]
    return text if ends.isascii() and ends.isprintable() else text.strip(_BLANK)


def seen(text: str) -> str:
    r"""Return a text without the characters in it that have no width, and with plain blanks.

    Example:
        >>> seen("-\u200b5")
        '-5'
    """
    return _NO_WIDTH.sub("", _WIDE.sub(" ", text))


_WIDE = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")
_NO_WIDTH = re.compile(f"(?![\\x00-\\x1f])[{_RANGES}]")


def lead(text: str) -> int:
    """Return how many blank characters a text begins with."""
    return len(text) - len(text.lstrip(_BLANK))
