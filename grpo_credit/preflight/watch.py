"""Rewards under observation: how long a call takes, what a reward raises, what it was called with.

A watched reward is called as TRL calls it and gives the same scores; but it is called group by
group, so that there are several calls to time, and an exception is noted instead of raised: alone
on one rank it would leave the others waiting in their next collective operation.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grpo_credit.preflight.columns import reward_name, without_partials
from grpo_credit.rewards import checked_scores, slow_patterns

Scores = list[float | None]
SLOW = 0.25  # seconds of a call beyond which a reward is not tried out any further


class Call(NamedTuple):
    """A call of a reward function; where it raised, the scores are zeros."""

    completions: list[Any]
    columns: dict[str, Any]
    scores: Scores
    seconds: float


@dataclass
class Watched:
    """A reward function that is timed, `rows` completions to a call, and whose failures are noted.

    What else the reward offers (`spans`, `columns`, ...) shows through. `failures` has one
    "ValueError: ... (completions from ...)" for each call that failed; `slow` counts, by pattern,
    the completions on which it ran out of time.
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
        with self._noted(completions, columns) as scores:
            scores += self._checked(self.reward(completions=completions, **columns), completions)
        return scores

    @contextmanager
    def _noted(self, completions: list[Any], columns: dict[str, Any]) -> Generator[Scores]:
        """Note how long the body takes to fill in the scores, and what it raises."""
        scores: Scores = []
        start = self.clock()
        try:
            with slow_patterns() as slow:
                yield scores
            self.slow += slow
        except Exception as error:  # whatever it is, it is told
            reason = f"{type(error).__name__}: {error!s:.300}"
            self.failures.append(f"{reason} (completions from {completions[0]!r:.80})")
            scores += [0.0] * len(completions)
        self.calls.append(Call(completions, columns, scores, self.clock() - start))

    def _checked(self, scores: Any, completions: list[Any]) -> Scores:
        return checked_scores(reward_name(self.reward), scores, len(completions))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "reward" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.reward, name)


class WatchedAsync(Watched):
    """The same for an asynchronous reward, which is called once: TRL runs them side by side."""

    async def __call__(self, *, completions: list[Any], **columns: Any) -> Scores:  # ty: ignore[incompatible-method-override]
        """Score all completions at once."""
        with self._noted(completions, columns) as scores:
            answer = await self.reward(completions=completions, **columns)
            scores += self._checked(answer, completions)
        return scores


def watch(reward: Any, rows: int, clock: Callable[[], float]) -> Any:
    """Put a reward under observation; a reward model is left as it is."""
    if hasattr(reward, "parameters") and hasattr(reward, "forward"):
        return reward
    return (WatchedAsync if is_async(reward) else Watched)(reward, rows, clock)


def is_async(reward: Any) -> bool:
    """Return whether a call gives a coroutine, for functions, partials and callable objects."""
    reward = without_partials(reward)
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__)


def cut(columns: dict[str, Any], rows: slice, count: int) -> dict[str, Any]:
    """Take some rows of every column that has one value per completion."""
    return {
        name: value[rows] if isinstance(value, list) and len(value) == count else value
        for name, value in columns.items()
    }
