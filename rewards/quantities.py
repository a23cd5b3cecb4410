"""Units of measurement after a number: which are the same, and how many of one are the other."""

import functools
import re
from typing import Any, NamedTuple

from .words import DONE


class Unit(NamedTuple):
    """What is counted or measured, and how many of the dimension's own unit it is.

    `known` is whether it can follow a number without changing it: "hundred" and "wrong" are not.
    """

    dimension: str
    factor: Any = 1
    known: bool = True


def split_unit(latex: str, bare: bool = False) -> tuple[str, Unit | None]:
    r"""Part a formula from the unit in `\text{…}` at its end.

    Units of SymPy are known by their names and signs, and multiples of each other; another one is
    a word, without case and plural, known if it is a common thing to count.

    Args:
        latex: the formula.
        bare: whether letters at the end are a unit too, as where another formula has one.

    Example:
        >>> split_unit(r"3\text{ hours}")
        ('3', Unit(dimension='time', factor=3600, known=True))
        >>> split_unit(r"5\text{ cm}^2")
        ('5', Unit(dimension='length^2', factor=1/10000, known=True))
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
    first, *rest = name.replace(".", " ").split()
    if rest and first.lower() in _POWERS:
        power, name = power * _POWERS[first.lower()], " ".join(rest)
    unit = _measure(name)
    exponent = f"^{power}" if power > 1 else ""
    if unit is None:
        counted = frozenset(_COUNTED.split())
        words = name.lower().replace("/", " per ").split()
        known = all(word in counted or _measure(word) for word in words if word != "per")
        return Unit(" ".join(name.lower().split()).removesuffix("s") + exponent, known=known)
    return Unit(f"{unit.dimension.name}{exponent}", unit.scale_factor**power)


def _measure(name: str) -> Any:
    """Return SymPy's unit of a name, None if it has none: constants and percent are none."""
    from sympy.physics import units
    from sympy.physics.units.quantities import PhysicalConstant

    unit = vars(units).get(name) or vars(units).get(name.lower())
    measures = isinstance(unit, units.Quantity) and not isinstance(unit, PhysicalConstant)
    return unit if measures and unit.dimension != 1 else None


_COUNTED = """
apple apples ball balls book books boy boys bottle bottles box boxes cake cakes candies candy car
cars card cards cent cents chicken chickens child children class classes coin coins color colors
cookie cookies cow cows cup cups diagonal diagonals digit digits dollar dollars egg eggs edge
edges element elements euro euros face faces fish flower flowers friend friends game games gallon
gallons girl girls hr hrs house houses integer integers item items in lb lbs marble marbles man
men member members min mins month months mph number numbers orange oranges ounce ounces oz page
pages pencil pencils people person persons piece pieces player players point points row rows
rupees sec secs sheet sheets shirt shirts side sides solution solutions sq square squares cubic
student students team teams ticket tickets tree trees triangle triangles unit units value values
vertices way ways week weeks woman women word words worker workers yen
"""


CHANGING = (  # no unit: words that change the number before them
    rf"(?:[^{{}}]*\b)?(?:and|or|not|if|more|less|fewer|least|most|times|mod|{DONE})\b"
)
_LETTERS = re.compile(r"(?<=[\d}]) ?[A-Za-z]+(?=(?:\^\{?\d\}?)?$)")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_UNIT = re.compile(
    rf"""
    (?P<value>.*(?:[\d}})%]|\\pi))\s*
    \\(?:text|math)[a-z]*\s*\{{\s* (?!{CHANGING})
    (?P<name>[^{{}}\d]*[A-Za-z][^{{}}\d]*?)\s*\}}
    (?:\s*\^\s*\{{?(?P<power>[1-9])\}}?)?
    """,
    re.VERBOSE | re.DOTALL,
)
