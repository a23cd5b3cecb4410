"""A completion that should earn what a reward for a form gives, and what is made of it."""

import re
import string
from typing import TYPE_CHECKING, Any

from .combination import Combination, unwrapped
from .contract import Completion
from .scaling import schedule

if TYPE_CHECKING:
    from .automaton import Automaton

_PREFERRED = "x1" + string.printable  # a specimen is read by people


def specimen_of(reward: Any) -> str | None:
    """Return a completion that should earn a format reward's full score; None if it tells none.

    Example:
        >>> from rewards import RegexReward
        >>> specimen_of(RegexReward("<a>[0-9]</a>"))
        '<a>1</a>'
    """
    reward = unwrapped(reward)
    if isinstance(reward, Combination):
        return next(filter(None, map(specimen_of, reversed(reward.parts))), None)
    if specimen := getattr(reward, "specimen", None):
        return specimen
    automaton = getattr(reward, "automaton", None)
    return None if automaton is None else _shortest_accepted(automaton)


def _shortest_accepted(automaton: "Automaton") -> str | None:
    left, state, text = automaton.remaining, 0, ""
    if left[state] is None:
        return None
    letters = _PREFERRED + "".join(map(chr, automaton.classes.boundaries.tolist()))
    letter_of: dict[int, str] = {}
    for kind, letter in zip(automaton.classes.classify(letters), letters, strict=True):
        letter_of.setdefault(kind, letter)
    while fewer := left[state]:
        row = automaton.table[state]
        kind = next(kind for kind in letter_of if left[row[kind]] == fewer - 1)
        state, text = row[kind], text + letter_of[kind]
    return text


def emptied(form: str) -> list[str]:
    """Return a tagged form with a blank for the content of each body; none where it has no body."""
    texts = [re.sub(r">[^<>]+<(?=/)", f">{blank}<", form) for blank in (" ", "\u200b", "")]
    return [text for text in texts if text != form]


def as_given(prompt: Any, text: str) -> Completion:
    """Return a completion in the form in which TRL hands it over after such a prompt."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def unscheduled(reward: Any) -> Any:
    """Return a reward without what scales it: what it earns depends on the step, its form not."""
    while isinstance(reward, schedule):
        reward = reward.parts[0]
    return reward
