"""Where the characters that rewards read stand among the tokens of a completion.

Each turn is decoded by itself, from the ids that were sampled for it, so that no text is looked for
in another turn. A parser may have taken a message apart: its parts, in order, are found in what
the model wrote in that turn.
"""

import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from grpo_credit.credit.turns import Turn
from grpo_credit.rewards import answered, completion_text, message_pieces, texts_after
from grpo_credit.trainer.token_text import Places, TokenText

TAGS = ("<think>", "</think>")  # around a thought, as `message_pieces` writes it


class Place(NamedTuple):
    """A text among the tokens of a completion.

    Args:
        text: as a reward counts its characters.
        tokens: some tokens in a row, as text.
        column: of the first of these tokens.
        where: the place of each character in the text of the tokens, ascending.
        begin: where the first would be, were there any.
    """

    text: str
    tokens: TokenText
    column: int
    where: Places
    begin: int

    def within(self, start: int, end: int) -> slice:
        """Return the columns that have a part in the characters from `start` up to `end`."""
        if start == end:
            return slice(self.column, self.column)
        own = self.tokens.within(int(self.where[start]), int(self.where[end - 1]) + 1)
        return slice(self.column + own.start, self.column + own.stop)

    def after(self, chars: int) -> int:
        """Return how many columns it takes until so many characters are whole."""
        end = int(self.where[chars - 1]) + 1 if chars else self.begin
        return self.column + self.tokens.after(end)

    @property
    def complete(self) -> Places:
        """How many of the characters are whole after each of the tokens."""
        return np.searchsorted(self.where + 1, self.tokens.complete, side="right")


class Said:
    """A completion, as rewards speak of it.

    Args:
        tokenizer: a fast one.
        ids: its tokens.
        completion: a text or a conversation.
        turns: its turns, where they are known.
    """

    def __init__(
        self,
        tokenizer: Any,
        ids: Sequence[int],
        completion: Any,
        turns: Sequence[Turn] | None = None,
    ) -> None:
        self._tokenizer, self._ids, self._completion = tokenizer, ids, completion
        self.text = completion_text(completion)
        self.turns = [Turn(0, len(ids), 0, "answer")] if turns is None else list(turns)
        self.several = turns is not None and len(turns) > 1

    @cached_property
    def whole(self) -> TokenText:
        """All tokens as text."""
        return TokenText.decode(self._tokenizer, self._ids, self.text)

    @cached_property
    def answer(self) -> Place:
        """The text that is scored."""
        if self._turn_of:
            message = answered(self._completion)
            return self._aligned(self._turn_of[message], self._completion[message])
        place = _found(self.whole.text, self.text, texts_after(self._completion))
        if place < 0:  # rewritten by a chat template or a parser
            unknown = TokenText.unknown(self.text, len(self._ids), self.whole.text)
            return Place(self.text, unknown, 0, np.arange(len(self.text)), 0)
        return Place(self.text, self.whole, 0, place + np.arange(len(self.text)), place)

    @cached_property
    def written(self) -> list[str]:
        """What the model wrote in each message, thought and call included; "" where others did."""
        if isinstance(self._completion, str):
            return [self.whole.text]
        places = map(self._wrote, range(len(self._completion)))
        return ["" if place is None else place.text for place in places]

    def span(self, *place: Any) -> slice:
        """Return the columns of characters: (start, end), or (message, start, end) in `written`.

        Raises:
            ValueError: if there is no such place.
            TypeError: if that is no place.
        """
        *message, start, end = map(operator.index, place)
        text = self._text(*message)
        return text.within(*_inside(start, end, len(text.text)))

    def end(self, *place: Any) -> int:
        """Return the columns up to an end of characters: (end,), or (message, end) in `written`.

        Raises:
            ValueError: if there is no such place, or none within a turn.
            TypeError: if that is no place.
        """
        *message, end = map(operator.index, place)
        text = self._text(*message)
        _inside(0, end, len(text.text))
        if self.several and not end and text.text:
            raise ValueError(
                "ends before the first character of a message, in none of several turns; "
                "`turn_rewards` names a turn"
            )
        if self.several and not text.text:  # a call alone
            return text.column + len(text.tokens.ends)
        return text.after(end)

    def settled(self, chars: Any) -> int:
        """Return the columns up to so many characters of the text that is scored.

        Raises:
            ValueError: if there are no so many.
            TypeError: if that is no number.
        """
        return self.answer.after(_inside(0, operator.index(chars), len(self.text))[1])

    @property
    def columns(self) -> int:
        """How many tokens there are."""
        return len(self._ids)

    def turn(self, number: Any) -> int:
        """Return the column of a turn's last token, -1 if it has none; turns count from 0.

        Raises:
            ValueError: if there is no such turn.
            TypeError: if that is no number.
        """
        number = operator.index(number)
        if not 0 <= number < len(self.turns):
            raise ValueError(f"turn {number} is none of 0 to {len(self.turns) - 1}")
        return self.turns[number].end - 1

    def is_others(self, columns: slice) -> bool:
        """Return whether some columns are all of what others wrote."""
        apart = (t.end <= columns.start or columns.stop <= t.start for t in self.turns)
        return columns.start < columns.stop and all(apart)

    @cached_property
    def _turn_of(self) -> dict[int, Turn]:
        """The turn of each message of the assistant; empty where they do not match."""
        if isinstance(self._completion, str):
            return {}
        ours = [n for n in range(len(self._completion)) if self._is_ours(n)]
        return dict(zip(ours, self.turns, strict=True)) if len(ours) == len(self.turns) else {}

    def _is_ours(self, message: int) -> bool:
        return self._completion[message].get("role", "assistant") == "assistant"

    def _text(self, message: int | None = None) -> Place:
        if message is None:
            return self.answer
        count = len(self.written)
        if not 0 <= message < count:
            raise ValueError(f"is in message {message}, none of 0 to {count - 1}")
        place = self._wrote(message)
        if place is None:
            raise ValueError(f"is in message {message}, which the model did not write")
        return place

    def _wrote(self, message: int) -> Place | None:
        """Return what the model wrote in a message, as it is spelled; None if others did."""
        if isinstance(self._completion, str):
            return _verbatim(self.whole, 0)
        turn = self._turn_of.get(message)
        if turn is not None:
            return _verbatim(self._decoded(turn), turn.start)
        known = not self._turn_of and message == answered(self._completion)
        return _verbatim(self.whole, 0) if known else None

    def _decoded(self, turn: Turn, text: str | None = None) -> TokenText:
        return TokenText.decode(self._tokenizer, self._ids[turn.start : turn.end], text)

    def _aligned(self, turn: Turn, message: Mapping[str, Any]) -> Place:
        """Place the text of a message among the tokens of its turn."""
        pieces = message_pieces(message)
        text = "".join(pieces)
        tokens = self._decoded(turn, text)
        where = aligned(tokens.text, pieces)
        if where is None:
            tokens = TokenText.unknown(text, turn.end - turn.start, tokens.text)
            where = np.arange(len(text))
        begin = int(where[0]) if len(where) else 0
        return Place(text, tokens, turn.start, where, begin)


