"""Rewards for the length of a completion, in tokens; results of tools count, as in TRL."""

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from .combination import Combination, Reward, name_of, score_range_of, scores_of, unwrapped
from .contract import Completion, TextReward, expected, listed, rows_of
from .guarded import Guarded


class SoftOverlong(TextReward):
    """Penalize completions that come close to the limit.

        R = 0                                   up to max − cache tokens
        R = (max − cache − length) / cache      from there to max
        R = −1                                  beyond

    Args:
        max_completion_length: max, tokens; at least 1. Give it the trainer's limit: a completion
            that is cut there gets −1.
        soft_punish_cache: cache, tokens; from 0 to max. 0 is a step: what is cut gets 0.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number in [−1, 0] per completion; dimensionless.

    Raises:
        ValueError: if an argument is outside its range; (when called) if no `completion_ids` are
            given, or not one list per completion.

    How it can be hacked: by being short; it asks for nothing else, so never use it alone.

    Example:
        >>> reward = SoftOverlong(max_completion_length=100, soft_punish_cache=20)
        >>> reward(["", "", ""], completion_ids=[[1] * 80, [1] * 90, [1] * 101])
        [0.0, -0.5, -1.0]

    Source: Yu et al. 2025, DAPO, arXiv:2503.14476, eq. 13; TRL's `get_soft_overlong_punishment`.
    """

    columns = ("completion_ids",)
    score_range = (-1.0, 0.0)

    def __init__(
        self, max_completion_length: int, soft_punish_cache: int, name: str = "soft_overlong"
    ) -> None:
        super().__init__(name)
        self.max_completion_length = _checked_limit(max_completion_length)
        expected("soft_punish_cache", soft_punish_cache, *_NUMBER)
        if not 0 <= soft_punish_cache <= max_completion_length:
            raise ValueError(
                f"soft_punish_cache is {soft_punish_cache}, expected 0 to {max_completion_length} "
                "tokens (max_completion_length)."
            )
        self.soft_punish_cache = soft_punish_cache

    def _scores(
        self, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        return [self._score(len(row["completion_ids"])) for row in rows]

    def _score(self, length: int) -> float:
        free = self.max_completion_length - self.soft_punish_cache
        if length <= free:
            return 0.0
        if length > self.max_completion_length:
            return -1.0
        return (free - length) / self.soft_punish_cache


class _OfVerdict(Combination):
    """Base of the rewards for the length of what another reward calls right or wrong."""

    def __init__(self, correct: Reward, name: str, *columns: str) -> None:
        super().__init__(correct, name=name)
        self.columns = (*self.columns, "completion_ids", *columns)
        refuse_abstention(name, correct, score_range_of(self))

    def _judged(
        self, completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> list[tuple[bool | None, int]]:
        """Return of each completion whether it is right, and how many tokens it has.

        Raises:
            ValueError: if a verdict is neither 0 nor 1, or a column is missing.
        """
        count = len(listed(self.__name__, "completions", completions))
        lengths = [len(row["completion_ids"]) for row in rows_of(self, columns, count)]
        verdicts = map(self._verdict, scores_of(self.parts[0], completions, columns))
        return list(zip(verdicts, lengths, strict=True))

    def _verdict(self, score: float | None) -> bool | None:
        if score not in (0.0, 1.0, None):
            raise ValueError(
                f"reward {name_of(self.parts[0])!r} scored {score}, expected 0 (wrong) or 1 "
                f"(right); {self.__name__!r} needs a verdict."
            )
        return None if score is None else score == 1.0


class CosineLength(_OfVerdict):
    """Reward right completions for being short, penalize wrong ones less for being long.

        R = long + (short − long) · (1 + cos(π · min(length / max, 1))) / 2

    where (short, long) is (max_value_correct, min_value_correct) for a right completion and
    (min_value_wrong, max_value_wrong) for a wrong one: after a wrong start it pays to think on.

    Args:
        correct: what says 1 for right and 0 for wrong: any reward or plain function. If it can fail
            or take forever, guard it: a failure is then wrong.
        max_completion_length: max, tokens; at least 1. TRL calls it `max_len`.
        min_value_wrong: of a wrong completion without tokens; dimensionless, as all four.
        max_value_wrong: of a wrong completion of max tokens or more.
        min_value_correct: of a right completion of max tokens or more.
        max_value_correct: of a right completion without tokens.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number between the two values per completion, or None where `correct`
        abstains.

    Raises:
        ValueError: if a minimum is above its maximum or max is less than 1; if wrong completions
            earn less than 0 and `correct` is guarded so that it abstains where it fails; (when
            called) if `correct` scores anything but 0, 1 or None, or no `completion_ids` are given.
        TypeError: if `correct` is a class or no callable.

    How it can be hacked: a model that cannot solve a task gains by rambling up to the limit:
    combine it with `Repetition`. Guessing at once pays most where guesses are often right. None is
    left out of TRL's sum, as if it were 0, and that is more than a wrong completion earns: let
    `correct` abstain for what is wrong with the data, never for what a completion does to it.

    Deviation: the paper gives completions that reach the limit a value of their own; here, as in
    TRL's `get_cosine_scaled_reward`, they keep that of max tokens. Add `SoftOverlong` for it.

    Example:
        >>> def right(completions, **columns):
        ...     return [float(text == "4") for text in completions]
        >>> reward = CosineLength(right, max_completion_length=100)
        >>> reward(["4", "5"], completion_ids=[[1] * 50, [1] * 100])
        [0.75, -0.5]

    Source: Yeo et al. 2025, Demystifying Long Chain-of-Thought Reasoning, arXiv:2502.03373,
    appendix C.1.
    """

    def __init__(
        self,
        correct: Reward,
        max_completion_length: int,
        *,
        min_value_wrong: float = -1.0,
        max_value_wrong: float = -0.5,
        min_value_correct: float = 0.5,
        max_value_correct: float = 1.0,
        name: str = "cosine_length",
    ) -> None:
        self.max_completion_length = _checked_limit(max_completion_length)
        self.values = {
            False: _checked_values("wrong", min_value_wrong, max_value_wrong),
            True: _checked_values("correct", min_value_correct, max_value_correct)[::-1],
        }  # right -> value of no tokens, of max tokens
        super().__init__(correct, name)

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest of the four values."""
        values = [value for pair in self.values.values() for value in pair]
        return min(values), max(values)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """Score completions; see the class."""
        return [self._score(*row) for row in self._judged(completions, columns)]

    def _score(self, right: bool | None, length: int) -> float | None:
        if right is None:
            return None
        short, long = self.values[right]
        angle = math.pi * min(length / self.max_completion_length, 1.0)
        return long + 0.5 * (short - long) * (1.0 + math.cos(angle))


class GroupLength(_OfVerdict):
    """Reward a completion for being shorter than others of its prompt; a wrong one never gains.

        λ = 1/2 − (length − min) / (max − min)          over the completions of a prompt; 0 if equal
        R = λ if the completion is right, else min(0, λ)

    Args:
        correct: what says 1 for right and 0 for wrong: any reward or plain function.
        num_generations: completions of a prompt, as the trainer has it. A call that splits a
            prompt's completions is refused, because shortest and longest would not be theirs.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number in [−1/2, 1/2] per completion, or None where `correct` abstains
        (its length counts for the others); dimensionless.

    Raises:
        ValueError: if num_generations is less than 2, or `correct` is guarded so that it abstains
            where it fails, which would be more than a wrong completion earns; (when called) if
            `correct` scores anything but 0, 1 or None, if no `completion_ids` or no `prompts` are
            given, or if a run of equal prompts is no whole number of groups: give each process
            whole groups (`per_device_train_batch_size` times `gradient_accumulation_steps` a
            multiple of `num_generations`).
        TypeError: if `correct` is a class or no callable.

    How it can be hacked: by short guesses where many are right. The paper warms up without it.

    Example:
        >>> def right(completions, **columns):
        ...     return [float(text == "4") for text in completions]
        >>> reward = GroupLength(right, num_generations=3)
        >>> reward(["4", "4", "5"], prompts=["2+2"] * 3, completion_ids=[[1] * 2, [1] * 6, [1] * 3])
        [0.5, -0.5, 0.0]

    Source: Kimi Team 2025, Kimi k1.5, arXiv:2501.12599, section 2.3.3.
    """

    score_range = (-0.5, 0.5)

    def __init__(
        self, correct: Reward, num_generations: int, *, name: str = "group_length"
    ) -> None:
        if not isinstance(num_generations, int) or num_generations < 2:
            raise ValueError(
                f"num_generations is {num_generations!r}, expected a whole number of at least 2."
            )
        super().__init__(correct, name, "prompts")
        self.num_generations = num_generations

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """Score completions; see the class."""
        rows_of(self, columns, len(listed(self.__name__, "completions", completions)))
        self._check_groups(columns["prompts"])
        judged, size = self._judged(completions, columns), self.num_generations
        groups = [judged[start : start + size] for start in range(0, len(judged), size)]
        return [score for group in groups for score in _scores_in_group(group)]

    def _check_groups(self, prompts: Sequence[Any]) -> None:
        runs = [len(list(run)) for _, run in itertools.groupby(prompts)]
        if any(run % self.num_generations for run in runs):
            raise ValueError(
                f"reward {self.__name__!r} got {runs[:8]} completions of its prompts, expected "
                f"whole groups of {self.num_generations}: make per_device_train_batch_size times "
                "gradient_accumulation_steps a multiple of num_generations."
            )


def _scores_in_group(judged: Sequence[tuple[bool | None, int]]) -> list[float | None]:
    lengths = [length for _, length in judged]
    shortest, range_of = min(lengths), max(lengths) - min(lengths)
    shares = [0.5 - (length - shortest) / range_of if range_of else 0.0 for length in lengths]
    return [
        None if right is None else share if right else min(0.0, share)
        for (right, _), share in zip(judged, shares, strict=True)
    ]


def refuse_abstention(name: str, part: Reward, score_range: tuple[float, float]) -> None:
    """Raise a ValueError if a completion that makes a part fail would earn more than a wrong one.

    Args:
        name: of the reward that the part is of.
        part: what judges.
        score_range: the least and the greatest score of that reward.
    """
    if score_range[0] < 0 and _abstains_on_failure(part):
        raise ValueError(
            f"{name_of(part)!r} abstains (None) where a completion makes it fail, and {name!r} "
            "pays less than that for a wrong one: failing would pay. Guard it with "
            "on_timeout='wrong' and on_error='wrong'."
        )


def _abstains_on_failure(reward: Any) -> bool:
    """Return whether a reward, or one that it is made of, is guarded so that a failure is None."""
    reward = unwrapped(reward)
    if isinstance(reward, Guarded):
        return "abstain" in (reward.on_timeout, reward.on_error)
    return isinstance(reward, Combination) and any(map(_abstains_on_failure, reward.parts))


_NUMBER = Real, "a number, without quotes around"


def _checked_limit(max_completion_length: int) -> int:
    expected("max_completion_length", max_completion_length, *_NUMBER)
    if not 1 <= max_completion_length < math.inf:
        raise ValueError(
            f"max_completion_length is {max_completion_length}, expected at least 1 token."
        )
    return max_completion_length


def _checked_values(verdict: str, low: float, high: float) -> tuple[float, float]:
    expected(f"min_value_{verdict}", low, *_NUMBER)
    expected(f"max_value_{verdict}", high, *_NUMBER)
    if not -math.inf < low <= high < math.inf:
        raise ValueError(
            f"min_value_{verdict} is {low} and max_value_{verdict} is {high}; expected the minimum "
            "to be at most the maximum, and both finite."
        )
    return low, high
