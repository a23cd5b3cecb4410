"""Path-star graphs: a task in which one token decides, and every other one follows.

    prompt      07 03 | 12 07 | 12 09 | 09 01 / 12 03 =
    completion  12 07 03

A source (12) has `degree` arms; each is a path of `length` nodes, the source included, and one of
them ends in the goal (03). The prompt lists the edges in random order, then source and goal; the
answer is the path between them. Its first node stands in the prompt. Which arm to take is the one
decision, and only who follows the goal's arm back to the source can know. From then on each node is
the only successor of the one before.

Next-token training finds a shortcut (Clever Hans): shown the right arm, a model learns to walk it,
and is left with a guess, 1 in `degree`, where the arm is chosen. From the goal to the source there
is nothing to choose: each node has one predecessor, so the reversed path can be learned. Hence an
answer may also be planned, which tells a policy that guesses from one that looks:

    completion  03 07 12 = 12 07 03

Source: Bachmann and Nagarajan 2024, The pitfalls of next-token prediction, arXiv:2403.06963.
Deviation: an end token follows the path; commas, which the paper drops as tokens, do not exist; the
planned answer is ours.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from grpo_credit.tiny.task import split_of, split_random
from grpo_credit.tiny.tokenizer import build_word_tokenizer

SYMBOLS = ("|", "/", "=")  # between edges, before source and goal, before the answer
DECISIVE = 1  # place of the decisive token in a forward path; the source is at 0


Row = dict[str, Any]


@dataclass(frozen=True)
class PathStar:
    """The graphs G(degree, length) with labels drawn from `nodes` numbers.

    Args:
        degree: Arms of the source, d; 2 or more.
        length: Nodes of a path, source and goal included, l; 2 or more. With 2 nothing is left to
            find: the choice is the goal, and the prompt names it.
        nodes: Labels to draw from, N; at least d (l - 1) + 1.

    Raises:
        ValueError: If one of them is too small.
    """

    degree: int = 2
    length: int = 3
    nodes: int = 12

    def __post_init__(self) -> None:
        if self.degree < 2:
            raise ValueError(f"degree is {self.degree}, expected 2 or more: arms to choose from")
        if self.length < 2:
            raise ValueError(f"length is {self.length}, expected 2 or more: a source and a goal")
        if self.nodes < self.labels:
            raise ValueError(
                f"nodes is {self.nodes}, expected {self.labels} or more: a source and "
                f"{self.degree} arms of {self.length - 1} nodes"
            )

    @property
    def labels(self) -> int:
        """Nodes of one graph, d (l - 1) + 1."""
        return self.degree * (self.length - 1) + 1

    @property
    def words(self) -> list[str]:
        """All labels; of one width, so that none is the beginning of another."""
        width = len(str(self.nodes - 1))
        return [f"{node:0{width}}" for node in range(self.nodes)]

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer, the planned one: two paths, "=" and the end token."""
        return 2 * self.length + 2

    def build_tokenizer(self) -> PreTrainedTokenizerFast:
        """Build a tokenizer with one id per label and per symbol."""
        return build_word_tokenizer([*self.words, *SYMBOLS])


def problems(star: PathStar, n: int, seed: int, split: str) -> list[Row]:
    """Draw graphs with their paths.

    A graph belongs to one split for good, however its edges are ordered and whichever goal is asked
    for: a hash of the sorted edges decides, and one in five is "test". Draws are with replacement.

    Args:
        star: The family of graphs.
        n: How many.
        seed: Same seed, same graphs.
        split: "train" or "test".

    Returns:
        Rows {"prompt": "07 03 | 12 07 | 12 09 | 09 01 / 12 03 =", "path": "12 07 03"}, and as
        "answers" both that are right: the path, and the path planned.

    Raises:
        ValueError: If the split has another name.
    """
    return list(islice(draws(star, seed, split), n))


def draws(star: PathStar, seed: int, split: str) -> Iterator[Row]:
    """Yield the rows of `problems` one after another, without end."""
    rng, words = split_random(split, seed), star.words
    while True:
        arms = draw_arms(star, words, rng)
        if split_of(" ".join(sorted(f"{a}-{b}" for a, b in _edges(arms)))) == split:
            yield ask_for_path(arms, rng)


def dataset(star: PathStar, n: int, seed: int, split: str) -> Dataset:
    """Return `problems(...)` as a data set."""
    return Dataset.from_list(problems(star, n, seed, split))


def edges_of(prompt: str) -> list[tuple[str, str]]:
    """Return the edges that a prompt lists, in its order."""
    pairs = [edge.split() for edge in prompt.partition("/")[0].split("|")]
    return [(start, end) for start, end in pairs]


def draw_arms(star: PathStar, words: Sequence[str], rng: random.Random) -> list[list[str]]:
    """Draw a graph: the paths from the source to the end of each arm."""
    step = star.length - 1
    source, *others = rng.sample(words, star.labels)
    return [[source, *others[i : i + step]] for i in range(0, len(others), step)]


def _edges(arms: list[list[str]]) -> list[tuple[str, str]]:
    return [edge for arm in arms for edge in pairwise(arm)]


def ask_for_path(arms: list[list[str]], rng: random.Random) -> Row:
    """Ask for the path to the end of one arm; see `problems` for what a row holds."""
    path = rng.choice(arms)
    edges = [f"{start} {end}" for start, end in _edges(arms)]
    rng.shuffle(edges)
    return {
        "prompt": f"{' | '.join(edges)} / {path[0]} {path[-1]} =",
        "path": _direct(path),
        "answers": [_direct(path), _planned(path)],
    }


def _direct(path: list[str]) -> str:
    return " ".join(path)


def _reversed(path: list[str]) -> str:
    """Not an answer to the question, but one that can be learned."""
    return " ".join(path[::-1])


def _planned(path: list[str]) -> str:
    return f"{_reversed(path)} {SYMBOLS[2]} {_direct(path)}"


# How an answer is written.
STYLES: dict[str, Callable[[list[str]], str]] = {
    "direct": _direct,
    "reversed": _reversed,
    "planned": _planned,
}
