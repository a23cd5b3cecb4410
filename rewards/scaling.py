"""Rewards that are added, kept within bounds, or follow the progress of training."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from .combination import (
    Columns,
    Combination,
    Completions,
    Prompts,
    Reward,
    decided_of,
    log_mean,
    name_of,
    no_later_than,
    place_of,
    score_range_of,
    scores_of,
    spans_of,
    unwrapped,
)
from .contract import Decided, Spans


class weighted(Combination):
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
        TypeError: if a part is a class or no callable.

    How it can be hacked: through the part that pays most per effort. A form that pays without
    regard to content is learnt alone: `gate` does not have that hole. And where a part abstains
    that would have been negative: abstaining counts as 0. Guarded parts do not (see `guard`).

    Example:
        >>> from rewards import RegexReward
        >>> digits = RegexReward(r"\d+", name="digits")
        >>> short = RegexReward(r".{1,3}", name="short")
        >>> weighted({digits: 1.0, short: 0.5})(["12", "ab", "12345"])
        [1.5, 0.5, 1.0]

    Source: TRL's `reward_weights`; here the sum is one reward, which can be gated or scheduled.
    """

    def __init__(
        self,
        parts: Mapping[Reward, float] | Sequence[tuple[Reward, float]],
        *,
        name: str | None = None,
    ) -> None:
        pairs = parts if isinstance(parts, Sequence) else list(parts.items())
        names = [name_of(part) for part, _ in pairs]
        super().__init__(*(part for part, _ in pairs), name=name or "_plus_".join(names))
        for part, weight in pairs:
            if not math.isfinite(weight):
                raise ValueError(
                    f"weight of {name_of(part)!r} is {weight}, expected a finite number."
                )
        self.weights = tuple(float(weight) for _, weight in pairs)
        if not names:
            raise ValueError("weighted got no parts; expected {reward: weight}.")
        if again := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two parts are named {again[0]!r}, and their metrics would be merged; name one of "
                "them differently when making it."
            )

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; see the class."""
        scores = [scores_of(part, completions, columns) for part in self.parts]
        for part, column in zip(self.parts, scores, strict=True):
            log_mean(columns, f"reward/{self.__name__}/{name_of(part)}", column)
        return [self._sum(row) for row in zip(*scores, strict=True)]

    def _sum(self, row: Sequence[float | None]) -> float | None:
        pairs = zip(self.weights, row, strict=True)
        terms = [weight * score for weight, score in pairs if score is not None]
        return math.fsum(terms) if terms else None

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score."""
        pairs = zip(self.weights, map(score_range_of, self.parts), strict=True)
        terms = [sorted((weight * low, weight * high)) for weight, (low, high) in pairs]
        return sum(low for low, _ in terms), sum(high for _, high in terms)

    def spans(self, completions: Completions, prompts: Prompts = None) -> list[Spans]:
        """Name the spans of all parts, apart: `<part>/<span>`."""
        found = [spans_of(part, completions, prompts) for part in self.parts]
        return [self._prefixed(row) for row in zip(*found, strict=True)]

    def _prefixed(self, row: Sequence[Spans]) -> Spans:
        return {
            f"{name_of(part)}/{name}": places
            for part, spans in zip(self.parts, row, strict=True)
            for name, places in spans.items()
        }

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        """Say when each score is decided; see the class."""
        parts = [decided_of(part, completions, prompts) for part in self.parts]
        return [_summed(self.weights, row) for row in zip(*parts, strict=True)]


def _summed(weights: Sequence[float], parts: Sequence[Decided]) -> Decided:
    """Return when a sum is decided: with its last part, which moves the sum if it is alone."""
    weight, last = max(zip(weights, parts, strict=True), key=lambda pair: place_of(pair[1]))
    alone = [place_of(part) for part in parts].count(place_of(last)) == 1
    return last if weight and alone else no_later_than(last.chars)


class clip(Combination):
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
        TypeError: if the reward is a class or no callable.

    How it can be hacked: as `reward`; beyond the bounds nothing is gained, and nothing learnt.

    Example:
        >>> def length(completions, **columns):
        ...     return [len(text) for text in completions]
        >>> clip(length, 1, 3)(["", "ab", "abcde"])
        [1.0, 2.0, 3.0]

    Source: none; arithmetic.
    """

    def __init__(self, reward: Reward, low: float, high: float, *, name: str | None = None) -> None:
        super().__init__(reward, name=name or f"{name_of(reward)}_clipped")
        if not low <= high:
            raise ValueError(f"low is {low} and high is {high}; expected low to be at most high.")
        self.low, self.high = float(low), float(high)

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score."""
        low, high = (self._clipped(bound) for bound in score_range_of(self.parts[0]))
        return low, high

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; see the class."""
        scores = scores_of(self.parts[0], completions, columns)
        return [None if score is None else self._clipped(score) for score in scores]

    def _clipped(self, score: float) -> float:
        return min(max(score, self.low), self.high)

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        """Say when each score is decided; see the class."""
        return [
            no_later_than(chars) for chars, _ in decided_of(self.parts[0], completions, prompts)
        ]


class schedule(Combination):
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
        TypeError: if the reward is a class or no callable.

    How it can be hacked: as `reward`. Its curve moves although the model stands still: divide by
    the logged factor before reading it.

    Example:
        >>> from rewards import RegexReward
        >>> fading = schedule(RegexReward(r"\d+", name="digits"), {0.0: 1.0, 0.5: 0.0})
        >>> [fading(["12"], progress=progress) for progress in (0.0, 0.25, 1.0)]
        [[1.0], [0.5], [0.0]]

    Source: none; linear interpolation.
    """

    def __init__(
        self, reward: Reward, points: Mapping[float, float], *, name: str | None = None
    ) -> None:
        super().__init__(reward, name=name or f"{name_of(reward)}_scheduled")
        self.points = _checked_points(points)

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score over all of training."""
        ends = [f * bound for _, f in self.points for bound in score_range_of(self.parts[0])]
        return min(ends), max(ends)

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; see `schedule`."""
        factor = self._factor(_progress(self.__name__, columns))
        log_mean(columns, f"reward/{self.__name__}/factor", [factor])
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
        """Return when the scaled reward is decided, inexactly if the factor may be 0."""
        decided = decided_of(self.parts[0], completions, prompts)
        factors = [factor for _, factor in self.points]
        if min(factors) <= 0 <= max(factors):  # times 0, a score is settled from the start
            return [no_later_than(chars) for chars, _ in decided]
        return decided


def follows_training(reward: Any) -> bool:
    """Return whether a reward needs the progress of training: a schedule, or made of one."""
    reward = unwrapped(reward)
    parts = reward.parts if isinstance(reward, Combination) else ()
    return isinstance(reward, schedule) or any(map(follows_training, parts))


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
