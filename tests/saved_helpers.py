"""Rollouts with hostile completions, to save and to show."""

from dataclasses import replace

import torch

from grpo_credit import Rollouts

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\x1b[31m\x1b]0;x\x07",
    "\u202eevil\u202c", "\x00", "\ud800", "[bold]{{ 7 * 7 }}{% raw %}", "\r\n", "&lt;", "🙂‍🙂",
    "A" * 100_000,
]  # fmt: skip


def rollouts(**changes):
    """Make three groups of two: lengths 11, 2, 3, 1, 0, 4; the last group is not in the window."""
    made = Rollouts.from_lists(
        [11, 2, 3, 1, 0, 4], [1.0, 0.0, None, 0.5, 0.25, 1.0], num_generations=2,
        max_completion_length=11, advantages=[1.0, -1.0, 0.0, 2.0, 0.5, -0.5],
    )  # fmt: skip
    return replace(made, window_count=torch.tensor([1, 1, 1, 2, 1, 0]), **changes)


PROMPTS = [
    "<b>2+2</b>",
    "2+2",
    [{"role": "user", "content": "\x1b[2J"}],
    "c",
    {"odd": 1},
    "e\ud800",
]
TOKENS = [HOSTILE, ["a", "b"], ["c", "d", "\n"], ["e"], [], ["f", "g", "h", "i"]]
