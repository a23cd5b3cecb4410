"""What a sample of completions holds: lengths, rewards, times. Made by `draw`."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from grpo_credit.preflight.tool_use import ToolUse


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

    Scores are of all completions, NaN where it abstained; `calls` are (completions, seconds), none
    of a reward model; `failures` is what it raised, `slow` counts the completions on which a
    pattern ran out of time, and `relief` is of `variants.relieve`.
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
    """Completions of a few prompts over all ranks, `size` of each prompt side by side.

    Of each completion: `lengths` in tokens, whether it is `truncated` at the `longest`, whether
    `special` tokens are spelled out in it, and its `uncertainty`, 1 - Σ_v π_v² at counted tokens.
    `products` are of the gradients of `unit` completions each (`trainer.probing`); both are empty
    where the model was not asked. `first` is the text of the first one. `at_once` of them
    were generated side by side in `seconds`, without rewards; `group` and `generated` are what the
    configuration has: `num_generations` and the completions of a generation batch. The
    longest prompt has `prompt_tokens`, and `apart` says how far vLLM's probabilities are from the
    trainer's, by `engine.differences`. `tools` is what was done with them, where there are any.
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
    uncertainty: list[np.ndarray] = field(default_factory=list)
    products: np.ndarray = field(default_factory=lambda: np.zeros(0))
    unit: int = 0
    prompt_tokens: int = 0
    apart: dict[str, float] = field(default_factory=dict)
    tools: ToolUse | None = None

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
