"""What a reward made of rewards is, and how its parts are asked.

A part is any reward or function with TRL's signature, async or not; all it is called with is passed
on. Async parts are waited for one after the other; each asks for its completions at once.
Combinations are rewards themselves, so they nest, and pickle where their parts do. They are made in
`gates` and `scaling`.
"""

import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .contract import Completion, Decided, Spans, listed
from .serving import number_of

Reward = Callable[..., Sequence[float | None]]
Completions = Sequence[Completion]
Prompts = Sequence[Any] | None
Columns = Mapping[str, Any]


class Combination(ABC):
    """Base of the rewards made of rewards.

    Args:
        parts: the rewards.
        name: what TRL calls the combination.

    Attributes:
        columns: the data set's columns that the parts take.

    Raises:
        TypeError: if a part is a class or no callable.
    """

    def __init__(self, *parts: Reward, name: str) -> None:
        for part in parts:
            if not callable(part) or isinstance(part, type):
                raise TypeError(
                    f"part is {part!r:.80}, expected a reward: a function or an object."
                )
        self.parts = parts
        self.columns = tuple(dict.fromkeys(name for part in parts for name in columns_of(part)))
        self.__name__ = name

    @abstractmethod
    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; `columns` are all that TRL passes to a reward."""

    def spans(self, completions: Completions, prompts: Prompts = None) -> list[Spans]:
        """Name the spans of all parts; parts that use the same name share it."""
        by_part = [spans_of(part, completions, prompts) for part in self.parts]
        return [_union(row) for row in zip(*by_part, strict=True)]

    def __repr__(self) -> str:
        return f"<reward {self.__name__} of {', '.join(map(name_of, self.parts))}>"


def name_of(reward: Reward) -> str:
    """Return what TRL calls a reward: its `__name__`, or that of its class."""
    inner = unwrapped(reward)
    return getattr(inner, "__name__", type(inner).__name__)


def scores_of(reward: Reward, completions: Completions, columns: Columns) -> list[float | None]:
    """Call a reward as TRL does, and wait for one that is async.

    NaN counts as an abstention, as in TRL.

    Raises:
        TypeError: if it does not return a list of numbers and None, or the completions are none.
        ValueError: if it does not return one finite score per completion.
    """
    listed(name_of(reward), "completions", completions)
    returned: Any = reward(completions=completions, **columns)
    scores = _awaited(returned) if inspect.isawaitable(returned) else returned
    return checked_scores(name_of(reward), scores, len(completions))


def checked_scores(reward: str, scores: Any, count: int) -> list[float | None]:
    """Return what a reward returned as numbers, None for an abstention.

    Raises:
        TypeError: naming the reward, if it is no list of numbers and None.
        ValueError: likewise, if it is not one finite score per completion.

    Example:
        >>> checked_scores("mine", [1, None, 0.5], 3)
        [1.0, None, 0.5]
    """
    scores = counted(reward, scores, count)
    try:
        return [number_of(score) for score in scores]
    except (ValueError, OverflowError) as error:
        raise ValueError(f"reward {reward!r}: {error}.") from None
    except TypeError as error:
        raise TypeError(f"reward {reward!r}: {error}.") from None


def counted(reward: str, scores: Any, count: int) -> Sequence[Any]:
    """Return what a reward returned as it is, once it is known to be one score per completion.

    Raises:
        TypeError: naming the reward, if it is no list.
        ValueError: likewise, if there are more or fewer.
    """
    if isinstance(scores, str | bytes | Mapping) or not hasattr(scores, "__len__"):
        raise TypeError(
            f"reward {reward!r} returned {scores!r:.80}, expected a list of {count} scores: one "
            "number per completion, or None where it does not apply."
        )
    if len(scores) != count:
        raise ValueError(
            f"reward {reward!r} returned {len(scores)} scores for {count} completions; return one "
            "per completion."
        )
    return scores


def unwrapped(reward: Any) -> Any:
    """Return what partial functions wrap."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return reward


def columns_of(reward: Any) -> Sequence[str]:
    """Return the columns of the data set that a reward says it takes, and that are not bound."""
    if isinstance(reward, functools.partial) and not hasattr(reward, "columns"):
        return [name for name in columns_of(reward.func) if name not in reward.keywords]
    return getattr(reward, "columns", ())


def score_range_of(reward: Reward) -> tuple[float, float]:
    """Return the least and the greatest score that a reward says it gives, otherwise 0 and 1."""
    low, high = getattr(unwrapped(reward), "score_range", (0.0, 1.0))
    return low, high


def spans_of(reward: Reward, completions: Completions, prompts: Prompts) -> list[Spans]:
    """Ask a reward for its spans; one that offers none has none."""
    return _ask(reward, "spans", completions, prompts) or [{} for _ in completions]


def decided_of(reward: Reward, completions: Completions, prompts: Prompts) -> list[Decided]:
    """Ask a reward when it is decided; one that does not say is decided by the end alone."""
    unknown = [Decided(None, exact=False) for _ in completions]
    return _ask(reward, "decided", completions, prompts) or unknown


def no_later_than(chars: int | None) -> Decided:
    """Return an upper bound on when a score is decided; at the start it is exact."""
    return Decided(chars, exact=chars == 0)


def place_of(decided: Decided) -> float:
    """Return after how many characters a score is decided, infinity for the end alone."""
    return math.inf if decided.chars is None else decided.chars


def log_mean(columns: Columns, metric: str, scores: Sequence[float | None]) -> None:
    """Log the mean of the scores that were given, where TRL takes metrics."""
    log_metric = columns.get("log_metric")
    given = [score for score in scores if score is not None]
    if log_metric is not None and given:
        log_metric(metric, sum(given) / len(given))


def _awaited(awaitable: Awaitable[Any]) -> Any:
    """Wait in a loop of our own: in a thread, because another may be running in this one."""
    import asyncio  # half of the time that importing `rewards` would take

    async def wait() -> Any:
        return await awaitable

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


def _ask(reward: Reward, what: str, completions: Completions, prompts: Prompts) -> Any:
    method = getattr(unwrapped(reward), what, None)
    if method is None:
        return None
    if prompts is None or "prompts" not in inspect.signature(method).parameters:
        return method(completions)
    return method(completions, prompts=prompts)


def _union(row: Iterable[Spans]) -> Spans:
    union: dict[str, set[tuple[int, int]]] = {}
    for spans in row:
        for name, places in spans.items():
            union.setdefault(name, set()).update(places)
    return {name: sorted(places) for name, places in union.items()}
