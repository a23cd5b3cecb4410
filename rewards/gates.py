"""A reward that is given only where another one is earned."""

import functools
import math
from numbers import Real
from typing import Any

from .combination import (
    Columns,
    Combination,
    Completions,
    Prompts,
    Reward,
    columns_of,
    decided_of,
    log_mean,
    name_of,
    no_later_than,
    place_of,
    score_range_of,
    scores_of,
)
from .contract import Decided, LogExtra, listed, rows_of
from .lengths import refuse_abstention
from .scaling import schedule


class gate(Combination):
    r"""Give a reward only where another one is earned.

        R = reward if by ≥ at_least, else min(0, the least that reward gives)

    `reward` is not called for completions that fail: a verifier sees only what is in the right
    form. Logs the share that passes, of what `by` judges, as `reward/<name>/passed`.

    Args:
        reward: what is given.
        by: what has to be earned first.
        at_least: the score of `by` that counts as earned; dimensionless.
        name: what TRL calls the reward; `<reward>_gated_by_<by>` by default.

    Returns:
        A reward: that of `reward` where `by` passes; where it fails 0.0, or the least of its
        `score_range` if that is less, so that leaving the form never pays; None where `by`
        abstains.
        It reports the spans of both. Where `by` fails, the score is decided no later than that of
        `by`; elsewhere with the later of the two.

    Raises:
        TypeError: if a part is a class or no callable.
        ValueError: if at_least is no number; if `reward` may give less than 0 and `by` is guarded
            so that it abstains where it fails: making it fail would pay.

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

    def __init__(
        self, reward: Reward, by: Reward, *, at_least: float = 1.0, name: str | None = None
    ) -> None:
        super().__init__(reward, by, name=name or f"{name_of(reward)}_gated_by_{name_of(by)}")
        self.reward, self.by = self.parts
        if not isinstance(at_least, Real) or math.isnan(at_least):
            raise ValueError(f"at_least is {at_least!r}, expected a number: a score of `by`.")
        self.at_least = at_least
        self.missed = min(0.0, score_range_of(reward)[0])
        refuse_abstention(self.__name__, by, self.score_range)
        self._logged: dict[str, None] = {}  # the extra columns that `reward` was seen to log

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score."""
        low, high = score_range_of(self.reward)
        return min(0.0, low), max(0.0, high)

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        """Score completions; see the class."""
        listed(self.__name__, "completions", completions)
        rows_of(self, columns, len(completions))  # or `reward` misses none until something passes
        verdicts = [self._verdict(score) for score in scores_of(self.by, completions, columns)]
        log_mean(columns, f"reward/{self.__name__}/passed", verdicts)
        rows = [row for row, passed in enumerate(verdicts) if passed]
        earned = dict(zip(rows, self._score_rows(rows, completions, columns), strict=True))
        missed = [None if passed is None else self.missed for passed in verdicts]
        return [earned.get(row, score) for row, score in enumerate(missed)]

    def _verdict(self, score: float | None) -> bool | None:
        return None if score is None else score >= self.at_least

    def _score_rows(
        self, rows: list[int], completions: Completions, columns: Columns
    ) -> list[float | None]:
        count = len(completions)
        taken: dict[str, Any] = {
            name: [value[row] for row in rows]
            if isinstance(value, list) and len(value) == count
            else value
            for name, value in columns.items()
        }
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
        """Say when each score is decided; see the class."""
        verdicts: list[bool | None] = [None] * len(completions)
        if _sees_text_alone(self.by):
            scores = scores_of(self.by, completions, {"prompts": prompts} if prompts else {})
            verdicts = [bool(self._verdict(score)) for score in scores]
        parts = (decided_of(part, completions, prompts) for part in self.parts)
        return [_gated(*row) for row in zip(verdicts, *parts, strict=True)]


def _gated(passed: bool | None, reward: Decided, by: Decided) -> Decided:
    """Return when a gated score is decided; `passed` is None where it is not known."""
    if passed is False:
        return no_later_than(by.chars)  # not exact: had it passed, the reward might have been 0 too
    if passed and place_of(by) < place_of(reward):
        return reward
    return no_later_than(max(reward, by, key=place_of).chars)


def _sees_text_alone(reward: Reward) -> bool:
    """Whether a reward that knows when it is decided can be called with completions alone."""
    if columns_of(reward) or isinstance(reward, schedule):
        return False
    if isinstance(reward, Combination):
        return all(map(_sees_text_alone, reward.parts))
    return hasattr(reward, "decided")
