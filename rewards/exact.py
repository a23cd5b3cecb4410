"""Reward a completion that is a text of the data set, or one of several, to the letter."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .blanks import lead, stripped
from .contract import (
    ColumnReward,
    Completion,
    Decided,
    accepted,
    rows_of,
    spellings,
    texts_of,
)

if TYPE_CHECKING:
    from .automaton import Automaton


class ExactText(ColumnReward):
    """Reward a completion that is the text in a column, blanks around it aside.

        R = 1 if strip(completion) = strip(gold) for a gold of the column, else 0

    The column holds a text or a number, or a list of them that are all right; None, NaN and blanks
    are none, and 42.0 is 42 as well. The first character that leads
    away from all of them decides: whatever follows, the score is 0. A right completion is decided
    by its end alone. For an answer somewhere in a longer completion see `ExactAnswer`.

    Args:
        column: the column with the right text or texts.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where there is no right text; dimensionless.

    How it can be hacked: only by a text that is right for many prompts.

    Example:
        >>> path = ExactText("path")
        >>> path(["a c d", "a b d", "a c d e"], path=["a c d"] * 3)
        [1.0, 0.0, 0.0]
        >>> [found.chars for found in path.decided(["a c d", "a b d"], path=["a c d"] * 2)]
        [None, 3]
    """

    def __init__(self, column: str = "answer", *, name: str = "exact_text") -> None:
        super().__init__(name, column)

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text."""
        golds = self._gold_of(row)
        return None if golds is None else float(stripped(text) in golds)

    def gold(self, value: Any) -> list[str] | None:
        """Return the right texts that a value of the column holds; None if it holds none."""
        return [stripped(text) for gold in accepted(value) for text in spellings(gold)] or None

    def automata(
        self, completions: Sequence[Completion], **columns: Any
    ) -> "list[Automaton | None]":
        """Return the automaton that accepts the right texts of each completion.

        None where there is no right text, and where the texts are too long for one.
        """
        rows = rows_of(self, columns, len(completions))
        return [_automaton(self._gold_of(row)) for row in rows]

    def decided(self, completions: Sequence[Completion], **columns: Any) -> list[Decided]:
        """Say after how many characters each score was settled, whatever follows.

        Without the column, as in a combination with other rewards, an upper bound: the end.
        """
        texts = texts_of(self, completions)
        if self.column not in columns:
            return [Decided(None, exact=False) for _ in texts]
        rows = rows_of(self, columns, len(texts))
        ends = [
            [_wrong_from(text, gold) for gold in self._gold_of(row) or ()]
            for text, row in zip(texts, rows, strict=True)
        ]
        return [Decided(None if None in each else max([0, *filter(None, each)])) for each in ends]


def _wrong_from(text: str, gold: str) -> int | None:
    """Return after how many characters a text cannot become a gold, None if it still can."""
    blanks = lead(text)
    body = text[blanks:]
    same = len(os.path.commonprefix([body, gold]))  # noqa: RUF071 - of characters
    if same == len(gold):  # blanks may follow, and nothing else
        same += lead(body[same:])
    return blanks + same + 1 if same < len(body) else None


def _automaton(golds: Sequence[str] | None) -> "Automaton | None":
    import regex

    from .automaton import automaton_of

    if not golds:
        return None
    pattern = "|".join(regex.escape(gold) for gold in golds)
    return automaton_of(pattern, 0, search=False, strip=True)
