"""A reward whose pattern depends on the prompt."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from grpo_credit.rewards import Completion, Decided, RegexReward, TextReward


class PromptRegex(TextReward):
    """Reward a completion that matches in full the pattern that its prompt asks for.

    Args:
        name: what TRL calls the reward.
        pattern_of: the pattern of a prompt, regular.
    """

    columns = ("prompts",)

    def __init__(self, name: str, pattern_of: Callable[[str], str]) -> None:
        super().__init__(name)
        self.of = functools.lru_cache(maxsize=4096)(
            lambda prompt: RegexReward(pattern_of(prompt), strip=False, name=name)
        )

    def score(self, text: str, /, prompts: str) -> float | None:
        """Score one text."""
        return self.of(prompts).score(text)

    def automaton_for(self, prompt: str) -> Any:
        """Return the automaton of the prompt's pattern."""
        return self.of(prompt).automaton

    def decided(self, completions: Sequence[Completion], prompts: Sequence[str]) -> list[Decided]:
        """Say after how many characters each score was settled."""
        pairs = zip(completions, prompts, strict=True)
        return [self.of(prompt).decided([completion])[0] for completion, prompt in pairs]
