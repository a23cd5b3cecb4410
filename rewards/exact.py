"""Reward a completion that is a text of the data set, to the letter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards.contract import Completion, Decided, TextReward, completion_text, rows_of

if TYPE_CHECKING:
    from rewards.automaton import Automaton


class ExactText(TextReward):
    """Reward a completion that is the text in a column, blanks around it aside.

        R = 1 if strip(completion) = strip(gold), else 0; None if there is no gold

    The first wrong character decides: whatever follows, the score is 0. A right one is decided by
    its end alone. For an answer somewhere in a longer completion see `ExactAnswer`.

    Args:
        column: the column with the right texts.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column is None; dimensionless.

    How it can be hacked: only by a text that is right for many prompts.

    Example:
        >>> path = ExactText("path")
        >>> path(["a c d", "a b d", "a c d e"], path=["a c d"] * 3)
        [1.0, 0.0, 0.0]
        >>> [found.chars for found in path.decided(["a c d", "a b d"], path=["a c d"] * 2)]
        [None, 3]
    """

    def __init__(self, column: str = "answer", *, name: str = "exact_text") -> None:
        super().__init__(name)
        self.column = column
        self.columns = (column,)

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text."""
        gold = row[self.column]
        return None if gold is None else float(text.strip() == str(gold).strip())

    def automata(
        self, completions: Sequence[Completion], **columns: Any
    ) -> "list[Automaton | None]":
        """Return the automaton that accepts the right text of each completion.

        None where the column is None, and where the text is too long for one.
        """
        return [_automaton(row[self.column]) for row in rows_of(self, columns, len(completions))]

    def decided(self, completions: Sequence[Completion], **columns: Any) -> list[Decided]:
        """Say after how many characters each score was settled, whatever follows.

        Without the column, as in a combination with other rewards, an upper bound: the end.
        """
        if self.column not in columns:
            return [Decided(None, exact=False) for _ in completions]
        rows = rows_of(self, columns, len(completions))
        return [
            _decided(completion_text(completion), row[self.column])
            for completion, row in zip(completions, rows, strict=True)
        ]


def _decided(text: str, gold: Any) -> Decided:
    if gold is None:
        return Decided(0)
    gold = str(gold).strip()
    lead = len(text) - len(text.lstrip())
    body = text[lead:]
    same = _common(body, gold)
    if same < len(gold):
        return Decided(lead + same + 1 if same < len(body) else None)
    rest = body[same:]
    extra = len(rest) - len(rest.lstrip())  # blanks may follow, and nothing else
    return Decided(lead + same + extra + 1 if extra < len(rest) else None)


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _automaton(gold: Any) -> "Automaton | None":
    import regex

    from rewards.automaton import automaton_of

    if gold is None:
        return None
    return automaton_of(regex.escape(str(gold).strip()), 0, search=False, strip=True)
