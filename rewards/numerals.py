r"""Read the one number that an answer gives, whatever it is written in.

The answer is one number with words around it, by a grammar that says where each sign may stand:

    answer  =  [left "="]… words [sign] number [unit] words
    number  =  digits [places] [power of ten] ["/" digits] [percent]  |  digits digits "/" digits

What the grammar has no place for makes it no number: an operator, a variable, a command of LaTeX, a
second number; and so do words that change a value (half of, squared, million) or deny it (not, less
than), in the same clause and within 100 characters. Everything is exact.
"""

import functools
import numbers
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

import regex

from .markup import plain
from .words import (
    CHANGED_AFTER,
    CHANGED_BEFORE,
    COPULA,
    FILLER,
    FLAGS,
    OWN,
    RAISED,
    SCALED,
    SIGN_WORDS,
)

LONGEST = 1000  # characters of an answer
DIGITS = 64  # characters of a number
NEAR = 100  # characters from the number, within which words count
LARGEST = 999  # power of ten
SIDES = 8  # of an equation


def number(text: str, decimal: str = ".", unit: Any = None) -> Fraction | None:
    """Return the number that a text gives; None if it gives none, or more than one.

    Args:
        text: an answer of at most 1,000 characters; a longer one gives none.
        decimal: "." or ","; the other one groups digits.
        unit: what may follow, see `unit_pattern`; any words if None.
    """
    return _number(text, decimal, unit) if len(text) <= LONGEST else None


