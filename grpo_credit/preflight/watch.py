"""Rewards under observation: how long a call takes, what a reward raises, what it was called with.

A watched reward is called as TRL calls it and gives the same scores; but it is called group by
group, so that there are several calls to time, and an exception is noted instead of raised: alone
on one rank it would leave the others waiting in their next collective operation.
"""

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_credit.rewards import slow_patterns

Scores = list[float | None]


@dataclass
class Call:
    """A call of a reward function.

    Args:
        completions: what was scored.
        columns: everything else that TRL handed over.
        scores: what came back; zeros where it raised.
        seconds: how long it took.
    """

    completions: list[Any]
    columns: dict[str, Any]
    scores: Scores
    seconds: float


@dataclass
class Watched:
    """A reward function that is timed, and whose failures are noted.

    Args:
        reward: the function; what else it offers (`spans`, `columns`, ...) shows through.
        rows: completions to a call.
        clock: tells the time in seconds.

    Attributes:
        calls: so far.
        failures: "ValueError: ... on completion ...", one for each call that failed.
        slow: patterns that ran out of time -> the completions on which they did.
    """

    reward: Any
    rows: int
    clock: Callable[[], float]
    calls: list[Call] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slow: Counter[str] = field(default_factory=Counter)

    def __call__(self, *, completions: list[Any], **columns: Any) -> Scores:
        """Score completions, a group at a time."""
        scores: Scores = []
        for first in range(0, len(completions), self.rows):
            rows = slice(first, first + self.rows)
            scores += self._scored(completions[rows], cut(columns, rows, len(completions)))
        return scores

    def _scored(self, completions: list[Any], columns: dict[str, Any]) -> Scores:
        start = self.clock()
        try:
            with slow_patterns() as slow:
                scores = checked(self.reward(completions=completions, **columns), len(completions))
            self.slow += slow
        except Exception as error:  # whatever it is, it is told
            scores = self._failed(error, completions)
        self.calls.append(Call(completions, columns, scores, self.clock() - start))
        return scores

    def _failed(self, error: Exception, completions: list[Any]) -> Scores:
        shown = f"{completions[0]!r:.80}"
        self.failures.append(f"{type(error).__name__}: {error!s:.300} (completions from {shown})")
        return [0.0] * len(completions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "reward" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.reward, name)


class WatchedAsync(Watched):
    """The same for an asynchronous reward, which is called once: TRL runs them side by side."""

    async def __call__(self, *, completions: list[Any], **columns: Any) -> Scores:  # ty: ignore[incompatible-method-override]
        """Score all completions at once."""
        start = self.clock()
        try:
            with slow_patterns() as slow:
                answer = await self.reward(completions=completions, **columns)
            self.slow += slow
            scores = checked(answer, len(completions))
        except Exception as error:
            scores = self._failed(error, completions)
        self.calls.append(Call(completions, columns, scores, self.clock() - start))
        return scores


def watch(reward: Any, rows: int, clock: Callable[[], float]) -> Any:
    """Put a reward under observation; a reward model is left as it is."""
    if hasattr(reward, "parameters") and hasattr(reward, "forward"):
        return reward
    return (WatchedAsync if is_async(reward) else Watched)(reward, rows, clock)


def is_async(reward: Any) -> bool:
    """Return whether a call gives a coroutine, for functions, partials and callable objects."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__)


def cut(columns: dict[str, Any], rows: slice, count: int) -> dict[str, Any]:
    """Take some rows of every column that has one value per completion."""
    return {
        name: value[rows] if isinstance(value, list) and len(value) == count else value
        for name, value in columns.items()
    }


def checked(scores: Any, count: int) -> Scores:
    """Return scores as a list of numbers and None.

    Raises:
        ValueError: if there are not as many as completions, or one is no finite number.
        TypeError: if they are no sequence of numbers.
    """
    if not isinstance(scores, Sequence) and not hasattr(scores, "__len__"):
        raise TypeError(f"it returned {scores!r:.80}, expected a list of {count} numbers")
    if len(scores) != count:
        raise ValueError(f"it returned {len(scores)} scores for {count} completions")
    numbers = [None if score is None else float(score) for score in scores]
    if any(number is not None and math.isinf(number) for number in numbers):
        raise ValueError("it returned an infinite score")
    return [None if number is None or math.isnan(number) else number for number in numbers]
