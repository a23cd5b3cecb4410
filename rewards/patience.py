"""How long regular expressions may look at completions, and which ones used it up.

A pattern with nested repeats may try more ways than there are atoms. One completion costs it a time
limit; all completions of a call, a budget. A completion that had its share earns what a wrong one
earns: it took more than `SHORT` of matching itself.
"""

import functools
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

SHORT = 0.02  # seconds that every text gets, whatever the budget
BUDGET = 4.0  # seconds for all texts of a call together
clock = time.process_time  # of all threads, as the engine counts

_end: ContextVar[float] = ContextVar("_end", default=math.inf)
_lists: ContextVar[tuple[Counter[str], ...]] = ContextVar("_lists", default=())


class SlowPatternWarning(UserWarning):
    """A pattern ran out of time on a completion; told once for each pattern.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", SlowPatternWarning)  # in a test of one's own patterns
        >>> warnings.resetwarnings()
    """

    remedy = (
        "Take nested repeats apart, (a+)+ is a+, or make the inner one possessive, (a++)+; without "
        "back-references and look-around a format is decided by an automaton, in linear time."
    )


@contextmanager
def at_most(budget: float) -> Generator[None]:
    """Let the patterns in the body take a number of seconds together, and little after that."""
    token = _end.set(min(_end.get(), clock() + budget))
    try:
        yield
    finally:
        _end.reset(token)


def granted(timeout: float) -> float:
    """Return how many seconds a pattern may look at one text: its own limit, or what is left."""
    return min(timeout, max(SHORT, _end.get() - clock()))


def brief(text: str, timeout: float) -> float:
    """Return the seconds that the matcher gets before an automaton takes over: three times enough.

    A matcher that is linear should end, as only it knows of groups: repeated `<answer>1</answer>`
    takes one 10 to 30 ns a character, by the processor. An automaton takes as much.
    """
    return min(timeout, 2e-4 + 1e-7 * len(text))


def seconds_left(deadline: float) -> float:
    """Return the seconds until a time of `clock`.

    Raises:
        TimeoutError: if it is over.
    """
    seconds = deadline - clock()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def in_time(*attempts: Callable[[], T | None]) -> T | None:
    """Return the first answer; None if there is none in time."""
    for attempt in attempts:
        try:
            answer = attempt()
        except TimeoutError:
            continue
        if answer is not None:
            return answer
    return None


def ran_out(pattern: str) -> None:
    """Note that a pattern has used up its time on a text."""
    for counts in _lists.get():
        counts[pattern] += 1
    _tell(pattern)


@contextmanager
def slow_patterns() -> Generator[Counter[str]]:
    """Count, for each pattern, the texts in the body on which it ran out of time.

    Example:
        >>> from rewards import RegexReward
        >>> with slow_patterns() as slow:
        ...     scores = RegexReward("a+")(["aa"])
        >>> slow
        Counter()
    """
    counts: Counter[str] = Counter()
    token = _lists.set((*_lists.get(), counts))
    try:
        yield counts
    finally:
        _lists.reset(token)


@functools.cache
def _tell(pattern: str) -> None:
    warnings.warn(
        f"the pattern {pattern!r:.300} ran out of time on a completion: it has no spans there and, "
        "unless an automaton decides, no match. It may do so at every step. "
        f"{SlowPatternWarning.remedy}",
        SlowPatternWarning,
        stacklevel=3,
    )
