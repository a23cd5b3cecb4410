"""A regular format, which a token keeps open, brings nearer, or breaks."""

import random
from dataclasses import dataclass
from functools import cached_property

from grpo_credit.lab.process import END, Moves
from grpo_credit.rewards import Automaton, RegexReward


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
        name: of the task.
    """

    pattern: str = r"<t>[ab]+</t><n>\d+</n>"
    alphabet: str = "<>/tnab0123"
    slip: float = 0.04
    length: int = 60
    name: str = "regex"

    @cached_property
    def reward(self) -> RegexReward:
        """The pattern, matched in full."""
        return RegexReward(self.pattern, strip=False, alphabet=self.alphabet, name=self.name)

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
        keeping = [token for token in everything if self._keeps(state, token)]
        slip = self.slip if keeping else 1.0
        chances = dict.fromkeys(everything, slip / len(everything))
        for token in keeping:
            chances[token] += (1 - slip) / len(keeping)
        return {token: (chances[token], after) for token, after in everything.items()}

    def _keeps(self, state: int, token: str) -> bool:
        if token == END:
            return self._automaton.accepting[state]
        return self._steps[state][token] != self._automaton.dead

    def value(self, state: int) -> float:
        """Return 1 where the automaton accepts."""
        return float(self._automaton.accepting[state])
