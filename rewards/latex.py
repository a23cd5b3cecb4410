r"""Find a stated formula in a text, and write it in the LaTeX that math-verify reads one way only.

Everything is linear in the length of the text; a formula has at most `LONGEST` characters.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import regex

from .boxes import SIGN, boxes_of, with_attached
from .extraction import Extract, Span, thought_end
from .markup import folded
from .quantities import CHANGING
from .words import CHANGED_BEFORE, FLAGS, SCALES

LONGEST = 1000  # characters of a formula; what is longer is none
_DEEPEST = 10  # brackets inside each other; reading takes exponential time in them
_ANCHORS = 8  # how many times "answer" is looked at, from the end


@dataclass
class Stated(Extract):
    r"""Take the last box, or without boxes the formula that is said to be the answer.

    What stands before the last `</think>` is not looked at, and where a thought never closes there
    is no answer. Of several boxes the last counts, those before it only where "and", "or" or a
    comma is all that parts them; where it never closes there is no answer. Said to be the answer is
    what follows the last "answer" (or 答案): a formula in delimiters within 50 characters of the
    same sentence, or after "is", ":" or "=" the rest of the sentence. A sign, a power, a percent
    sign or a scale ("million") at it belongs to it; where it is part of a larger formula, doubted
    ("5?") or denied ("not $5$"), there is no answer.

    Example:
        >>> text = r"<think>\boxed{7}</think> The answer is $x = 4$ or $x = 5$."
        >>> text[slice(*Stated()(text))]
        '$x = 4$ or $x = 5$'
        >>> Stated()(r"\boxed{42}, or \boxed{7"), Stated()("<think> the answer is 42")
        (None, None)
    """

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of the answer, if there is one."""
        if (start := thought_end(text)) is not None:
            text = text[start:]
            span = _last_boxes(text) if _BOX.search(text) else _declared(text)
            if span := span and with_attached(text, *span):
                yield start + span[0], start + span[1]


def _last_boxes(text: str) -> Span | None:
    if bare := _BARE.match(text, text.rfind("\\boxed")):
        return bare.span(1)
    boxes = boxes_of(text)
    if not boxes:
        return None
    start, end = boxes.pop()
    while boxes and _BETWEEN_BOXES.fullmatch(text, boxes[-1][1], start):
        start, _ = boxes.pop()
    return start, end


