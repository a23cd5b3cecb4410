"""Which characters of a text each of its tokens stands for.

The sampled ids are spelled out one by one; the text is never tokenized again, since the tokenizer
need not choose the tokens that were sampled. What is joined is checked against the tokenizer's own
decoding of the whole.
"""

import codecs
import functools
import json
import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from grpo_credit.strategy import CreditError

logger = logging.getLogger(__name__)

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
Speller = Callable[[Any, Sequence[int]], list[str]]  # what each token adds to the text


@dataclass(frozen=True)
class TokenText:
    """A token sequence as text, and the characters of each token.

    A character whose bytes are spread over several tokens belongs to all of them. Where tokens
    cannot be told apart, each stands for no character, and all are complete at the end alone.

    Args:
        text: the decoded text, special tokens left out.
        starts: the first character that a token has a part in.
        ends: one past the last.
        complete: how many characters are whole once the token is there.
    """

    text: str
    starts: list[int]
    ends: list[int]
    complete: list[int]

    @classmethod
    def decode(cls, tokenizer: Any, ids: Sequence[int]) -> "TokenText":
        """Decode token by token, in time linear in their number.

        Raises:
            CreditError: if the tokenizer is not a fast one.
        """
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise CreditError(
                f"{type(tokenizer).__name__} cannot say which characters a token stands for; load "
                "a fast tokenizer (AutoTokenizer does), or choose a strategy that needs no spans."
            )
        special = special_ids(tokenizer)
        spelled = [place for place, token in enumerate(ids) if token not in special]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        pieces = [""] * len(ids)
        spell = speller(tokenizer.backend_tokenizer)
        for place, piece in zip(spelled, spell(tokenizer, [ids[p] for p in spelled]), strict=True):
            pieces[place] = piece
        if "".join(pieces) != text:
            return cls.unknown(text, len(ids), "".join(pieces))
        complete = list(accumulate(map(len, pieces)))
        ends = list(complete)
        for place in reversed(range(len(ids) - 1)):
            if not pieces[place] and ids[place] not in special:
                ends[place] = ends[place + 1]
        return cls(text, [0, *complete][: len(ids)], ends, complete)

    @classmethod
    def unknown(cls, text: str, count: int, other: str) -> "TokenText":
        """Give up on a text that its tokens do not join to, and say so."""
        logger.warning(
            f"a completion is {text!r:.60}, but its tokens spell {other!r:.60}: its spans are left "
            "out, and it counts as decided by its end."
        )
        nothing = [0] * count
        return cls(text, nothing, nothing, [*nothing[1:], len(text)][:count])

    def after(self, chars: int) -> int:
        """Return how many tokens it takes until so many characters are whole."""
        return bisect_left(self.complete, chars) + 1 if chars else 0

    def within(self, start: int, end: int) -> slice:
        """Return the tokens that have a part in the characters from `start` up to `end`."""
        return slice(bisect_right(self.ends, start), bisect_left(self.starts, end))


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids that decoding leaves out."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def speller(backend: Any) -> Speller:
    """Choose how a tokenizer's tokens are spelled, by its decoder."""
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
    kinds = {decoder.get("type"), *(part["type"] for part in decoder.get("decoders", ()))}
    if "ByteLevel" in kinds:
        return _spell_bytes
    return _spell_with_byte_runs if "ByteFallback" in kinds else _spell_one_by_one


def _spell_bytes(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Byte-level tokens: a character appears with its last byte."""
    added = tokenizer.added_tokens_decoder
    byte_of = _byte_of()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = []
    for token, name in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if token in added:  # stands for itself, in characters
            pieces.append(decoder.decode(b"", final=True) + name)
            decoder.reset()
        else:
            pieces.append(decoder.decode(bytes(byte_of[c] for c in name if c in byte_of)))
    if pieces:
        pieces[-1] += decoder.decode(b"", final=True)  # cut off within a character
    return pieces


def _spell_with_byte_runs(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Whole tokens, and runs of bytes for what has no token."""
    names = tokenizer.convert_ids_to_tokens(ids)
    pieces: list[str] = []
    for is_byte, run in groupby(enumerate(names), lambda item: bool(BYTE.fullmatch(item[1]))):
        places = [place for place, _ in run]
        if is_byte:
            pieces += _spell_run([int(names[p][3:5], 16) for p in places])
        else:
            pieces += [_alone(tokenizer, ids[p], p == 0) for p in places]
    return pieces


def _spell_run(values: Sequence[int]) -> list[str]:
    try:
        bytes(values).decode()
    except UnicodeDecodeError:
        return ["�"] * len(values)  # then the decoder gives each byte for lost
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(bytes([value])) for value in values]


def _spell_one_by_one(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return [_alone(tokenizer, token, place == 0) for place, token in enumerate(ids)]


@functools.lru_cache(maxsize=500_000)
def _alone(tokenizer: Any, token: int, first: bool) -> str:
    """Decode one token, at the start of a text or after another one."""
    if first:
        return tokenizer.decode([token])
    before = _anchor(tokenizer)
    return tokenizer.decode([before, token])[len(tokenizer.decode([before])) :]


@functools.lru_cache(maxsize=64)
def _anchor(tokenizer: Any) -> int:
    """Find an ordinary token to stand before others."""
    special = special_ids(tokenizer)
    for token in range(len(tokenizer)):
        name = tokenizer.convert_ids_to_tokens(token)
        if token not in special and name and name.isascii() and name.isalnum():
            return token
    return next(token for token in range(len(tokenizer)) if token not in special)


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each character of a byte-level token's name stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}
