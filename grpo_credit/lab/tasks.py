"""Tasks whose deciding tokens are known.

* `Keys`: a few keys in much filler decide, each for itself;
* `Format`: a regular format, which a token keeps open, brings nearer, or breaks;
* `Arithmetic`: running sums in which one forgotten carry makes all that follows wrong;
* `PathStar`: one token chooses the arm of a star, all others follow.
"""

import functools
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from grpo_credit.lab.process import END, Moves, Task
from rewards import Decided, RegexReward, completion_text
from rewards.automaton import Automaton
from rewards.contract import Completion, Spans, TextReward


@dataclass(frozen=True)
class Keys:
    """Write filler, and here and there a key that looks like it.

    The prompt is a template: "." stands for filler of which nothing is known, ":" for filler that
    is almost certain, a letter for a place where this letter is right. At such a place the policy
    writes the right letter or one of three others. The reward is the share of right letters.

    Truth: at a key, ([right] - chance) / keys; elsewhere 0. Keys are less certain than one kind of
    filler and more than the other, and any letter may be filler: neither entropy nor the kind of
    token gives them away.

    Args:
        filler: characters of a completion that are no keys.
        keys: places where a letter counts.
        chance: of the right letter there.
    """

    filler: int = 44
    keys: int = 4
    chance: float = 0.5
    name: str = field(default="keys", init=False)
    alphabet: str = field(default=string.ascii_lowercase[:16], init=False)

    @property
    def length(self) -> int:
        """Every character, and the end."""
        return self.filler + self.keys + 1

    @cached_property
    def reward(self) -> TextReward:
        """The share of right letters."""
        return KeyReward(self.name)

    def start(self, rng: random.Random) -> tuple[str, int, int]:
        """Draw a template; nothing is written, nothing right."""
        template = [rng.choice(".:") for _ in range(self.filler)]
        template += [rng.choice(self.alphabet) for _ in range(self.keys)]
        rng.shuffle(template)
        return "".join(template), 0, 0

    def prompt(self, start: tuple[str, int, int]) -> str:
        """Return the template."""
        return start[0]

    def moves(self, state: tuple[str, int, int]) -> Moves:
        """Follow the template."""
        template, place, right = state
        if place == len(template):
            return {END: (1.0, state)}
        chances = _letter_chances(template[place], self.alphabet, self.chance)
        return {
            letter: (chance, (template, place + 1, right + (letter == template[place])))
            for letter, chance in chances
        }

    def value(self, state: tuple[str, int, int]) -> float:
        """Return the share of right letters."""
        return state[2] / self.keys


@functools.cache
def _letter_chances(wanted: str, alphabet: str, chance: float) -> list[tuple[str, float]]:
    if wanted == ".":
        return [(letter, 1 / len(alphabet)) for letter in alphabet]
    if wanted == ":":
        first, *others = alphabet
        return [(first, 0.9), *((letter, 0.1 / len(others)) for letter in others)]
    place = alphabet.index(wanted)
    wrong = [alphabet[(place + shift) % len(alphabet)] for shift in (1, 2, 3)]
    return [(wanted, chance), *((letter, (1 - chance) / 3) for letter in wrong)]


class KeyReward(TextReward):
    """Reward the share of a template's letters that stand in their place; see `Keys`."""

    columns = ("prompts",)

    def score(self, text: str, /, prompts: str) -> float:
        """Score one text."""
        places = _key_places(prompts)
        return sum(text[p : p + 1] == prompts[p] for p in places) / len(places)

    def spans(self, completions: Sequence[Completion], prompts: Sequence[str]) -> list[Spans]:
        """Name the characters that are looked at."""
        return [{"keys": [(p, p + 1) for p in _key_places(prompt)]} for prompt in prompts]

    def steps(
        self, completions: Sequence[Completion], prompts: Sequence[str]
    ) -> list[list[tuple[int, float]]]:
        """Pay each key where it stands."""
        texts = map(completion_text, completions)
        return [
            [(p + 1, (text[p : p + 1] == prompt[p]) / len(places)) for p in places]
            for text, prompt in zip(texts, prompts, strict=True)
            for places in [_key_places(prompt)]
        ]

    def decided(self, completions: Sequence[Completion], prompts: Sequence[str]) -> list[Decided]:
        """Decide with the last key."""
        return [Decided(_key_places(prompt)[-1] + 1) for prompt in prompts]


def _key_places(template: str) -> list[int]:
    return [place for place, wanted in enumerate(template) if wanted not in ".:"]