def _declared(text: str) -> Span | None:
    """Return what is said to be the answer, the last time that something is."""
    end = len(text)
    for _ in range(_ANCHORS):
        anchors = (text.rfind(word, 0, end) for word in ("answer", "Answer", "ANSWER", "答案"))
        if (end := max(anchors)) < 0:
            return None
        for pattern in (_FORMULA, _SENTENCE):
            if match := pattern.match(text, end):
                between = _HARMLESS.sub("", text[end : match.start("answer")])
                return None if CHANGED_BEFORE.search(between) else match.span("answer")
    return None


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BARE = re.compile(r"\\boxed\s+([^\s{}\\$]+)")
_BETWEEN_BOXES = re.compile(
    r"\}?[\s$]*(?:[,;]|,?\s*(?:and|or|\\text\s*\{\s*(?:and|or)\s*\}))[\s$]*\\(?:boxed|fbox)\s*\{?"
)
_HARMLESS = regex.compile(rf"{SIGN.pattern} | (?<!(?:multiplied|divided)\s)\bby\s*$", FLAGS)
_DELIMITED = rf"""(?:
    \$\$ [^$]{{1,{LONGEST}}}+ \$\$
    | (?<!\\)\$ (?:\\\$|[^$\n]){{1,{LONGEST}}}+ \$
    | \\\[ (?:[^\\]|\\(?![\[\]])){{1,{LONGEST}}}+ \\\]
    | \\\( (?:[^\\]|\\(?![()])){{1,{LONGEST}}}+ \\\)
)"""
_FORMULA = re.compile(
    rf"""
    (?:answer|答案) [^\n.!?。]{{0,50}}? \s*
    (?P<answer>{_DELIMITED} (?:\s*(?:,?\s*(?:and|or)|,)\s*{_DELIMITED}){{0,5}})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SENTENCE = regex.compile(
    r"""
    (?:answer|答案) [\s*_]*
    (?: (?:is|are|[:=：]|是|为) (?:[\s*_:：]|is\b)* | (?<=\*\*|^\#[^\n]*) \s*\n\s* )
    (?P<answer>[^\s.。] [^\n]{0,100}?) (?=[*_]*\s*(?:$|\n|[.!?](?=\s|[*_]|$)|。|</?\w))
    """,
    FLAGS | regex.MULTILINE,
)


# ---- the same formula, written in one way -----------------------------------------------------


def plain_latex(text: str) -> str | None:
    r"""Return a formula in the LaTeX that math-verify reads in one way only, None if it cannot be.

    Read are delimiters and boxes around it, Markdown and a full stop, Unicode's digits, fractions,
    powers and signs (½, x², −), mixed numbers (2 2/3), groups of three digits (1 234), powers of
    ten (5e3, 5 million), arguments without braces (\frac12), and words alone (blue). A number in
    another base (42_5) is no other number. No formula are several numbers without anything between,
    a sentence, more than `LONGEST` characters or 10 brackets
    inside each other.

    Example:
        >>> plain_latex("**2½**."), plain_latex(r"\(\frac12\)"), plain_latex("1 234")
        ('2\\frac{1}{2}', '\\frac{1}{2}', '1234')
        >>> plain_latex("3 4"), plain_latex("so the sum is 2")
        (None, None)
    """
    if len(text) > LONGEST or _depth(text) > _DEEPEST:
        return None
    if not text.isascii():
        folds = folded(text, r"\\frac{\1}{\2}")
        text = "".join(_SIGNS.get(sign) or _letter(sign) for sign in folds)
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    if _WORDS.fullmatch(text):
        return rf"\text{{{text.lower()}}}"
    bare = _COMMAND.sub("#", _TEXT.sub("#", text))
    refused = any(pattern.search(bare) for pattern in (_NUMBERS, _PROSE, _MALFORMED))
    return None if not text or refused else text


def _depth(text: str) -> int:
    steps = (1 if bracket in "([{" else -1 for bracket in _BRACKETS.findall(text))
    return max(accumulate(steps), default=0)


def _letter(sign: str) -> str:
    """Return a Greek letter as a command, any other as it is."""
    *greek, letter = unicodedata.name(sign, "").split(" ")
    if greek != ["GREEK", "SMALL", "LETTER"]:
        return sign
    return f"\\{letter.lower().replace('lamda', 'lambda')} "


_SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "÷": r"\div ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "√": r"\sqrt ",
    "≈": r"\approx ", "°": r"^\circ ", "。": ".", "、": ",",
}  # fmt: skip
_TEXT = re.compile(r"\\(?:text|math|operatorname|mbox)[a-z]*\s*\{[^{}]*\}|\\(?:begin|end)\{\w*\}")
_BRACKETS = re.compile(r"[()\[\]{}]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORDS = re.compile(r"(?=.*[A-Za-z]{2} |[A-Za-z]{4})[A-Za-z]+(?: [A-Za-z]+)*")
_NUMBERS = re.compile(r"(?<![_^\d])\d+\s+[\d.]")
_PROSE = re.compile(
    r"""
    (?!(?:arc)?(?:sin|cos|tan)h?|infinity|percent(?:age)?|sqrt)[A-Za-z]{4,}
    | (?!and\b|or\b)[A-Za-z]{2,}[\s,]+(?!and\b|or\b)[A-Za-z]{2,}
    """,
    re.VERBOSE,
)
_MALFORMED = re.compile(r"^\[[^\[\],;#]*\]$|^[*_/^]|--|\+\+|[_^*/+-]$")
_SHORT = "cm|mm|dm|km|kg|mg|ml|mL|ft|lb|mph"
_NAMED = (
    rf"(?:(?:square|sq|cubic|cu)\.? )?(?:[A-Za-z]{{4,}}|{_SHORT})"
    r"(?: ?/ ?[A-Za-z]+| per [A-Za-z]+)?"
)
_SCALE = re.compile(rf"\s?(?:\\text\s*\{{\s*)?\b({'|'.join(SCALES)})\b(?:\s*\}})?", re.IGNORECASE)


def _unboxed(match: Any) -> str:
    """Return what is in a box; a sum in brackets, for what is attached to it."""
    return f" ({match[2]}) " if _SUM.fullmatch(match[2]) else f" {match[2]} "


_SUM = re.compile(r"[^=<>,\\]*[^=<>,\s][-+][^=<>,\\]*")


def _repeating(match: re.Match[str]) -> str:
    r"""Return 0.1\overline{6} as a fraction, (16 - 1) / 90."""
    first, again = match[1] + match[2], match[3]
    above = int(first + again) - int(first or 0)
    return rf"\frac{{{above}}}{{{'9' * len(again)}{'0' * len(match[2])}}}"


_STEPS: list[tuple[Any, Any]] = [  # patterns, and what takes the place of what they match
    (_BETWEEN_BOXES, ", "),
    (
        regex.compile(r"\\(?:boxed|fbox)\s*(?P<braces>\{((?:[^{}]++|(?&braces))*+)\})"),
        _unboxed,
    ),
    (re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])"), " "),
    (re.compile(r"\\?\$|(?<!\\)\\[()\[\]]|`|[€£¥₹]"), " "),  # delimiters and currencies
    (re.compile(r"\{,\}|,\\!|\\!|\\displaystyle(?![a-zA-Z])"), ""),
    (re.compile(r"(?<!\\)\\[,:; ]|~|\\q?quad(?![a-zA-Z])|\s+"), " "),
    (re.compile(r" +"), " "),
    (re.compile(r"^\s+|[\s.,;]+$"), ""),
    (re.compile(r"^([*_]{1,3})(?![\s*_])(.*[^\s*_])\1$", re.DOTALL), r"\2"),
    (re.compile(r"^\s+|[\s.,;]+$"), ""),
    (re.compile(r"^\\(?:approx|simeq)(?![a-zA-Z])\s*"), ""),
    (re.compile(r"\\(?:lor|vee)(?![a-zA-Z])"), " or "),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r" (?=[_^!%]|\\%)"), ""),
    (re.compile(r"(\d*)\.(\d*)\\overline\s*\{([0-9]+)\}"), _repeating),
    (re.compile(r"(?<!\\)%"), r"\\%"),
    (re.compile(r"\b(?:minus|negative) (?=[\d\\(.])", re.IGNORECASE), "-"),
    (re.compile(r"(?<=[\w)])\*\*(?=[\w(-])"), "^"),
    (re.compile(r"(?<![\d.,}])\d{1,3}(?: \d{3})+(?![\d])"), lambda m: m[0].replace(" ", "")),
    (re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])"), r"\1\\times 10^{\2}"),
    (re.compile(r"(?<![\w.^}])(\d+) (\d+)/(\d+)(?![\w.])"), r"\1\\frac{\2}{\3}"),
    (_SCALE, lambda m: rf"\times 10^{{{SCALES[m[1].lower()]}}}"),
    (re.compile(r"\s?(?:\\text\s*\{\s*)?\b(?:percent(?:age)?|per cent|pct)\b(?:\s*\})?"), r"\\%"),
    (re.compile(rf"(?<=[\d}})])(?: (?!{CHANGING})(?:{_NAMED})|(?:{_SHORT}))$"), r"\\text{\g<0>}"),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"\\[dt]binom"), r"\\binom"),
    (re.compile(r"(\\(?:frac|binom|sqrt))\s*(\\[a-zA-Z]+|[0-9a-zA-Z])"), r"\1{\2}"),
    (
        regex.compile(
            r"(\\(?:frac|binom)\s*(?P<braces>\{(?:[^{}]++|(?&braces))*+\}))\s*(\\[a-zA-Z]+|[0-9a-zA-Z])"
        ),
        r"\1{\3}",
    ),
    (re.compile(r"\\?\bsqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\((\d+)\)_|(?<![\w.}])(\d+)_"), r"\1\2_"),
    (re.compile(r"(?<![\w.}])(\d+)_\{?(\d+)\}?"), r"\\text{\1base\2}"),
    (re.compile(r"(?<![_^\d.])(\d+(?:\.\d+)?) ?(?=\(|\\binom)|(\)) ?(?=\()"), r"\1\2\\cdot "),
    (re.compile(r"(?<!\d)\.(?=\d)"), "0."),
    (re.compile(r"\\ldots"), r"\\dots"),
]
