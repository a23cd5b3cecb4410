"""Running sums in which one forgotten carry makes all that follows wrong."""

import random
import string
from dataclasses import dataclass, field
from functools import cached_property

from grpo_credit.lab.process import END, Moves
from grpo_credit.lab.tasks.prompt_regex import PromptRegex


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
