"""One sentence for a name that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'seq'?" if a known name is close, else nothing.

    Example:
        >>> did_you_mean("sqe", ["seq", "dapo"])
        " Did you mean 'seq'?"
    """
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
