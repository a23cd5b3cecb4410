"""A few keys in much filler decide, each for itself."""

import functools
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from grpo_credit.lab.process import END, Moves
from grpo_credit.rewards import Completion, Decided, Spans, TextReward, completion_text


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
        texts = map(completion_text, completions)
        return [
            {"keys": [(p, p + 1) for p in _key_places(prompt) if p < len(text)]}
            for text, prompt in zip(texts, prompts, strict=True)
        ]

    def steps(
        self, completions: Sequence[Completion], prompts: Sequence[str]
    ) -> list[list[tuple[int, float]]]:
        """Pay each key where it stands."""
        texts = map(completion_text, completions)
        return [
            [(p + 1, (text[p] == prompt[p]) / len(places)) for p in places if p < len(text)]
            for text, prompt in zip(texts, prompts, strict=True)
            for places in [_key_places(prompt)]
        ]

    def decided(self, completions: Sequence[Completion], prompts: Sequence[str]) -> list[Decided]:
        """Decide with the last key, or with the end of a text that is too short."""
        pairs = zip(map(completion_text, completions), prompts, strict=True)
        ends = [(len(text), _key_places(prompt)[-1] + 1) for text, prompt in pairs]
        return [Decided(end if end <= length else None) for length, end in ends]


def _key_places(template: str) -> list[int]:
    return [place for place, wanted in enumerate(template) if wanted not in ".:"]
