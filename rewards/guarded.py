"""Keep one bad completion, or one bad reward function, from ending or poisoning a run."""

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

from .combination import columns_of, counted, name_of, score_range_of, unwrapped
from .contract import Completion, LogExtra, LogMetric, listed, rows_of
from .scaling import follows_training
from .serving import Outcome, WorkerError, number_of
from .workers import Pool, dumps

Policy = Literal["raise", "abstain", "wrong"] | float
Scores = list[float | None]


class Health(NamedTuple):
    """How a call went.

    Args:
        completions: how many there were.
        timeouts: how many of them ran out of time or memory.
        errors: how many of them failed otherwise.
        ms_p95: milliseconds per completion, 95th percentile (nearest rank).
    """

    completions: int
    timeouts: int
    errors: int
    ms_p95: float


class Guarded:
    """Wrap a reward so that a completion on which it hangs or fails costs only itself.

        R = reward(completion) where it gives a number (or None, NaN: does not apply) in time
            on_timeout         where it does not answer within `timeout` seconds and `memory`
            on_error           where it raises, kills its process, or gives what no float holds

    Within a time limit the reward judges one completion at a time in a process of its own, which is
    killed with all that it started when the time is over, whatever it is doing; equal completions
    with equal columns are judged once per call. It is sent the prompts and the columns that it
    declares in `columns`; if it declares none, every list with one value per completion that can be
    pickled; and nothing of the trainer. What comes back is a number: nothing that a completion
    brings a verifier to write is unpickled. A reward may have a method `warm_up()`, which each new
    process calls before its clock starts and its memory is limited.

    The guarded reward keeps its name and whatever else the reward has (`spans`, `columns`, …), can
    be pickled, and works on any thread. It logs `reward/<name>/timeout_rate` and
    `reward/<name>/error_rate` (shares of completions) and `reward/<name>/ms_p95` (milliseconds),
    and keeps the same as `last`, a `Health`; of a reward with `unreadable`, also
    `reward/<name>/unreadable_rate`: the share whose column says nothing.

    Attributes:
        last: the `Health` of the last call, None before the first.

    Args:
        reward: any reward function that is not `async`.
        timeout: seconds of wall clock per completion; None calls the reward in this process, in
            one batch, and completion by completion only if the batch raises.
        memory: GiB that a process may have beyond what it needs when warm, and so may each process
            that it starts; None for no limit. On Linux, with a time limit.
        on_error: `"raise"`, `"abstain"` (None), the score to give, or `"wrong"`: the least score of
            the reward's `score_range`, 0.0 where it has none. Where the completion is to blame and
            not the reward, use "wrong".
        on_timeout: the same.
        processes: how many processes judge at once; they start at the first call and stay.
        name: what TRL calls the reward in its logs; that of the reward if None.

    Raises:
        TypeError: if the reward is asynchronous; with a time limit, if it cannot be pickled or is
            made of a `schedule`, or (when called) if a declared column cannot be pickled; without
            one, (when called) if the reward returns no list.
        ValueError: if a limit is not a positive number or a policy is unknown; (when called) if
            a declared column is missing or, without a time limit, the number of scores is wrong.
        RuntimeError: (when called) if the reward fails and `on_error` is "raise".
        TimeoutError, MemoryError: (when called) if a limit is passed and `on_timeout` is "raise".

    Degenerate cases: without a time limit the seconds of a batch are shared evenly; no completions
    are judged by nobody and log nothing. Where an empty completion passes a limit, too, the data
    are to blame, and "wrong" abstains: a solution that nobody can read.

    How it can be hacked: where a failure earns more than a wrong answer, a policy learns to make
    the verifier fail. So it does with "abstain": TRL leaves None out of the sum, where it counts as
    0, and that is more than any negative score. Under a negative weight the least score is the best
    one: give `on_timeout` the greatest. A completion that takes the verifier's process over, as
    where the reward evaluates it, can give itself any score, and those judged after it in the same
    process: no verifier should evaluate completions. Watch the two rates.

    Example:
        >>> def inverse(completions, **columns):
        ...     return [1 / len(completion) for completion in completions]
        >>> careful = guard(inverse, timeout=None, on_error="abstain")
        >>> careful(["ab", ""])
        [0.5, None]
        >>> careful.last.errors
        1
    """

    def __init__(
        self,
        reward: Callable[..., Any],
        *,
        timeout: float | None = 1.0,
        memory: float | None = 4.0,
        on_error: Policy = "raise",
        on_timeout: Policy = "wrong",
        processes: int = 2,
        name: str | None = None,
    ) -> None:
        self.reward = reward
        self.__name__ = name or name_of(reward)
        _refuse_async(reward, self.__name__)
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}, expected seconds above 0, or None for none.")
        self.timeout = timeout
        self.on_error = _policy("on_error", on_error)
        self.on_timeout = _policy("on_timeout", on_timeout)
        self._least = _least(reward, self.__name__) if "wrong" in (on_error, on_timeout) else None
        self.last: Health | None = None
        self._pool = None if timeout is None else _pool(reward, processes, memory, self.__name__)

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> Scores:
        """Score completions; see the class."""
        rows = self._rows(columns, len(listed(self.__name__, "completions", completions)))
        if not completions:
            return []
        if self._pool is None or self.timeout is None:
            given = {"log_metric": log_metric, "log_extra": log_extra}
            loggers = {name: log for name, log in given.items() if log is not None}
            outcomes = self._here(completions, {**columns, **loggers}, rows)
        else:
            outcomes = self._pool.map(zip(completions, rows, strict=True), self.timeout)
        outcomes = [_checked(outcome) for outcome in outcomes]
        excused = self._excused(completions, rows, outcomes)
        self.last = _health(outcomes)
        if log_metric is not None:
            nothing = sum(outcome.error is None and outcome.value is None for outcome in outcomes)
            self._log(self.last, nothing + len(excused), log_metric)
        return [
            None if index in excused else self._settle(index, completion, outcome)
            for index, (completion, outcome) in enumerate(zip(completions, outcomes, strict=True))
        ]

    @property
    def columns(self) -> Sequence[str]:
        """The columns that the reward declares."""
        return columns_of(self.reward)

    def close(self) -> None:
        """End the processes, after a call on another thread; the next call starts new ones."""
        if self._pool is not None:
            self._pool.close()

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or "reward" not in self.__dict__:
            raise AttributeError(attribute)
        return getattr(unwrapped(self.reward), attribute)

    def __repr__(self) -> str:
        return f"guard({self.reward!r}, timeout={self.timeout})"

    def _rows(self, columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
        """Return the columns of each completion."""
        declared = self.columns
        if declared:
            rows_of(self, columns, count)
        lists = {
            name: values
            for name, values in columns.items()
            if name in declared or (isinstance(values, list) and len(values) == count)
        }
        if self._pool is not None:
            wanted = {*declared, "prompts"} if declared else set(lists)
            lists = {n: v for n, v in lists.items() if n in wanted and self._travels(n, v)}
        return [{name: lists[name][row] for name in lists} for row in range(count)]

    def _travels(self, name: str, values: Any) -> bool:
        """Return whether a column can be pickled, as one that the reward declares must."""
        try:
            dumps(values)
        except TypeError as error:
            if name in self.columns:
                raise TypeError(
                    f"column {name!r} of reward {self.__name__!r} {error} Or pass timeout=None."
                ) from error
            return False
        return True

    def _here(
        self,
        completions: Sequence[Completion],
        columns: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
    ) -> list[Outcome]:
        """Judge in this process: one by one if they fail together; then nothing is logged again."""
        together = self._called(completions, columns)
        if (error := together[0].error) is None:
            return together
        silent = {name: lambda *_: None for name in ("log_metric", "log_extra") if name in columns}
        outcomes = [
            self._called([completion], {**columns, **silent, **_singles(row)})[0]
            for completion, row in zip(completions, rows, strict=True)
        ]
        if self.on_error == "raise" and not any(outcome.error for outcome in outcomes):
            raise error  # it fails for none of them alone
        return outcomes

    def _called(
        self, completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> list[Outcome]:
        """Call the reward, which takes the same time for each; what it raises is everybody's."""
        start, count = time.perf_counter(), len(completions)
        try:
            scores = self.reward(completions=completions, **columns)
        except Exception as error:
            return [Outcome(error=error, seconds=time.perf_counter() - start)] * count
        seconds = (time.perf_counter() - start) / count
        scores = counted(self.__name__, scores, count)
        return [Outcome(score, seconds=seconds) for score in scores]

    def _excused(
        self,
        completions: Sequence[Completion],
        rows: Sequence[Mapping[str, Any]],
        outcomes: Sequence[Outcome],
    ) -> set[int]:
        """Find those that passed a limit as an empty completion does, by the fault of the data."""
        late = [index for index, outcome in enumerate(outcomes) if outcome.over_limit]
        if not late or self._pool is None or self.timeout is None or self.on_timeout != "wrong":
            return set()
        blank = [(_blank(completions[index]), rows[index]) for index in late]
        again = self._pool.map(blank, self.timeout)
        return {i for i, outcome in zip(late, again, strict=True) if outcome.over_limit}

    def _log(self, health: Health, unreadable: int, log_metric: LogMetric) -> None:
        counts = {"timeout": health.timeouts, "error": health.errors}
        if hasattr(self, "unreadable"):
            counts["unreadable"] = unreadable
        for what, count in counts.items():
            log_metric(f"reward/{self.__name__}/{what}_rate", count / health.completions)
        log_metric(f"reward/{self.__name__}/ms_p95", health.ms_p95)

    def _settle(self, index: int, completion: Completion, outcome: Outcome) -> float | None:
        if outcome.error is None:
            return outcome.value
        policy = self.on_timeout if outcome.over_limit else self.on_error
        if policy == "raise":
            self._raise(index, completion, outcome)
        if policy == "wrong":
            return self._least
        return None if policy == "abstain" else float(policy)

    def _raise(self, index: int, completion: Completion, outcome: Outcome) -> NoReturn:
        where = f"reward {self.__name__!r}, completion {index} ({completion!r:.80})"
        error = outcome.error
        if outcome.over_limit:
            kind = TimeoutError if isinstance(error, TimeoutError) else MemoryError
            raise kind(
                f"{where}: {error}. Allow more (timeout=, memory=), or pass on_timeout='wrong'."
            ) from error
        what = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
        raise RuntimeError(
            f"{where}: {what:.500}. Mend the reward, or pass on_error='wrong' or 'abstain'."
        ) from error


guard = Guarded  # what it is called where it wraps: guard(reward, timeout=2.0)


# ---- scores -----------------------------------------------------------------------------------


def _checked(outcome: Outcome) -> Outcome:
    """Return an outcome whose value is a finite number or None, otherwise one with an error."""
    if outcome.error is not None:
        return outcome
    try:
        return outcome._replace(value=number_of(outcome.value))
    except Exception as error:  # a number of the reward's own may raise anything
        return outcome._replace(error=error)


def _health(outcomes: Sequence[Outcome]) -> Health:
    count = len(outcomes)
    seconds = sorted(outcome.seconds for outcome in outcomes)
    timeouts = sum(outcome.over_limit for outcome in outcomes)
    errors = sum(outcome.error is not None for outcome in outcomes) - timeouts
    return Health(count, timeouts, errors, 1e3 * seconds[math.ceil(0.95 * count) - 1])


# ---- rewards ----------------------------------------------------------------------------------


def _pool(reward: Callable[..., Any], processes: int, memory: float | None, name: str) -> Pool:
    if follows_training(reward):
        raise TypeError(
            f"reward {name!r} follows the progress of training, which its processes do not see. "
            "Write schedule(guard(reward), ...), or pass timeout=None."
        )
    judge = functools.partial(_judge, reward, name)
    try:
        return Pool(judge, processes, getattr(reward, "warm_up", None), memory)
    except TypeError as error:
        raise TypeError(f"reward {name!r}: {error} Or pass timeout=None.") from error


def _judge(
    reward: Callable[..., Any], name: str, completion: Completion, row: Mapping[str, Any]
) -> Any:
    [score] = counted(name, reward(completions=[completion], **_singles(row)), 1)
    return score


def _singles(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [value] for name, value in row.items()}


def _blank(completion: Completion) -> Completion:
    return "" if isinstance(completion, str) else [{"role": "assistant", "content": ""}]


def _refuse_async(reward: Any, name: str) -> None:
    inner = unwrapped(reward)
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__):
        raise TypeError(
            f"reward {name!r} is asynchronous, expected a plain function; TRL awaits it as it is."
        )


def _least(reward: Any, name: str) -> float:
    least = float(score_range_of(reward)[0])
    if math.isfinite(least):
        return least
    raise ValueError(
        f"the least score of reward {name!r} is {least}, by its score_range, and no wrong answer "
        "can earn that; pass on_timeout= and on_error= a number."
    )


def _policy(option: str, value: Any) -> Policy:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value in ("raise", "abstain", "wrong") or (number and math.isfinite(value)):
        return value
    raise ValueError(
        f"{option} is {value!r}, expected 'raise', 'abstain', 'wrong' or a finite score."
    )
