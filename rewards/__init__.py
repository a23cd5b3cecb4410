"""Reward functions with TRL's signature, importable without torch: `from rewards import …`.

A reward is called as `f(completions, **columns)` and returns one number per completion, or None
where it does not apply. Completions are plain strings or lists of messages.
"""

from rewards.contract import completion_text
from rewards.formats import RegexReward, think_answer_format

__all__ = ["RegexReward", "completion_text", "think_answer_format"]
