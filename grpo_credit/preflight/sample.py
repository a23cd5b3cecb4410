"""What a sample of completions holds: lengths, rewards, times. Made by `draw`."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Relief(NamedTuple):
    """How many failing completions a change would have helped.

    Args:
        helped: of those that were scored again.
        tried: how many were.
    """

    helped: int
    tried: int


@dataclass(frozen=True)
class RewardSample:
    """What one reward function did.

    Args:
        name: as TRL logs it.
        weight: in the sum.
        scores: of all completions; NaN where it abstained.
        calls: (completions, seconds) of each call; empty for a reward model.
        failures: what it raised.
        slow: patterns that ran out of time -> the completions on which they did.
        relief: see `variants.relieve`.
    """

    name: str
    weight: float
    scores: np.ndarray
    calls: list[tuple[int, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slow: Counter[str] = field(default_factory=Counter)
    relief: dict[str, Relief] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Completions of a few prompts, over all ranks.

    Args:
        size: completions of each prompt, which stand side by side.
        lengths: tokens of each completion.
        truncated: whether it ran into the limit.
        special: whether special tokens are spelled out in its text.
        rewards: what each reward function did.
        longest: the limit, in tokens.
        group: `num_generations` of the configuration.
        generated: completions of a generation batch.
        seconds: that generation took, without rewards.
        at_once: completions that were generated in these seconds side by side.
        first: the text of the first completion, as the rewards see it.
    """

    size: int
    lengths: list[int]
    truncated: list[bool]
    special: list[bool]
    rewards: list[RewardSample]
    longest: int
    group: int
    generated: int
    seconds: float
    at_once: int
    first: str = ""

    @property
    def totals(self) -> np.ndarray:
        """Weighted sum of the rewards of each completion; NaN where none scored it."""
        scores = np.stack([reward.scores for reward in self.rewards])
        weights = np.array([reward.weight for reward in self.rewards])[:, None]
        return np.where(np.isnan(scores).all(0), np.nan, np.nansum(scores * weights, axis=0))

    @property
    def groups(self) -> list[list[float]]:
        """The totals of each prompt's completions."""
        totals = self.totals.tolist()
        return [totals[i : i + self.size] for i in range(0, len(totals), self.size)]


def milliseconds(reward: RewardSample) -> tuple[float, float] | None:
    """Return the median and the 95th percentile (nearest rank) of a call, in milliseconds."""
    seconds = sorted(seconds for _, seconds in reward.calls)
    if not seconds:
        return None
    rank = [math.ceil(q * len(seconds)) - 1 for q in (0.5, 0.95)]
    return 1e3 * seconds[rank[0]], 1e3 * seconds[rank[1]]
