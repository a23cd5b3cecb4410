r"""Take off what dresses an answer without changing it, and write numbers in one way."""

import re
import unicodedata
from typing import Any

import regex

from .blanks import seen

DEEPEST = 5  # commands within each other that are taken off

_COMMAND = re.compile(
    r"\\(?:text|math)?(?:text|bf|it|rm|sf|tt|up|normal|boxed|fbox|mbox|hbox|boldsymbol|bm|emph"
    r"|underline|operatorname)\s*\{((?:[^{}]++|\{[^{}]*\})*+)\}"
)
_TAG = r"</?(?:b|i|u|em|strong|code|span|p|br|div|mark|small|big|tt)(?:\s[^<>]*)?/?>"
_MARK = re.compile(r"[<\\`$]")
_MARKS = re.compile(rf"(?:{_TAG}|\\[()\[\]]|[`$])+")
_LONE_MARKS = re.compile(r"(?:\\[()\[\]]|[`$])+")  # a<b>c has no tag
_STARS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]*[^\s*])\1(?![0-9*])")


def undressed(text: str) -> str:
    r"""Return a text without the markup that changes no value.

    That is emphasis, code and math marks (`**5**`, `` `5` ``, `<b>5</b>`, `$5$`, `\(5\)`), and the
    commands for upright text and boxes (`\text{5}`, `\boxed{5}`), five deep. Between digits a mark
    leaves two spaces: `1$2` is not 12. So do dollars, which only the reader of a number may lose.

    Example:
        >>> undressed(r"-**\text{5}** <b>km</b>")
        '-5 km'
    """
    if "\\" in text:
        for _ in range(DEEPEST):
            text, found = _COMMAND.subn(r"\1", text)
            if not found:
                break
    if _MARK.search(text):
        text = (_MARKS if "</" in text else _LONE_MARKS).sub(_between, text)
    return _STARS.sub(r"\2", text) if "*" in text else text


def _between(marks: re.Match[str]) -> str:
    text, start, end = marks.string, marks.start(), marks.end()
    return "  " if start and text[start - 1].isdigit() and text[end : end + 1].isdigit() else ""


_QUOTED = re.compile(r"""(["'])((?:(?!\1).)+)\1""")


def bare(text: str) -> str:
    """Take off quotes around a text and a full stop at its end, unless there is nothing else."""
    for _ in range(2):  # "Paris." and "Paris".
        text = text[:-1].rstrip() if text.endswith((".", "。")) and text.strip(".。 ") else text
        text = quoted[2].strip() if (quoted := _QUOTED.fullmatch(text)) else text
    return text


# ---- numbers in one way -----------------------------------------------------------------------


def plain(text: str, decimal: str) -> str:
    """Write a text's numbers in ASCII digits and signs, without markup, and LaTeX as plain text."""
    if not text.isascii():
        text = folded(text.replace("٫", decimal)).translate(_SIGNS)
    if "\\" in text or "{,}" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    # dollars in pairs are around a formula
    if (text.count("$") % 2 == 1 or _CURRENCY.search(text)) and _MILLIONS.search(text):  # $5m
        return ""
    for pattern, replacement in _SYMBOLS:
        text = pattern.sub(replacement, text)
    return _UNIT_POWER.sub(_unit_power, undressed(text))


def folded(text: str, fraction: str = r"  \1/\2  ") -> str:
    r"""Write compatible characters (NFKC), digits of any script, hyphens and quotes in one way.

    Raised and lowered characters and fractions become no part of what stands at them.

    Args:
        text: without a limit; runs of accents take quadratic time.
        fraction: how a fraction in one character is written, with its two numbers as `\1`, `\2`.

    Example:
        >>> folded("x² ½ ٣ “−5”"), folded("10⁻³"), folded("\u200b5")
        ('x^2   1/2   3 "-5"', '10^{-3}', '5')
    """
    if text.isascii():
        return text
    text = _RAISED_OR_LOWERED.sub(_apart, seen(text))
    text = _VULGAR.sub(lambda sign: _HALVES.sub(fraction, _compatible(sign[0])), text)
    text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    return _compatible(text).translate(_FOLDED)


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _apart(run: Any) -> str:
    inside = _compatible(run[0]).translate(_FOLDED)
    return ("^" if run["raised"] else "_") + (inside if len(inside) == 1 else f"{{{inside}}}")


_RAISED_OR_LOWERED = regex.compile(  # but no ™, and no sign of a number on the line
    r"(?![⁺⁻](?!\p{dt=super}))(?P<raised>[\p{dt=super}&&[\p{N}\p{Lm}\p{Sm}\p{P}]]+)|\p{dt=sub}+",
    regex.VERSION1,
)
_VULGAR = regex.compile(r"\p{dt=fraction}")
_HALVES = regex.compile("([0-9]+)⁄([0-9]*)")
_OTHER_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_FOLDED = str.maketrans(
    dict.fromkeys("−–‒‐‑➖˗", "-")
    | dict.fromkeys("‘’‚‛ʼ", "'")
    | dict.fromkeys("“”„‟«»", '"')
    | {"⁄": "/", "∕": "/"}
)
_SIGNS = str.maketrans(dict.fromkeys("×·⋅∙", "*") | {"٬": "'", "٪": "%"})
_WHOLE = r"\{\s*([+-]?[0-9][0-9.,]*)\s*\}|([0-9])"


def _replacing(*pairs: tuple[str, str]) -> list[tuple[Any, str]]:
    return [(regex.compile(pattern), replacement) for pattern, replacement in pairs]


_LATEX = _replacing(
    (r"\{,\}", ","),
    (r"\\!", ""),
    (r"\\[,;:> ]", " "),
    (r"\\q?quad(?!\p{L})", "  "),
    (r"\\([%$#&])", r"\1"),
    (r"\\(?:times|cdot|ast)(?!\p{L})", "*"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?!\p{L})", "°"),
    (r"\\(?:approx|simeq|cong)(?!\p{L})", "="),
    (r"\\(?:therefore|implies|(?:[Ll]ong)?[Rr]ightarrow|to)(?!\p{L})", ":"),
    (r"\\(?:left\s*\||lvert(?!\p{L}))\s*", "|"),
    (r"\s*\\(?:right\s*\||rvert(?!\p{L}))", "|"),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle)(?!\p{L})", ""),
    (rf"\\[dtc]?frac\s*(?:{_WHOLE})\s*(?:{_WHOLE})", r"  \1\2/\3\4  "),
)
_MILLIONS = regex.compile(r"[0-9][0-9.,]*[\s*]*[mt](?!\p{L})", regex.IGNORECASE)
_CURRENCY = regex.compile("[€£¥₹]")
_SYMBOLS = _replacing(
    (r"[!<>]=|=[<]|≠|≤|≥", "≠"),
    (r"[=-]>|[→⇒⟹⟶]", ":"),
    (r":=|={2,}|[≈≃≅≒]", "="),
    (r"~~", "❌"),
    (r"~", " "),
)
_UNIT_POWER = regex.compile(
    r"(?<![0-9.][eE])(?<=\p{L})\^\s?(?:\{\s?-?[1-9]\s?\}|-?[1-9](?![0-9]))"  # not in 2e^3
)


def _unit_power(power: Any) -> str:
    return ("⁻" if "-" in power[0] else "") + power[0].strip("^{} -")
