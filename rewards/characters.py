"""Sets of characters, and which characters some sets tell apart."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .blanks import CODES

CODE_POINTS = 0x110000
CharSet = np.ndarray  # sorted code points at which membership changes; outside at first
NEWLINE: CharSet = np.array([10, 11])


@dataclass(frozen=True, eq=False)
class CharClasses:
    """A partition of all code points, lone surrogates included.

    Args:
        boundaries: where a new segment of code points begins; the first is 0.
        class_of: the class of each segment, -1 where no text has a character of it.
    """

    boundaries: np.ndarray
    class_of: np.ndarray

    @classmethod
    def of(cls, sets: Sequence[CharSet]) -> "tuple[CharClasses, list[frozenset[int]]]":
        """Find the coarsest partition that tells the sets apart, and the classes of each set."""
        boundaries = np.unique(np.concatenate([np.array([0]), *sets]))
        boundaries = boundaries[boundaries < CODE_POINTS]
        inside = [np.searchsorted(s, boundaries, side="right") % 2 == 1 for s in sets]
        member = np.array(inside).reshape(len(sets), -1)
        columns, class_of = np.unique(member, axis=1, return_inverse=True)
        kinds = [frozenset(np.flatnonzero(row).tolist()) for row in columns]
        return cls(boundaries, class_of.reshape(-1)), kinds

    @property
    def count(self) -> int:
        """The number of classes."""
        return int(self.class_of.max()) + 1

    def classify(self, text: str) -> np.ndarray:
        """Return the class of each character.

        Raises:
            ValueError: if a character has none.
        """
        if self._ascii and text.isascii():
            return np.frombuffer(text.encode().translate(self._ascii), np.uint8).astype(np.int64)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        places = np.searchsorted(self.boundaries, codes, side="right") - 1
        kinds = self.class_of[places]
        if not self._whole and (kinds < 0).any():
            raise ValueError(
                f"a text holds {text[int((kinds < 0).argmax())]!r}, which is not in `alphabet`."
            )
        return kinds

    def kinds(self, text: str) -> Sequence[int]:
        """Return `classify` in the form that is quickest to read one by one."""
        if self._ascii and text.isascii():
            return text.encode().translate(self._ascii)
        return self.classify(text).tolist()

    @functools.cached_property
    def _ascii(self) -> bytes:
        """The class of each ASCII character, as `bytes.translate` takes it; empty if none fit."""
        places = np.searchsorted(self.boundaries, np.arange(128), side="right") - 1
        kinds = self.class_of[places].tolist()
        return bytes(kinds).ljust(256) if all(0 <= kind < 256 for kind in kinds) else b""

    @functools.cached_property
    def _whole(self) -> bool:
        return bool((self.class_of >= 0).all())

    def only(self, alphabet: str) -> "tuple[CharClasses, list[int]]":
        """Leave the classes that an alphabet needs, and say which they were."""
        kinds = sorted(set(self.classify(alphabet).tolist()))
        number = {kind: place for place, kind in enumerate(kinds)}
        class_of = np.array([number.get(kind, -1) for kind in self.class_of.tolist()])
        return CharClasses(self.boundaries, class_of), kinds


@functools.cache
def blank() -> CharSet:
    """Return what `blanks.stripped` strips."""
    member = np.zeros(max(CODES) + 2, dtype=np.int8)
    member[CODES] = 1
    return np.flatnonzero(np.diff(member, prepend=0))