def exact(value: Any) -> Fraction | None:
    """Return what a number is, a float as it is written; None for NaN and infinities.

    Example:
        >>> exact(1.234), exact(42.0)
        (Fraction(617, 500), Fraction(42, 1))
    """
    if isinstance(value, numbers.Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    written = Decimal(str(value))
    sensible = written.is_finite() and abs(written.adjusted()) <= LARGEST
    return Fraction(written) if sensible else None


def unit_pattern(units: Sequence[str]) -> Any:
    """Return a pattern of a unit at the end of a text, the longest first; None without units."""
    names = sorted((plain(unit, ".").strip() for unit in units), key=len, reverse=True)
    either = "|".join(map(regex.escape, names))
    return regex.compile(rf"(?:{either})\W*$", regex.IGNORECASE) if names else None


@functools.lru_cache(maxsize=4096)  # the completions of a group share the gold and many answers
def _number(text: str, decimal: str, unit: Any) -> Fraction | None:
    *lefts, right = plain(text, decimal).split("=")
    if len(lefts) == 1 and not _DIGIT.search(right):
        lefts, right = [right], lefts[0]  # 42 = x
    if len(lefts) >= SIDES or not all(map(_may_equal, lefts)):
        return None
    value = _one_side(right, decimal, unit)
    others = (_one_side(left, decimal, None) for left in lefts if _DIGIT.search(left))
    return None if any(other not in (None, value) for other in others) else value


def _may_equal(left: str) -> bool:
    """Return whether a left side is arithmetic, or names what is asked for without changing it."""
    if _ARITHMETIC.fullmatch(left):
        return True
    name = _clause_before(_SUBSCRIPT.sub("", left).replace("\\", " ").strip())
    applied_to = name.rpartition(" ")[0]  # half of x
    changed = CHANGED_BEFORE.search(applied_to, _near_end(applied_to))
    return not (_NO_NAME.search(name) or changed)


def _one_side(text: str, decimal: str, unit: Any) -> Fraction | None:
    """Read what has no equals sign."""
    text = text.strip(" \t\r\n*_\"'")
    if absolute := _ABSOLUTE.fullmatch(text):
        value = _one_side(absolute["inside"], decimal, unit)
        return value if value is None else abs(value) * (-1 if absolute["sign"] else 1)
    text = _FROM_ZERO.sub("-", unit.sub("", text) if unit else text)
    found = list(islice(_NUMBERS[decimal].finditer(text), 2))
    if not found:
        return _ideographs(text)
    before, after = text[: found[0].start()], text[found[0].end() :]
    if len(found) > 1 or len(found[0][0]) > DIGITS or not _may_follow(after, unit):
        return None
    sign = _sign(before)
    value = _value(found[0])
    return None if sign is None or value is None else sign * value


# ---- what stands before and after -------------------------------------------------------------


def _sign(before: str) -> int | None:
    """Return 1 or -1; None, as for no number, where what stands before has no place there."""
    signs = _SIGNS.search(before, _near_end(before))
    rest = before[: signs.start()] if signs else before
    clause = _clause_before(rest)
    if _NOT_BEFORE.search(clause) or CHANGED_BEFORE.search(clause, _near_end(clause)):
        return None
    if signs is None:
        return None if _ATTACHED.search(rest, _near_end(rest)) else 1
    [sign, *more] = signs.captures("sign")
    if more or not _may_be_signed(rest, sign, signs[0]):
        return None
    return 1 if sign.lower() in ("+", "plus", "positive") else -1


def _may_be_signed(rest: str, sign: str, written: str) -> bool:
    """Return whether a sign is one: after a pause, or a word and a blank (x - 5, Answer-5)."""
    words = rest.rstrip()
    if not words or _PAUSE.search(words):
        return True
    if len(sign) > 1:
        return bool(COPULA.search(words))
    return words != rest and not written[-1].isspace() and bool(_WORD_ENDS.search(words))


def _may_follow(after: str, unit: Any) -> bool:
    """Return whether units and words that change nothing follow."""
    if _GLUED.match(after) or SCALED.match(after):
        return False
    clause = _CLAUSE_ENDS.split(after, maxsplit=1)[0]
    if unit is not None:
        return not (regex.search(r"\w", after) or _NOT_AFTER.search(clause))
    rest = _UNIT.sub(" ", clause)
    return not (CHANGED_AFTER.search(clause, 0, NEAR) or _NOT_AFTER.search(rest))


def _near_end(text: str) -> int:
    return max(0, len(text) - NEAR)


def _clause_before(text: str) -> str:
    """Return what stands after the last full stop, colon or line break."""
    return _CLAUSE_BEGINS.split(text)[-1]


_NUMERALS = "〇零一二两兩三四五六七八九十百千万萬亿億"
_LETTER = rf"[\w--[{OWN}]]"

_DIGIT = regex.compile("[0-9]")
_ARITHMETIC = regex.compile(r"\s*(?:\p{L}{2,}[\s:,]+)*+[-0-9+*/().,:%^{}\[\]°\s]+", FLAGS)
_SUBSCRIPT = regex.compile(r"_\{?\w+\}?")
_NO_NAME = regex.compile(  # 5x, -x, not
    rf"[0-9%^|!] | (?:^|\s|[({{\[{OWN}])[-+*/](?=\S) | [\p{{Sm}}--+] | (?<!\p{{L}})not$"
    rf"| {RAISED}",
    FLAGS,
)
_ABSOLUTE = regex.compile(r"(?P<sign>-?)\|(?P<inside>\S|\S[^|]*\S)\|\.?")
_FROM_ZERO = regex.compile(r"^0\s?-\s?(?=[0-9][0-9.,]*$)")  # 0-5
_SIGNS = regex.compile(
    rf"""
    (?: (?P<sign>[+-] | {SIGN_WORDS} | [负負] | マイナス | 零下 | (?<!\S)—(?!\s))
        (?: [\s({{\['"$€£¥₹] | {FILLER} )* )+$
    """,
    FLAGS,
)
_PAUSE = regex.compile(rf"[^\w)\]}}\"']$|[{OWN}]$", FLAGS)
_WORD_ENDS = regex.compile(r"\p{L}{2}[)\]}]?$")
_ATTACHED = regex.compile(  # f(5), (x)5, 三5
    rf"(?:{_LETTER}|[)\]}}])[({{\[]*$|[{_NUMERALS}]\s*$", FLAGS
)
_NOT_BEFORE = regex.compile(
    r"[%‰‱\^\\|*] | \p{Sm} | (?<!\p{L})/ | /(?!\p{L}) | (?<!\w)_ | _(?!\w)", FLAGS
)
_GLUED = regex.compile(
    r"\p{M} | [)}\]]*\s?! | [abcxyz]{2,3}(?!\p{L}) | [({\[](?!\p{L}{2}) | [°\s]*\^", FLAGS
)  # 5!, 5(x+1)
_ATOM = r"(?:\p{L}{2,} | [msghlLNJWVACFtdΩ](?!\p{L}))(?:⁻?[1-9](?![0-9]))?"
_UNIT = regex.compile(
    rf"^(?:\s*°(?:\s?[CFK](?!\p{{L}}))? | \s*-?{_ATOM} | \s?/\s?(?=\p{{L}}{{2}}){_ATOM})"
    rf"(?:\s?[/*]\s?{_ATOM})*",
    regex.VERSION1 | regex.VERBOSE,
)
_NOT_AFTER = regex.compile(
    r"""
    [%‰‱\^\\|*_⁻] | \p{Sm}
    | (?<!\p{L})/ | /(?!\p{L}) | (?<!\p{L})- | -(?!\p{L})
    | (?<![\p{L}\p{N}'])(?![aI]\s+\p{L}{2})[\p{Latin}\p{Greek}](?![\p{L}\p{M}])  # a variable
    """,
    regex.VERSION1 | regex.VERBOSE,
)
_CLAUSE_ENDS = regex.compile(r"[.;!?](?=\s|$)|[。；！？\n]")
_CLAUSE_BEGINS = regex.compile(r"[.;!?]\s|[:。；！？\n]")


# ---- the number -------------------------------------------------------------------------------


def _number_pattern(decimal: str, grouping: str) -> Any:
    return regex.compile(
        rf"""
        (?<!{_LETTER})
        (?:
            10\s?\^\s?\{{?(?P<tens>[+-]?[0-9]+)\}}?
            | (?P<whole>[0-9]+) (?![ ][0-9]{{3}}(?![0-9])) \s+
              (?P<top>[0-9]+) \s?/\s? (?P<bottom>[0-9]+)
            | (?P<digits>
                [0-9]{{1,3}} (?P<gap>[{grouping}_'\ ]) [0-9]{{3}} (?:(?P=gap)[0-9]{{3}})*+
                (?![0-9])
                | [0-9]++ | (?=[{decimal}][0-9])
              )
              (?:[{decimal}](?P<places>[0-9]+))?
              (?:e(?P<exponent>[+-]?[0-9]+)
                | \s?[*x]\s?10\s?(?:\^|\*\*)\s?\{{?\s?(?P<power>[+-]?[0-9]+)\s?\}}?)?
              (?:\s?/\s?(?P<divisor>[0-9]+))?
        )
        (?P<percent>\s*(?:% | (?:per\s?cent|pct|prozent|pour\s?cent|por\s?ciento|procent)(?!\w)))?
        """,
        FLAGS,
    )


_NUMBERS = {".": _number_pattern(".", ","), ",": _number_pattern(",", ".")}
DECIMALS = tuple(_NUMBERS)


def _value(found: Any) -> Fraction | None:
    """Return the value of a number without its sign; None without a sensible one."""
    value = _mixed(found) if found["whole"] else _decimal(found)
    return value if value is None or not found["percent"] else value / 100


def _mixed(found: Any) -> Fraction | None:
    whole, top, bottom = (int(found[name]) for name in ("whole", "top", "bottom"))
    return whole + Fraction(top, bottom) if top < bottom else None


def _decimal(found: Any) -> Fraction | None:
    places, divisor = found["places"] or "", int(found["divisor"] or 1)
    exponent = int(found["exponent"] or found["power"] or found["tens"] or 0)
    if abs(exponent) > LARGEST or divisor == 0:
        return None
    digits = "1" if found["tens"] else regex.sub("[^0-9]", "", found["digits"]) + places
    return int(digits) * Fraction(10) ** (exponent - len(places)) / divisor


def _ideographs(text: str) -> Fraction | None:
    """Read a Chinese or Japanese numeral that stands alone: 四十二, 二〇二四."""
    found = _IDEOGRAPHS.fullmatch(text)
    if found is None:
        return None
    values = [int(unicodedata.numeric(c)) for c in found["digits"]]
    value = int("".join(map(str, values))) if max(values) < 10 else _sum_of_places(values)
    return None if value is None else Fraction(-value if found["sign"] else value)


def _sum_of_places(values: Sequence[int]) -> int | None:
    """Add digits, each times the ten, hundred or thousand after it, in groups of ten thousand."""
    total, group, digit = 0, 0, None
    for value in values:
        if value >= 10_000:
            here = group + (digit or 0)
            total = (total + here) * value if 0 < total < value else total + here * value
            group, digit = 0, None
        elif value >= 10:
            group, digit = group + (1 if digit is None else digit) * value, None
        elif digit:
            return None  # 二三十: twenty or thirty
        else:
            digit = value
    return total + group + (digit or 0)


_IDEOGRAPHS = regex.compile(rf"[^\w-]*(?P<sign>[-负負]?)(?P<digits>[{_NUMERALS}]{{1,32}})\W*")
