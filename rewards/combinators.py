"""Rewards made of rewards: gates, weighted sums, clipping, schedules.

A part is any reward or plain function with TRL's signature; all it is called with is passed on.
Combinations are rewards themselves, so they nest, and pickle where their parts do.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rewards.contract import Completion, Decided, LogExtra, Spans, rows_of

Reward = Callable[..., Sequence[float | None]]
Completions = Sequence[Completion]
Prompts = Sequence[Any] | None
Columns = Mapping[str, Any]


def gate(
    reward: Reward, by: Reward, *, at_least: float = 1.0, name: str | None = None
) -> "Combination":
    r"""Give a reward only where another one is earned.

        R = reward · 1[by ≥ at_least]

    `reward` is not called for completions that fail: a verifier sees only what is in the right
    form. Logs the share that passes, of what `by` judges, as `reward/<name>/passed`.

    Args:
        reward: what is given.
        by: what has to be earned first.
        at_least: the score of `by` that counts as earned; dimensionless.
        name: what TRL calls the reward; `<reward>_gated_by_<by>` by default.

    Returns:
        A reward: that of `reward` where `by` passes, 0.0 where it fails, None where `by` abstains.
        It reports the spans of both. Where `by` fails, the score is decided no later than that of
        `by`; elsewhere with the later of the two.

    Raises:
        TypeError: if a part is async, a class or no callable.

    How it can be hacked: as `reward`, within the form. While nothing passes, nothing is learnt:
    start from a model that passes sometimes, or add a small reward for the form.

    Example:
        >>> from rewards import RegexReward
        >>> short = RegexReward(r".{1,3}", name="short")
        >>> reward = gate(RegexReward(r"\d+", name="digits"), by=short)
        >>> reward(["12", "ab", "12345"]), reward.__name__
        ([1.0, 0.0, 0.0], 'digits_gated_by_short')

    Source: none; DeepSeek-R1 (arXiv:2501.12948, section 2.2.2) adds the reward for the form.
    """
    return _Gate(reward, by, at_least, name)


def weighted(
    parts: Mapping[Reward, float] | Sequence[tuple[Reward, float]], *, name: str | None = None
) -> "Combination":
    r"""Add rewards, weighted.

        R = Σ_k weight_k · R_k        over the parts k that do not abstain

    Logs the mean of each part, unweighted, as `reward/<name>/<part>`.

    Args:
        parts: `{reward: weight}`, or pairs of them; weights are finite and may be negative.
        name: what TRL calls the reward; the parts' names joined by `_plus_` by default.

    Returns:
        A reward: None where all parts abstain. It reports the parts' spans as `<part>/<span>`. Its
        score is decided with the last part's; that is exact if one part alone is the last.

    Raises:
        ValueError: if there are no parts, two have the same name, or a weight is not finite.
        TypeError: if a part is async, a class or no callable.

    How it can be hacked: through the part that pays most per effort. A form that pays without
    regard to content is learnt alone: `gate` does not have that hole.

    Example:
        >>> from rewards import RegexReward
        >>> digits = RegexReward(r"\d+", name="digits")
        >>> short = RegexReward(r".{1,3}", name="short")
        >>> weighted({digits: 1.0, short: 0.5})(["12", "ab", "12345"])
        [1.5, 0.5, 1.0]

    Source: TRL's `reward_weights`; here the sum is one reward, which can be gated or scheduled.
    """
    return _Weighted(parts if isinstance(parts, Sequence) else list(parts.items()), name)


def clip(reward: Reward, low: float, high: float, *, name: str | None = None) -> "Combination":
    """Keep a reward within bounds.

        R = min(max(reward, low), high)

    Args:
        reward: any.
        low: the least score, dimensionless; may be -inf.
        high: the greatest score, dimensionless; may be inf.
        name: what TRL calls the reward; `<reward>_clipped` by default.

    Returns:
        A reward that abstains where `reward` does and reports its spans. Its score is decided no
        later than that of `reward`.

    Raises:
        ValueError: if `low` is not at most `high`.
        TypeError: if the reward is async, a class or no callable.

    How it can be hacked: as `reward`; beyond the bounds nothing is gained, and nothing learnt.

    Example:
        >>> def length(completions, **columns):
        ...     return [len(text) for text in completions]
        >>> clip(length, 1, 3)(["", "ab", "abcde"])
        [1.0, 2.0, 3.0]

    Source: none; arithmetic.
    """
    return _Clip(reward, low, high, name)


def schedule(
    reward: Reward, points: Mapping[float, float], *, name: str | None = None
) -> "Combination":
    r"""Scale a reward by a factor that follows the progress of training.

        R = factor(progress) · reward        progress = global_step / max_steps

    The factor is linear between the points and constant outside. It is computed from the step
    alone, so a resumed run goes on as if never stopped. Logged as `reward/<name>/factor`.

    Args:
        reward: any.
        points: `{progress: factor}`, progress in [0, 1]: `{0.0: 1.0, 0.5: 0.0}` fades the reward
            out over the first half.
        name: what TRL calls the reward; `<reward>_scheduled` by default.

    Returns:
        A reward that reads the progress from the `trainer_state` that TRL's `GRPOTrainer` passes;
        elsewhere (a notebook; TRL's async GRPO passes none) call it with `progress=` in [0, 1].
        Before training `max_steps` is 0, and so is the progress. It reports the spans of `reward`
        and when that is decided, inexact if the factor may be 0.

    Raises:
        ValueError: if there are no points, one is outside [0, 1] or a factor is not finite;
            (when called) if there is no progress, or it is outside [0, 1].
        TypeError: if the reward is async, a class or no callable.

    How it can be hacked: as `reward`. Its curve moves although the model stands still: divide by
    the logged factor before reading it.

    Example:
        >>> from rewards import RegexReward
        >>> fading = schedule(RegexReward(r"\d+", name="digits"), {0.0: 1.0, 0.5: 0.0})
        >>> [fading(["12"], progress=progress) for progress in (0.0, 0.25, 1.0)]
        [[1.0], [0.5], [0.0]]

    Source: none; linear interpolation.
    """
    return Schedule(reward, points, name)


class Combination:
    """Base of the rewards made of rewards.

    Args:
        parts: the rewards.
        name: what TRL calls the combination.

    Attributes:
        columns: the data set's columns that the parts take.

    Raises:
        TypeError: if a part is async, a class or no callable.
    """

    def __init__(self, *parts: Reward, name: str) -> None:
        self.parts = tuple(_checked(part) for part in parts)
        self.columns = tuple(dict.fromkeys(name for part in parts for name in _columns(part)))
        self.__name__ = name

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; `columns` are all that TRL passes to a reward."""
        raise NotImplementedError

    def spans(self, completions: Completions, prompts: Prompts = None) -> list[Spans]:
        """Name the spans of all parts; parts that use the same name share it."""
        found = [_spans(part, completions, prompts) for part in self.parts]
        return [_union(row) for row in zip(*found, strict=True)]

    def __repr__(self) -> str:
        return f"<reward {self.__name__} of {', '.join(map(name_of, self.parts))}>"


class _Gate(Combination):
    def __init__(self, reward: Reward, by: Reward, at_least: float, name: str | None) -> None:
        super().__init__(reward, by, name=name or f"{name_of(reward)}_gated_by_{name_of(by)}")
        self.reward, self.by = self.parts
        self.at_least = at_least
        self._logged: dict[str, None] = {}  # the extra columns that `reward` was seen to log

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        rows_of(self, columns, len(completions))  # or `reward` misses none until something passes
        verdicts = [self._verdict(score) for score in scores_of(self.by, completions, columns)]
        _log_mean(columns, f"reward/{self.__name__}/passed", verdicts)
        rows = [row for row, passed in enumerate(verdicts) if passed]
        earned = dict(zip(rows, self._score_rows(rows, completions, columns), strict=True))
        missed = [None if passed is None else 0.0 for passed in verdicts]
        return [earned.get(row, score) for row, score in enumerate(missed)]

    def _verdict(self, score: float | None) -> bool | None:
        return None if score is None else score >= self.at_least

    def _score_rows(
        self, rows: list[int], completions: Completions, columns: Columns
    ) -> list[float | None]:
        count = len(completions)
        taken = {name: _take(value, rows, count) for name, value in columns.items()}
        if log_extra := columns.get("log_extra"):
            taken["log_extra"] = functools.partial(self._log_padded, log_extra, rows, count)
        if rows:
            return scores_of(self.reward, [completions[row] for row in rows], taken)
        for column in self._logged if log_extra else ():
            taken["log_extra"](column, [])  # or TRL's table keeps the values of an earlier step
        return []

    def _log_padded(
        self, log_extra: LogExtra, rows: list[int], count: int, column: str, values: list[Any]
    ) -> None:
        if len(values) != len(rows):
            raise ValueError(
                f"reward {name_of(self.reward)!r} logged {len(values)} values of {column!r} for "
                f"{len(rows)} completions; log one per completion."
            )
        self._logged[column] = None
        at = dict(zip(rows, values, strict=True))
        log_extra(column, [at.get(row) for row in range(count)])

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        verdicts: list[bool | None] = [None] * len(completions)
        if _sees_text_alone(self.by):
            scores = scores_of(self.by, completions, {"prompts": prompts} if prompts else {})
            verdicts = [bool(self._verdict(score)) for score in scores]
        parts = (_decided(part, completions, prompts) for part in self.parts)
        return [_gated(*row) for row in zip(verdicts, *parts, strict=True)]


class _Weighted(Combination):
    def __init__(self, pairs: Sequence[tuple[Reward, float]], name: str | None) -> None:
        names = [name_of(part) for part, _ in pairs]
        super().__init__(*(part for part, _ in pairs), name=name or "_plus_".join(names))
        self.weights = tuple(_checked_weight(name_of(part), weight) for part, weight in pairs)
        if not names:
            raise ValueError("weighted got no parts; expected {reward: weight}.")
        if again := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two parts are named {again[0]!r}, and their metrics would be merged; name one of "
                "them differently when making it."
            )

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        scores = [scores_of(part, completions, columns) for part in self.parts]
        for part, column in zip(self.parts, scores, strict=True):
            _log_mean(columns, f"reward/{self.__name__}/{name_of(part)}", column)
        return [self._sum(row) for row in zip(*scores, strict=True)]

    def _sum(self, row: Sequence[float | None]) -> float | None:
        pairs = zip(self.weights, row, strict=True)
        terms = [weight * score for weight, score in pairs if score is not None]
        return math.fsum(terms) if terms else None

    def spans(self, completions: Completions, prompts: Prompts = None) -> list[Spans]:
        found = [_spans(part, completions, prompts) for part in self.parts]
        return [self._prefixed(row) for row in zip(*found, strict=True)]

    def _prefixed(self, row: Sequence[Spans]) -> Spans:
        return {
            f"{name_of(part)}/{name}": places
            for part, spans in zip(self.parts, row, strict=True)
            for name, places in spans.items()
        }

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        parts = [_decided(part, completions, prompts) for part in self.parts]
        return [_summed(self.weights, row) for row in zip(*parts, strict=True)]


