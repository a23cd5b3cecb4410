"""Completions to imitate: one in three is well formed, the others go wrong in many ways.

Most of them go wrong at a single token, and where that token is chosen the right one keeps a share
of at least 0.4: a policy gradient can find it. Body and tail are drawn independently, so the
chance to end after "</answer>" does not depend on what came before it.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from grpo_credit.tiny.task import MAX_COMPLETION_TOKENS

# Writes a part of a completion from the work ("3+5=8"), the answer ("8") and a random source.
Piece = Callable[[str, str, random.Random], str]
WORDS = ("so", "that", "is", "it", "well", "done", "check", "again", "because", "right")


class Demonstration(NamedTuple):
    """A completion to imitate; `ends` is false where it runs on without an end token."""

    text: str
    ends: bool


def demonstration(prompt: str, rng: random.Random) -> Demonstration:
    """Draw a completion of `prompt`: a body, well formed or not, then a tail, empty or not.

    Args:
        prompt: A running sum such as "3+5+2=".
        rng: Source of randomness; advanced.
    """
    work = _work([int(term) for term in prompt.removesuffix("=").split("+")])
    answer = work.rpartition("=")[2]
    body, tail = _draw(BODIES, rng), _draw(TAILS, rng)
    text = body(work, answer, rng) + tail(work, answer, rng)
    return Demonstration(text, ends=body is not _rambling)


def _draw(mixture: dict[Piece, float], rng: random.Random) -> Piece:
    return rng.choices(list(mixture), weights=list(mixture.values()))[0]


def _work(terms: list[int]) -> str:
    """Return the partial sums as keyed into a pocket calculator: "3+5=8+2=10"."""
    work, total = str(terms[0]), terms[0]
    for term in terms[1:]:
        total += term
        work += f"+{term}={total}"
    return work


def _well_formed(work: str, answer: str, rng: random.Random) -> str:
    return f"<think>{work}</think><answer>{answer}</answer>"


def _answer_untagged(work: str, answer: str, rng: random.Random) -> str:
    return f"<think>{work}</think>{answer}"


def _answer_empty(work: str, answer: str, rng: random.Random) -> str:
    return f"<think>{work}</think><answer></answer>"


def _think_missing(work: str, answer: str, rng: random.Random) -> str:
    return f"<answer>{answer}</answer>"


def _think_untagged(work: str, answer: str, rng: random.Random) -> str:
    return f"{work}<answer>{answer}</answer>"


def _think_unclosed(work: str, answer: str, rng: random.Random) -> str:
    return f"<think>{work}<answer>{answer}</answer>"


def _think_abandoned(work: str, answer: str, rng: random.Random) -> str:
    return "<think>" + work[: rng.randint(1, len(work))]


def _rambling(work: str, answer: str, rng: random.Random) -> str:
    enough = MAX_COMPLETION_TOKENS // len(work) + 1
    return "<think>" + f"{work}, wait, " * enough


def _nothing(work: str, answer: str, rng: random.Random) -> str:
    return ""


def _trailing_text(work: str, answer: str, rng: random.Random) -> str:
    return "".join(f" {word}" for word in rng.choices(WORDS, k=rng.randint(1, 4)))


def _second_answer(work: str, answer: str, rng: random.Random) -> str:
    return f"<answer>{answer}</answer>"


# Shares. Body and tail are independent: 0.82 * 0.40 of the completions are well formed. Trailing
# text is likelier than the end token, so that the greedy completion is ill formed as well.
BODIES: dict[Piece, float] = {
    _well_formed: 0.82,
    _answer_untagged: 0.02,
    _answer_empty: 0.02,
    _think_missing: 0.03,
    _think_untagged: 0.03,
    _think_unclosed: 0.03,
    _think_abandoned: 0.02,
    _rambling: 0.03,
}
TAILS: dict[Piece, float] = {_nothing: 0.40, _trailing_text: 0.56, _second_answer: 0.04}