@dataclass(frozen=True)
class Format:
    r"""Write a regular format, and slip now and then.

    While the format can still be met, the policy writes a token that keeps it so, each equally
    likely, or with a small chance any token; afterwards any token. The reward is 1 if the whole
    completion matches.

    Truth: a slip costs all that was to be had; a token that brings the end nearer helps, as there
    are fewer places left to slip at; one that goes round in a loop changes nothing (but that the
    longest length comes nearer), and so does all that is written after the slip.

    Args:
        pattern: what earns 1.
        alphabet: characters; the pattern needs no others.
        slip: the chance of any token instead.
        length: longest completion in tokens.
    """

    pattern: str = r"<t>[ab]+</t><n>\d+</n>"
    alphabet: str = "<>/tnab0123"
    slip: float = 0.04
    length: int = 60
    name: str = field(default="regex", init=False)

    @cached_property
    def reward(self) -> RegexReward:
        """The pattern, matched in full."""
        return RegexReward(self.pattern, strip=False, name=self.name)

    @cached_property
    def _automaton(self) -> Automaton:
        automaton = self.reward.automaton
        if automaton is None:
            raise ValueError(f"{self.pattern!r} has no automaton; expected a regular pattern.")
        return automaton

    @cached_property
    def _steps(self) -> list[dict[str, int]]:
        """The automaton's states after each character."""
        table, kinds = self._automaton.table, self._automaton.classes.classify(self.alphabet)
        return [
            {c: row[kind] for c, kind in zip(self.alphabet, kinds, strict=True)} for row in table
        ]

    def start(self, rng: random.Random) -> int:
        """Begin where the automaton does; there is but one prompt."""
        return 0

    def prompt(self, start: int) -> str:
        """Say nothing."""
        return ""

    def moves(self, state: int) -> Moves:
        """Keep the format open, or slip."""
        everything = {**self._steps[state], END: state}
        kept = [token for token in everything if self._keeps(state, token)]
        slip = self.slip if kept else 1.0
        chances = dict.fromkeys(everything, slip / len(everything))
        for token in kept:
            chances[token] += (1 - slip) / len(kept)
        return {token: (chances[token], after) for token, after in everything.items()}

    def _keeps(self, state: int, token: str) -> bool:
        if token == END:
            return self._automaton.accepting[state]
        return self._steps[state][token] != self._automaton.dead

    def value(self, state: int) -> float:
        """Return 1 where the automaton accepts."""
        return float(self._automaton.accepting[state])


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
        asked = zip(completions, prompts, strict=True)
        return [self.of(prompt).decided([completion])[0] for completion, prompt in asked]