class _Clip(Combination):
    def __init__(self, reward: Reward, low: float, high: float, name: str | None) -> None:
        super().__init__(reward, name=name or f"{name_of(reward)}_clipped")
        if not low <= high:
            raise ValueError(f"low is {low} and high is {high}; expected low to be at most high.")
        self.low, self.high = float(low), float(high)

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        scores = scores_of(self.parts[0], completions, columns)
        return [None if score is None else min(max(score, self.low), self.high) for score in scores]

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        return [_bound(chars) for chars, _ in _decided(self.parts[0], completions, prompts)]


class Schedule(Combination):
    """A reward that needs the progress of training; made by `schedule`."""

    def __init__(self, reward: Reward, points: Mapping[float, float], name: str | None) -> None:
        super().__init__(reward, name=name or f"{name_of(reward)}_scheduled")
        self.points = _checked_points(points)

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; see `schedule`."""
        factor = self._factor(_progress(self.__name__, columns))
        _log_mean(columns, f"reward/{self.__name__}/factor", [factor])
        scores = scores_of(self.parts[0], completions, columns)
        return [None if score is None else factor * score for score in scores]

    def _factor(self, progress: float) -> float:
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (start, before), (end, after) in pairwise(self.points):
            if progress <= end:
                return before + (after - before) * (progress - start) / (end - start)
        return self.points[-1][1]

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        """Say when the scaled reward is decided, inexactly if the factor may be 0."""
        decided = _decided(self.parts[0], completions, prompts)
        factors = [factor for _, factor in self.points]
        if min(factors) <= 0 <= max(factors):  # times 0, a score is settled from the start
            return [_bound(chars) for chars, _ in decided]
        return decided


def name_of(reward: Reward) -> str:
    """Return what TRL calls a reward: its `__name__`, or that of its class."""
    inner = _unwrapped(reward)
    return getattr(inner, "__name__", type(inner).__name__)


def follows_training(reward: Any) -> bool:
    """Return whether a reward needs the progress of training: a schedule, or made of one."""
    reward = _unwrapped(reward)
    parts = reward.parts if isinstance(reward, Combination) else ()
    return isinstance(reward, Schedule) or any(map(follows_training, parts))


def scores_of(reward: Reward, completions: Completions, columns: Columns) -> list[float | None]:
    """Call a reward as TRL does; NaN counts as an abstention, as in TRL.

    Raises:
        ValueError: if it does not return one score per completion.
    """
    scores = list(reward(completions=completions, **columns))
    if len(scores) != len(completions):
        raise ValueError(
            f"reward {name_of(reward)!r} returned {len(scores)} scores for {len(completions)} "
            "completions; return one per completion."
        )
    return [None if score is None or math.isnan(score) else float(score) for score in scores]


def _unwrapped(reward: Any) -> Any:
    while isinstance(reward, functools.partial):
        reward = reward.func
    return reward


def _checked(part: Any) -> Reward:
    if not callable(part) or isinstance(part, type):
        raise TypeError(f"part is {part!r:.80}, expected a reward: a function or an object.")
    inner = _unwrapped(part)
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(inner.__call__):
        raise TypeError(
            f"reward {name_of(part)!r} is async, which combinations do not await; make it a plain "
            "function, or give it to the trainer as a reward of its own."
        )
    return part


def _checked_weight(name: str, weight: float) -> float:
    if not math.isfinite(weight):
        raise ValueError(f"weight of {name!r} is {weight}, expected a finite number.")
    return float(weight)


def _checked_points(points: Mapping[float, float]) -> tuple[tuple[float, float], ...]:
    if not points:
        raise ValueError("schedule got no points; expected {progress: factor}, as {0.0: 1.0}.")
    for progress, factor in points.items():
        if not 0 <= progress <= 1 or not math.isfinite(factor):
            raise ValueError(
                f"point {progress}: {factor}; expected progress in [0, 1] and a finite factor."
            )
    return tuple(sorted((float(progress), float(factor)) for progress, factor in points.items()))


def _progress(name: str, columns: Columns) -> float:
    progress, state = columns.get("progress"), columns.get("trainer_state")
    if progress is None and state is not None:
        progress = state.global_step / max(1, state.max_steps)  # 0 steps: not started
    if progress is None:
        raise ValueError(
            f"reward {name!r} follows the progress of training and got no trainer_state; outside "
            "TRL's GRPOTrainer call it with progress=, from 0 to 1."
        )
    if not isinstance(progress, int | float) or not 0 <= progress <= 1:
        raise ValueError(f"progress of reward {name!r} is {progress!r:.80}, expected 0 to 1.")
    return progress


def _columns(reward: Reward) -> Sequence[str]:
    return getattr(reward, "columns", ())


def _take(value: Any, rows: Sequence[int], count: int) -> Any:
    is_column = isinstance(value, list) and len(value) == count
    return [value[row] for row in rows] if is_column else value


def _log_mean(columns: Columns, metric: str, scores: Sequence[float | None]) -> None:
    log_metric = columns.get("log_metric")
    given = [score for score in scores if score is not None]
    if log_metric is not None and given:
        log_metric(metric, sum(given) / len(given))


def _spans(reward: Reward, completions: Completions, prompts: Prompts) -> list[Spans]:
    return _asked(reward, "spans", completions, prompts) or [{} for _ in completions]


def _decided(reward: Reward, completions: Completions, prompts: Prompts) -> list[Decided]:
    unknown = [Decided(None, exact=False) for _ in completions]
    return _asked(reward, "decided", completions, prompts) or unknown


def _asked(reward: Reward, what: str, completions: Completions, prompts: Prompts) -> Any:
    method = getattr(reward, what, None)
    if method is None:
        return None
    if prompts is None or "prompts" not in inspect.signature(method).parameters:
        return method(completions)
    return method(completions, prompts=prompts)


def _sees_text_alone(reward: Reward) -> bool:
    """Whether a reward that knows when it is decided can be called with completions alone."""
    if _columns(reward) or isinstance(reward, Schedule):
        return False
    if isinstance(reward, Combination):
        return all(map(_sees_text_alone, reward.parts))
    return hasattr(reward, "decided")


def _union(row: Iterable[Spans]) -> Spans:
    union: dict[str, set[tuple[int, int]]] = {}
    for spans in row:
        for name, places in spans.items():
            union.setdefault(name, set()).update(places)
    return {name: sorted(places) for name, places in union.items()}


def _gated(passed: bool | None, reward: Decided, by: Decided) -> Decided:
    """Say when a gated score is decided; `passed` is None where it is not known."""
    if passed is False:
        return _bound(by.chars)  # not exact: had it passed, the reward might have been 0 too
    if passed and _place(by) < _place(reward):
        return reward
    return _bound(max(reward, by, key=_place).chars)


def _summed(weights: Sequence[float], parts: Sequence[Decided]) -> Decided:
    """Say when a sum is decided: with its last part, which moves the sum if it is alone."""
    weight, last = max(zip(weights, parts, strict=True), key=lambda pair: _place(pair[1]))
    alone = [_place(part) for part in parts].count(_place(last)) == 1
    return last if weight and alone else _bound(last.chars)


def _bound(chars: int | None) -> Decided:
    return Decided(chars, exact=chars == 0)


def _place(decided: Decided) -> float:
    return math.inf if decided.chars is None else decided.chars
