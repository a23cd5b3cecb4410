"""How much of a study a page shows, so that it stays small whatever the study's size."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """What is shown at most; the data beside the page has everything.

    Args:
        strategies: with curves; the baseline is always among them.
        seeds: with a line of their own.
        points: of a curve.
        runs: with their command.
        cells: of the grid.
        examples: completions with shades.
        shaded: tokens × strategies with a shade.
        tokens: of one completion with a shade.
        characters: of all completions in the browser.
        text: characters of one text.
    """

    strategies: int = 12
    seeds: int = 12
    points: int = 48
    runs: int = 200
    cells: int = 4000
    examples: int = 12
    shaded: int = 10_000
    tokens: int = 400
    characters: int = 300_000
    text: int = 4000

    def tighter(self) -> "Limits":
        """Return half of everything, at least 2."""
        return Limits(**{f.name: max(2, getattr(self, f.name) // 2) for f in fields(self)})


def cut(text: str, limit: int) -> str:
    """Shorten a text, and say by how much.

    Example:
        >>> cut("abcdef", 4), cut("abc", 4)
        ('abcd … (2 more characters)', 'abc')
    """
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def in_turn(items: Iterable[Item], kind: Callable[[Item], Hashable]) -> list[Item]:
    """Order items: the first of each kind, the second of each kind, and so on.

    Example:
        >>> "".join(in_turn("aaabcb", kind=str))
        'abcaba'
    """
    seen: Counter[Hashable] = Counter()

    def turn(item: Item) -> int:
        seen[kind(item)] += 1
        return seen[kind(item)]

    return sorted(items, key=turn)


def fitting(items: Iterable[Item], size: Callable[[Item], int], room: int) -> list[Item]:
    """Take items in order while there is room for them; the first in any case."""
    taken: list[Item] = []
    for item in items:
        room -= size(item)
        if taken and room < 0:
            break
        taken.append(item)
    return taken
