"""Sets of characters, and which characters some sets tell apart."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CODE_POINTS = 0x110000
CharSet = np.ndarray  # sorted code points at which membership changes; outside at first
NEWLINE: CharSet = np.array([10, 11])


@dataclass(frozen=True, eq=False)
class CharClasses:
    """A partition of all code points, lone surrogates included.

    Args:
        boundaries: where a new segment of code points begins; the first is 0.
        class_of: the class of each segment.
    """

    boundaries: np.ndarray
    class_of: np.ndarray

    @classmethod
    def of(cls, sets: Sequence[CharSet]) -> "tuple[CharClasses, list[frozenset[int]]]":
        """Find the coarsest partition that tells the sets apart, and the classes of each set."""
        boundaries = np.unique(np.concatenate([np.array([0]), *sets]))
        boundaries = boundaries[boundaries < CODE_POINTS]
        member = np.array([_contains(s, boundaries) for s in sets]).reshape(len(sets), -1)
        columns, class_of = np.unique(member, axis=1, return_inverse=True)
        inside = [frozenset(np.flatnonzero(row).tolist()) for row in columns]
        return cls(boundaries, class_of.reshape(-1)), inside

    @property
    def count(self) -> int:
        """The number of classes."""
        return int(self.class_of.max()) + 1

    def classify(self, text: str) -> list[int]:
        """Return the class of each character."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        places = np.searchsorted(self.boundaries, codes, side="right") - 1
        return self.class_of[places].tolist()


@functools.cache
def whitespace() -> CharSet:
    """Return what `str.strip` strips."""
    blank = np.array([chr(code).isspace() for code in range(0x3002)])  # none lies beyond
    return np.flatnonzero(np.diff(blank.astype(np.int8), prepend=0))


def _contains(members: CharSet, codes: np.ndarray) -> np.ndarray:
    return np.searchsorted(members, codes, side="right") % 2 == 1
