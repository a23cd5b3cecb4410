"""What came out of a file, held against what it should be: no torch, no numpy."""

import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from grpo_credit.errors import CreditError

HUGE = 1e100  # a statistic squares numbers, and a page divides by them


def fit(kind: Any, value: Any, where: str) -> Any:
    """Build a value of an annotated kind from JSON, or say where it does not fit.

    Args:
        kind: bool, int (of 64 bits), float (finite, at most `HUGE`, an int will do), str, Any; `X |
            None`; `list[X]`, `tuple[X, ...]`, `dict[str, X]`; a dataclass, all of whose fields must
            be there and no more; or a mapping of names to kinds, whose other entries may be
            anything.
        value: as `json` gives it.
        where: names it in the message.

    Raises:
        CreditError: with the place, what is there and what was expected.

    Example:
        >>> fit(tuple[float, ...], [1, 0.5], "weights")
        (1, 0.5)
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**_entries(get_type_hints(kind), value, where, closed=True))
    if isinstance(kind, Mapping):
        return _entries(kind, value, where)
    if isinstance(kind, types.UnionType):
        return None if value is None else fit(inner[0], value, where)
    if origin in (list, tuple) and isinstance(value, list):
        if inner[0] in (str, bool) and {*map(type, value)} == {inner[0]}:
            return origin(value)  # there may be millions
        return origin(fit(inner[0], each, f"{where}[{n}]") for n, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: fit(inner[1], each, f"{where}.{name}") for name, each in value.items()}
    if kind is Any or _is(kind, value):
        return value
    named = kind.__name__ if isinstance(kind, type) and not inner else kind
    raise CreditError(f"{where} is damaged: got {value!r:.60}, expected {named}.")


def _entries(
    kinds: Mapping[str, Any], value: Any, where: str, *, closed: bool = False
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CreditError(f"{where} is damaged: got {value!r:.60}, expected a JSON object.")
    for name in kinds:
        if name not in value:
            raise CreditError(f"{where} is damaged: it lacks {name!r}.")
    if closed and (unknown := sorted(set(value) - set(kinds))):
        raise CreditError(f"{where} is damaged: it has an unknown {unknown[0]!r}.")
    return value | {name: fit(kind, value[name], f"{where}.{name}") for name, kind in kinds.items()}


def _is(kind: Any, value: Any) -> bool:
    if not isinstance(kind, type) or isinstance(value, bool) != (kind is bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and is_usable(value)
    return isinstance(value, kind) and (kind is not int or abs(value) < 2**63)


def is_usable(value: float) -> bool:
    """Whether a number is finite and no larger than `HUGE`."""
    return abs(value) <= HUGE  # of an int that no float holds, too
