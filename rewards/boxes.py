r"""What is in a box, and what stands at an answer that belongs to it or takes it into a formula."""

import re
from typing import Any

import regex

from .words import DENIAL, FLAGS, RAISED, SCALED

Span = tuple[int, int]
_NEAR = 100  # characters on each side of an answer that may belong to it


def boxes_of(text: str) -> list[Span]:
    """Return what is in each box of a text; nothing where the last one is never closed."""
    first = _BOX.search(text)
    open_braces: list[int | None] = []  # where the box begins, if the brace opens one
    boxes: list[Span] = []
    for token in _BRACE.finditer(text, first.start()) if first else ():
        if token[0].endswith("{") and token[0] != "\\{":
            open_braces.append(None if token[0] == "{" else token.end())
        elif token[0] == "}" and open_braces and (start := open_braces.pop()) is not None:
            while boxes and boxes[-1][0] > start:
                boxes.pop()
            boxes.append((start, token.start()))
    unclosed = max((start for start in open_braces if start is not None), default=-1)
    return boxes if boxes and boxes[-1][0] > unclosed else []


def with_attached(text: str, start: int, end: int) -> Span | None:
    r"""Return an answer with what is attached to it; None if it is a part of something else.

    Attached is a sign, a power, a base, a percent sign or a scale ("million"), also to a box or to
    brackets around the answer. It is a part where an operator, a function or a digit stands at it,
    and it is none either where it is doubted ("5?") or denied ("not 5").

    Example:
        >>> text = r"so $-\left(\boxed{5}\right)$"
        >>> text[slice(*with_attached(text, 18, 19))]
        '-\\left(\\boxed{5}\\right)'
        >>> with_attached(r"$2 + \boxed{5}$", 12, 13)
    """
    first, last = start, end
    wraps = _BOX_OPENS, _BOX_CLOSES
    while last - end < _NEAR and (around := _around(text, first, last, *wraps)):
        first, last = around
        wraps = _OPENS, _CLOSES
    before = text[max(0, first - _NEAR) : first]
    if _PART_BEFORE.match(before) or _PART_AFTER.match(text, last, last + _NEAR):
        return None
    sign, more = SIGN.match(before), _MORE.match(text, last, last + _NEAR)
    if not (sign or more):
        return start, end
    return first - len(sign[0]) if sign else first, more.end() if more else last


def _around(text: str, first: int, last: int, opens: Any, closes: Any) -> Span | None:
    opened, closed = opens.match(text, max(0, first - _NEAR), first), closes.match(text, last)
    return (opened.start(), closed.end()) if opened and closed else None


def _ending(pattern: str) -> Any:
    """Match at the end of a text, reading backwards: that is a hundred times as fast."""
    return regex.compile(pattern, FLAGS | regex.REVERSE)


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX_OPENS, _BOX_CLOSES = _ending(r"\\(?:boxed|fbox)\s*\{?\s*$"), re.compile(r"\s*\}?")
_OPENS = _ending(r"(?: (?:\\left\s*|(?<!\\)) [(\[{] | \*+ | [`$] | <\w+> ) \s* $")
_CLOSES = regex.compile(r"\s* (?: (?:\\right\s*)? [)\]}] | \*+ | [`$] | </\w+> )", FLAGS)
_GAP = r"(?:[\s$~] | \\[$,;:!()\[\] ] | \\left\b)*"
_BESIDE = r"(?:[ $~] | \\[,;:!)\] ])*+"
_DASH = "[-−–➖]"
_MINUS = r"(?<!\w)(?:minus|negative)"
SIGN = _ending(
    rf"""
    (?: (?<![-\w)}}]) {_DASH} \\?\$? | (?<=(?:[=($]|\\[(\[])\s*) {_DASH} {_GAP}
    | (?: \\pm | \\mp | {_MINUS} | \\(?:text|math)\w*\s*\{{\s*(?:{_DASH}|{_MINUS})\s*\}} ) {_GAP}
    ) $
    """
)
_OPERAND = r"(?:[\d)}%] | (?<![\p{L}<\\/])\p{L})"
_COMMAND = r"""\\(?:
    neq? | lt | gt | [lg]eq? | [lg]eqslant | times | cdot | div | sqrt | not | not\s*= | [dtc]?frac
    | binom | [bp]?mod | log | lg | ln | exp | sin | cos | tan | pi | over | neg | lnot
)(?![a-zA-Z])"""
_PART_BEFORE = _ending(
    rf"""
    (?: {_OPERAND} \s? [-−+*/<>≤≥≠×÷·] {_GAP} [{{(]? | [√¬] {_GAP}
    | {_COMMAND} (?:\[\w*\])? {_GAP} [{{(]?
    | \\[dtc]?frac \s* \{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}} \s* \{{? \s*
    | \^ \s* \{{? | {_OPERAND}_\{{? | \d[.,]? | (?<![\p{{L}}\\])\p{{L}}\(? | -\s*\(
    | (?:{DENIAL} | \b anything \s+ but) \s* \}}? {_GAP} ) $
    """
)
_PART_AFTER = regex.compile(
    rf"""
    [.,]?\d
    | {_BESIDE} (?: [*_]*\?
        | (?<!\*\*\ ?)[-+*/<>] \s? (?=[\d\\(]|(?![aI]\s+\p{{L}}{{2}})\p{{L}}(?!\p{{L}}))
        | [≤≥≠×÷·±‰] | {_COMMAND} | \\(?:pm|mp)\b | {RAISED}
        | (?:is|was) \s+ (?:not|wrong|incorrect|false)\b | (?:is|was)n['’]t\b )
    """,
    FLAGS,
)
_MORE = regex.compile(
    rf"""
    {_BESIDE} (?: \\?% | \^\s*(?:\{{[^{{}}]{{0,50}}\}}|\\circ|\w) | !(?=\s*[$\\]) | _\{{?\d+\}}?
        | (?!\s*\n) (?:\\text\s*\{{\s*)? (?:\s*percent\b|{SCALED.pattern}) (?:\s*\}})? )
    | \p{{L}}{{1,2}}(?!\p{{L}})
    """,
    FLAGS,
)
