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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from grpo_credit.errors import CreditError

logger = logging.getLogger(__name__)

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
Places = np.ndarray  # of whole numbers, one per token


@dataclass(frozen=True, eq=False)
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
    starts: Places
    ends: Places
    complete: Places

    @classmethod
    def decode(cls, tokenizer: Any, ids: Sequence[int], text: str | None = None) -> "TokenText":
        """Decode token by token, in time linear in their number.

        Args:
            tokenizer: a fast one.
            ids: the tokens.
            text: what the tokenizer may have decoded them to before; decoded again if they do not
                join to it.

        Raises:
            CreditError: if the tokenizer is not a fast one.
        """
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise CreditError(
                f"{type(tokenizer).__name__} cannot say which characters a token stands for; load "
                "a fast tokenizer (AutoTokenizer does), or choose a strategy that needs no spans."
            )
        spelling = _spelling(tokenizer, len(tokenizer))
        pieces = spelling.pieces(ids)
        joined = "".join(pieces)
        if joined != text:
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
        if joined != text:
            return cls.unknown(text, len(ids), joined)
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        complete = lengths.cumsum()
        empty = (lengths[:-1] == 0).nonzero()[0].tolist()
        silent = [place for place in empty if ids[place] not in spelling.special]
        ends = _at_next(complete, silent) if silent else complete
        return cls(text, complete - lengths, ends, complete)

    @classmethod
    def unknown(cls, text: str, count: int, other: str) -> "TokenText":
        """Give up on a text that its tokens do not join to, and say so."""
        logger.warning(
            f"a completion is {text!r:.60}, but its tokens spell {other!r:.60}: its spans are left "
            "out, and it counts as decided by its end."
        )
        nothing = np.zeros(count, dtype=np.int64)
        complete = nothing.copy()
        complete[-1:] = len(text)
        return cls(text, nothing, nothing, complete)

    def after(self, chars: int) -> int:
        """Return how many tokens it takes until so many characters are whole."""
        return int(self.complete.searchsorted(chars)) + 1 if chars else 0

    def within(self, start: int, end: int) -> slice:
        """Return the tokens that have a part in the characters from `start` up to `end`."""
        first = self.ends.searchsorted(start, side="right")
        return slice(int(first), int(self.starts.searchsorted(end)))


def _at_next(complete: Places, silent: Sequence[int]) -> Places:
    """Let a token whose character comes with a later one end where that one does."""
    spoken = np.delete(np.arange(len(complete)), silent)
    return complete[spoken[spoken.searchsorted(np.arange(len(complete)))]]


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids that decoding leaves out."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


@functools.lru_cache(maxsize=16)
def _spelling(tokenizer: Any, size: int) -> "Spelling":
    """Choose how a tokenizer's tokens are spelled, by its decoder; tokens may be added to it."""
    backend = tokenizer.backend_tokenizer
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
    kinds = {decoder.get("type"), *(part["type"] for part in decoder.get("decoders", ()))}
    if "ByteLevel" in kinds:
        return ByteLevel(tokenizer)
    return ByteFallback(tokenizer) if "ByteFallback" in kinds else Spelling(tokenizer)


class Spelling(dict[int, str | None]):
    """What each token adds to the text, found once; None where it depends on its neighbours."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.special = special_ids(tokenizer)

    def __missing__(self, token: int) -> str | None:
        self[token] = "" if token in self.special else self.alone(token)
        return self[token]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return what each token adds to the text that all of them make."""
        pieces: list[Any] = list(map(self.__getitem__, ids))
        self.begin(ids, pieces)
        if None in pieces:
            spelled = [place for place, token in enumerate(ids) if token not in self.special]
            found = [pieces[place] for place in spelled]
            self._fill([ids[place] for place in spelled], found)
            for place, piece in zip(spelled, found, strict=True):
                pieces[place] = piece
        return pieces

    def alone(self, token: int) -> str | None:
        """Decode one token as it stands after another one."""
        before = self._anchor
        decode = self.tokenizer.decode
        return decode([before, token])[len(decode([before])) :]

    def begin(self, ids: Sequence[int], pieces: list[Any]) -> None:
        """Correct the first token that is no special one: it may lose its blank."""
        first = next((p for p, token in enumerate(ids) if token not in self.special), None)
        if first is not None and pieces[first] is not None:
            pieces[first] = self._at_start(ids[first])

    def run(self, ids: Sequence[int]) -> list[str]:
        """Spell tokens that depend on each other; the last may be one that does not."""
        raise NotImplementedError  # no token of this class does

    def _fill(self, ids: Sequence[int], pieces: list[Any]) -> None:
        """Spell every run of tokens that depend on each other, and the token after it, anew."""
        end = 0
        for depends, run in groupby(pieces, lambda piece: piece is None):
            start, end = end, end + len(list(run))
            if depends:
                pieces[start : end + 1] = self.run(ids[start : end + 1])

    def name(self, token: int) -> str:
        """Return a token's name; a model may have ids that its tokenizer does not know."""
        return self.tokenizer.convert_ids_to_tokens(token) or ""

    @functools.cached_property
    def _at_start(self) -> Any:
        return functools.lru_cache(maxsize=None)(lambda token: self.tokenizer.decode([token]))

    @functools.cached_property
    def _anchor(self) -> int:
        """An ordinary token to stand before others."""
        ordinary = [t for t in range(len(self.tokenizer)) if t not in self.special]
        names = zip(ordinary, self.tokenizer.convert_ids_to_tokens(ordinary), strict=True)
        plain = (token for token, name in names if name and name.isascii() and name.isalnum())
        return next(plain, ordinary[0])


class ByteLevel(Spelling):
    """Tokens of bytes: a character appears with its last byte."""

    def alone(self, token: int) -> str | None:
        """Return the characters that its bytes make; None where they are not whole."""
        name = self.name(token)
        if token in self._added:  # stands for itself, in characters
            return name
        try:
            return _bytes_of(name).decode()
        except UnicodeDecodeError:
            return None

    def begin(self, ids: Sequence[int], pieces: list[Any]) -> None:
        """Nothing differs at the start."""

    def run(self, ids: Sequence[int]) -> list[str]:
        """Join the bytes of neighbours."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces = []
        for token in ids:
            if token in self._added:
                pieces.append(decoder.decode(b"", final=True) + self.name(token))
                decoder.reset()
            else:
                pieces.append(decoder.decode(_bytes_of(self.name(token))))
        pieces[-1] += decoder.decode(b"", final=True)  # cut off within a character
        return pieces

    @functools.cached_property
    def _added(self) -> dict[int, Any]:
        return self.tokenizer.added_tokens_decoder


class ByteFallback(Spelling):
    """Whole tokens, and runs of bytes for what has no token."""

    def alone(self, token: int) -> str | None:
        """Decode one token, unless it is a byte."""
        return None if BYTE.fullmatch(self.name(token)) else super().alone(token)

    def run(self, ids: Sequence[int]) -> list[str]:
        """Join the bytes of neighbours."""
        bytes_ = [BYTE.fullmatch(self.name(token)) for token in ids]
        values = [int(byte[1], 16) for byte in bytes_ if byte]
        return _spell_run(values) + [self[token] or "" for token in ids[len(values) :]]


def _spell_run(values: Sequence[int]) -> list[str]:
    try:
        bytes(values).decode()
    except UnicodeDecodeError:
        return ["�"] * len(values)  # then the decoder gives each byte for lost
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(bytes([value])) for value in values]


def _bytes_of(name: str) -> bytes:
    byte_of = _byte_of()
    return bytes(byte_of[c] for c in name if c in byte_of)


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each character of a byte-level token's name stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}
