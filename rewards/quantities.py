"""Units of measurement after a number: which are the same, and how many of one are the other."""

import functools
import re
from typing import Any, NamedTuple


class Unit(NamedTuple):
    """What is counted or measured, and how many of the dimension's own unit it is."""

    dimension: str
    factor: Any = 1


def split_unit(latex: str, bare: bool = False) -> tuple[str, Unit | None]:
    r"""Part a formula from the unit in `\text{…}` at its end.

    Units of SymPy are known by their names and signs, and multiples of each other; another one is
    a word, without case and plural.

    Args:
        latex: the formula.
        bare: whether letters at the end are a unit too, as where another formula has one.

    Example:
        >>> split_unit(r"3\text{ hours}")
        ('3', Unit(dimension='time', factor=3600))
        >>> split_unit(r"5\text{ cm}^2")
        ('5', Unit(dimension='length^2', factor=1/10000))
        >>> split_unit(r"\text{blue}")
        ('\\text{blue}', None)
    """
    if bare:
        latex = _LETTERS.sub(r"\\text{\g<0>}", latex)
    found = _UNIT.fullmatch(latex)
    if not found:
        return latex, None
    return found["value"], _unit(found["name"], int(found["power"] or 1))


@functools.lru_cache(maxsize=1024)
def _unit(name: str, power: int) -> Unit:
    from sympy.physics import units

    first, *rest = name.replace(".", " ").split()
    if rest and first.lower() in _POWERS:
        power, name = power * _POWERS[first.lower()], " ".join(rest)
    known = vars(units).get(name) or vars(units).get(name.lower())
    exponent = f"^{power}" if power > 1 else ""
    if not isinstance(known, units.Quantity):
        return Unit(" ".join(name.lower().split()).removesuffix("s") + exponent)
    return Unit(f"{known.dimension.name}{exponent}", known.scale_factor**power)


CHANGING = (  # no unit: words that change the number before them
    r"(?:[^{}]*\b)?"
    r"(?:and|or|not|if|more|less|fewer|least|most|squared|cubed|factorial|times|mod)\b"
)
_LETTERS = re.compile(r"(?<=[\d}]) ?[A-Za-z]+(?=(?:\^\{?\d\}?)?$)")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_UNIT = re.compile(
    rf"""
    (?P<value>.*[\d}})%])\s*
    \\(?:text|math)[a-z]*\s*\{{\s* (?!{CHANGING})
    (?P<name>[^{{}}\d]*[A-Za-z][^{{}}\d]*?)\s*\}}
    (?:\s*\^\s*\{{?(?P<power>[1-9])\}}?)?
    """,
    re.VERBOSE | re.DOTALL,
)