def aligned(wrote: str, pieces: Sequence[str]) -> Places | None:
    """Return the place in what was written of each character of some pieces; None if one is not.

    The pieces are a message's thought between its tags, if it has one, and its content. A tag that
    the chat template wrote, or spelled otherwise, stands for no character.
    """
    where, end = [], 0 if len(pieces) > 1 else max(0, _empty_thought(wrote))
    for piece in pieces:
        place = wrote.find(piece, end)
        if place < 0 and piece not in TAGS:
            return None
        found = np.full(len(piece), end - 1) if place < 0 else place + np.arange(len(piece))
        where.append(found)
        end = end if place < 0 else place + len(piece)
    return np.concatenate(where).astype(np.int64)


def _empty_thought(wrote: str) -> int:
    """Return where a thought ends that a parser left out, since nothing was in it; -1 if none."""
    opened, closed = wrote.lstrip().startswith("<think>"), wrote.find("</think>")
    blank = opened and closed >= 0 and not wrote[:closed].replace("<think>", "", 1).strip()
    return closed + len("</think>") if blank else -1


def thought_end(tokenizer: Any, ids: Sequence[int], message: Mapping[str, Any]) -> int:
    """Return how many of a turn's tokens its thought takes; 0 of a tokenizer that cannot say."""
    *thought, _ = message_pieces(message)
    if not thought or getattr(tokenizer, "backend_tokenizer", None) is None:
        return 0
    if thought[-1] not in TAGS:  # never closed
        return len(ids)
    tokens = TokenText.decode(tokenizer, ids)
    where = aligned(tokens.text, [*thought, ""])
    return 0 if where is None else tokens.after(int(where[-1]) + 1)


def _verbatim(tokens: TokenText, column: int) -> Place:
    return Place(tokens.text, tokens, column, np.arange(len(tokens.text)), 0)


def _found(wrote: str, text: str, after: Sequence[str]) -> int:
    """Return where a text begins, before the texts that others wrote after it; -1 if nowhere."""
    end = len(wrote)
    for other in reversed(after):  # a tool may have repeated the text
        place = wrote.rfind(other, 0, end)
        end = end if place < 0 else place
    return wrote.rfind(text, 0, end)


def _inside(start: int, end: int, length: int) -> tuple[int, int]:
    if not 0 <= start <= end <= length:
        raise ValueError(f"is from {start} to {end} in a text of {length} characters")
    return start, end
