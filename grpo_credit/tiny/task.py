"""Running sums of one-digit terms, answered in a fixed format.

    prompt      3+5+2=
    completion  <think>3+5=8+2=10</think><answer>10</answer>

The work grows with the number of terms, so well-formed completions have 11 to 23 tokens (the end
token included): rules that divide credit by length have something to disagree about. A model of
half a million parameters learns sums of up to four terms within a few dozen steps.
"""

import hashlib
import random
from typing import NamedTuple

from datasets import Dataset

PATTERN = r"<think>[^<>]+</think><answer>[0-9]+</answer>"
MAX_COMPLETION_TOKENS = 64
MIN_TERMS, MAX_TERMS = 2, 4
SPLITS = ("train", "test")


class Check(NamedTuple):
    """Whether a completion obeys the format, and whether it also gives the right answer."""

    well_formed: bool
    correct: bool


def prompts(n: int, seed: int, split: str) -> list[dict[str, str]]:
    """Draw prompts with their answers; the number of terms is uniform on 2..4.

    A prompt belongs to one split for good (a hash decides; one in five is "test"), so no train
    prompt is ever a test prompt, whatever the seeds. Draws are with replacement.

    Args:
        n: How many.
        seed: Same seed, same prompts.
        split: "train" or "test".

    Returns:
        Rows {"prompt": "3+5+2=", "answer": "10"}.

    Raises:
        ValueError: If the split has another name.
    """
    rng = split_random(split, seed)
    return [_row(_terms(rng, split)) for _ in range(n)]


def dataset(n: int, seed: int, split: str) -> Dataset:
    """Return `prompts(n, seed, split)` as a dataset with columns "prompt" and "answer"."""
    return Dataset.from_list(prompts(n, seed, split))


def split_random(split: str, seed: int) -> random.Random:
    """Return the source of randomness of a split's draws.

    Raises:
        ValueError: If the split has another name than "train" or "test".
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    return random.Random(f"{split}/{seed}")


def split_of(prompt: str) -> str:
    """Return the split that a prompt belongs to for good; one in five is "test"."""
    return "test" if hashlib.sha256(prompt.encode()).digest()[0] % 5 == 0 else "train"


def _row(terms: list[int]) -> dict[str, str]:
    return {"prompt": _prompt(terms), "answer": str(sum(terms))}


def _prompt(terms: list[int]) -> str:
    return "+".join(map(str, terms)) + "="


def _terms(rng: random.Random, split: str) -> list[int]:
    while True:
        terms = [rng.randrange(10) for _ in range(rng.randint(MIN_TERMS, MAX_TERMS))]
        if split_of(_prompt(terms)) == split:
            return terms


def check(completion: str, answer: str) -> Check:
    """Judge a completion by its tags, independently of any regex reward.

    Args:
        completion: Text without special tokens.
        answer: The expected number, compared as text.
    """
    given = _answer_in(completion)
    well_formed = given is not None
    return Check(well_formed, correct=well_formed and given == answer)


def _answer_in(text: str) -> str | None:
    """Return the answer of a well-formed completion, None for any other."""
    thought, _, rest = text.partition("</think><answer>")
    work, answer = thought.removeprefix("<think>"), rest.removesuffix("</answer>")
    if len(work) == len(thought) or len(answer) == len(rest):
        return None  # a tag is missing
    return answer if work and answer and not set(work) & set("<>") and is_number(answer) else None


def is_number(text: str) -> bool:
    """Return whether a text consists of the digits 0 to 9."""
    return set(text) <= set("0123456789")