@dataclass(frozen=True)
class Arithmetic:
    """Add numbers up one by one, and perhaps forget one carry.

    For "17+5+9" the policy writes the running sums, "22,31". Each has two digits; where the tens
    change it may keep the old tens, at most once in a completion ("12,21"). It goes on correctly
    from there. The reward is 1 if the last number is right: it sees no other.

    Truth: the wrong digit costs all that was to be had; a right one in a place where a carry could
    be forgotten helps; the digits after the wrong one are forced by it. Commas and semicolons are
    a matter of taste, and change nothing.

    Args:
        terms: numbers to add, the first of 10 to 19 and the others of 1 to 9; at most 9.
        slip: the chance to forget a carry.
    """

    terms: int = 8
    slip: float = 0.2
    name: str = field(default="arithmetic", init=False)
    alphabet: str = field(default=string.digits + ",;", init=False)

    def __post_init__(self) -> None:
        if not 2 <= self.terms <= 9:
            raise ValueError(f"terms is {self.terms}, expected 2 to 9: sums have two digits.")

    @property
    def length(self) -> int:
        """Two digits and a separator, or the end, for every sum."""
        return 3 * (self.terms - 1)

    @cached_property
    def reward(self) -> PromptRegex:
        """Whether the last number is the sum."""
        return PromptRegex(self.name, lambda prompt: rf"(\d+[,;])*{sum(_terms(prompt))}")

    def start(self, rng: random.Random) -> tuple[str, int, str, bool]:
        """Draw the numbers. A state: what is left to add, the sum, what to write, whether wrong."""
        first, others = rng.randrange(10, 20), [rng.randrange(1, 10) for _ in range(self.terms - 1)]
        return "".join(map(str, others)), first, "", False

    def prompt(self, start: tuple[str, int, str, bool]) -> str:
        """Write the sum."""
        return "+".join([str(start[1]), *start[0]])

    def moves(self, state: tuple[str, int, str, bool]) -> Moves:
        """Write the tens of the next sum, what follows from them, and a separator."""
        left, total, pending, wrong = state
        if pending == ",":
            return dict.fromkeys(",;", (0.5, (left, total, "", wrong)))
        if pending:
            return {pending[0]: (1.0, (left, total, pending[1:], wrong))}
        if not left:
            return {END: (1.0, state)}
        right = total + int(left[0])
        slip = 0.0 if wrong or right // 10 == total // 10 else self.slip
        outcomes = [(1 - slip, right, wrong), (slip, right - 10, True)]
        return {
            str(after // 10): (chance, (left[1:], after, _units(after, left[1:]), now_wrong))
            for chance, after, now_wrong in outcomes
            if chance > 0
        }

    def value(self, state: tuple[str, int, str, bool]) -> float:
        """Return 1 if no carry was forgotten."""
        return float(not state[3])


def _units(total: int, left: str) -> str:
    """Return what the tens entail: the units, and a separator unless it was the last sum."""
    return f"{total % 10}," if left else f"{total % 10}"


def _terms(prompt: str) -> list[int]:
    return [int(term) for term in prompt.split("+")]


@dataclass(frozen=True)
class PathStar:
    """Follow one arm of a star from its centre to the named end.

    A graph of `degree` arms that share the centre; the path has `nodes` nodes, centre and end
    included. The policy is that of next-token training on such paths (it knows how to follow an
    arm, and chooses one blindly): the centre, any of the arms, and then along it. The reward is 1
    for the arm that ends at the goal.

    Truth: the second token decides, [right arm] - 1 / degree; the others are forced.

    Args:
        degree: arms.
        nodes: of a path.

    Source: Bachmann and Nagarajan 2024, The pitfalls of next-token prediction, arXiv:2403.06963.
    """

    degree: int = 4
    nodes: int = 5
    name: str = field(default="path_star", init=False)
    alphabet: str = field(default=string.ascii_letters, init=False)

    def __post_init__(self) -> None:
        needed = 1 + self.degree * (self.nodes - 1)
        if self.degree < 2 or self.nodes < 2 or needed > len(self.alphabet):
            raise ValueError(
                f"{self.degree} arms of {self.nodes} nodes make {needed} nodes; expected at least "
                f"2 arms, 2 nodes, and {len(self.alphabet)} in all."
            )

    @property
    def length(self) -> int:
        """The nodes and the end."""
        return self.nodes + 1

    @cached_property
    def reward(self) -> PromptRegex:
        """Whether the path is the one to the goal."""
        return PromptRegex(self.name, path_to_goal)

    def start(self, rng: random.Random) -> tuple[str, tuple[str, ...], int]:
        """Draw a graph. A state: edges and ends, the arms that are open, the nodes written."""
        centre, *others = rng.sample(self.alphabet, 1 + self.degree * (self.nodes - 1))
        arms = ["".join(others[arm :: self.degree]) for arm in range(self.degree)]
        edges = [f"{a},{b}" for arm in arms for a, b in pairwise(centre + arm)]
        rng.shuffle(edges)
        return f"{'|'.join(edges)}/{centre},{arms[0][-1]}=", tuple(arms), 0

    def prompt(self, start: tuple[str, tuple[str, ...], int]) -> str:
        """Write edges, centre and goal."""
        return start[0]

    def moves(self, state: tuple[str, tuple[str, ...], int]) -> Moves:
        """Write the centre, choose an arm, follow it."""
        graph, arms, written = state
        if written == 0:
            return {graph[-4]: (1.0, (graph, arms, 1))}
        if written == self.nodes:
            return {END: (1.0, state)}
        return {arm[written - 1]: (1 / len(arms), (graph, (arm,), written + 1)) for arm in arms}

    def value(self, state: tuple[str, tuple[str, ...], int]) -> float:
        """Return 1 for the arm that ends at the goal."""
        graph, (arm, *_), _ = state
        return float(arm[-1] == graph[-2])


def path_to_goal(prompt: str) -> str:
    """Walk from the goal back to the start; every node but that has one parent.

    Example:
        >>> path_to_goal("a,b|c,d|a,c|b,e/a,d=")
        'acd'
    """
    edges, ends = prompt.rstrip("=").split("/")
    parent = {pair[2]: pair[0] for pair in edges.split("|")}
    start, node = ends[0], ends[2]
    path = node
    while node != start:
        node = parent[node]
        path = node + path
    return path


TASKS: dict[str, Callable[[], Task]] = {
    task.name: task for task in (Keys, Format, Arithmetic, PathStar)
}
