"""Tiny random models of many architectures, and what efficient batching does with each.

`python tests/architectures.py` prints the table for people, `python tests/architectures.py llama`
one line of it; `test_architectures.py` holds it to TRL's gradients. Prompts have 1 to 40 tokens and
completions 1 to 24, so that padding on either side is most of a micro-batch, and the second step is
wider than the first.
"""

import functools
import io
import random
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import conftest  # noqa: F401  (the environment of tests)
import torch
from architecture_cases import CASES, Case
from datasets import Dataset
from harness import TOKENIZER, Trace, difference, ours, rollouts_with, trl

STEPS = 2
WIDEST = 24
GROUPS = {  # tokens of a prompt, and of the completions of its group: four prompts a step
    3: (16, 4, 7, 1), 20: (3, 5, 2, 8), 1: (9, 12, 5, 2), 9: (6, 3, 11, 4),
    40: (2, 7, 3, 1), 7: (24, 10, 5, 3), 2: (8, 1, 19, 6), 15: (4, 13, 2, 9),
}  # fmt: skip
DEAD = {20, 40, 7}  # groups of one reward: those of the longest prompts and of the longest row
TEXTS = {"".join(random.Random(n).choices("0123456789", k=n)): n for n in GROUPS}


def completion(prompt: str, member: int) -> list[int]:
    """Return random characters and an end; letters where there are three at most."""
    rng, length = random.Random(f"{prompt} {member}"), GROUPS[TEXTS[prompt]][member] - 1
    text = rng.choices("0123456789+-=," if length > 3 else "ab", k=length)
    return [*TOKENIZER.encode("".join(text)), TOKENIZER.eos_token_id]


def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Score by length and last character, but in dead groups."""
    return [
        0.5 if TEXTS[prompt] in DEAD else len(text) % 3 + 0.1 * len(text)
        for prompt, text in zip(prompts, completions, strict=True)
    ]


# ---- running it ---------------------------------------------------------------------------------


def trained(trainer: Callable[..., Trace], case: Case, dtype: torch.dtype = torch.float32) -> Trace:
    """Train the model of a case two steps."""
    torch.manual_seed(0)
    return trainer(
        model=case.model().to(dtype),
        arguments={
            "rollout_func": rollouts_with(False, completion),
            "reward_funcs": reward,
            "train_dataset": Dataset.from_dict({"prompt": [*TEXTS]}),
        },
        max_completion_length=WIDEST, max_steps=STEPS, learning_rate=1e-3, **case.options,
    )  # fmt: skip


trained_by_trl = functools.partial(
    trained, functools.partial(trl, loss_type="luspo", importance_sampling_level="sequence")
)
trained_by_ours = functools.partial(trained, functools.partial(ours, credit="seq"))


def largest_difference(mine: Trace, theirs: Trace) -> float:
    """Give the largest relative difference of the gradients of a step."""
    pairs = zip(mine.gradients, theirs.gradients, strict=True)
    return max(difference(a, b) for a, b in pairs)


def row(name: str) -> str:
    """Write a line of the table."""
    case = CASES[name]
    try:
        theirs = trained_by_trl(case)
    except Exception as error:
        return f"{name:34} {'':>7}  TRL: {type(error).__name__}: {str(error)[:150]!r}"
    mine = trained_by_ours(case)
    return f"{name:34} {largest_difference(mine, theirs):7.0e}  {mine.batching}"


if __name__ == "__main__":
    for name in [n for n in CASES if n in sys.argv[1:] or not sys.argv[1:]]:
        with redirect_stdout(io.StringIO()):
            line = row(name)
        print(line, flush=True)
