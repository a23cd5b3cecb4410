"""How far a text is from what an automaton accepts, in linear time."""

import functools
from itertools import chain

from .automaton import Automaton

_REMEMBERED = 20_000  # steps between sets of costs; a policy's texts share nearly all of theirs
Costs = frozenset[tuple[int, int]]  # state of the automaton, fewest errors with which it is reached


class Edits:
    """The fewest characters to insert, delete or replace until an automaton accepts a text.

    What matters of a prefix is which states are reached with how few errors. There are few such
    sets, so each is worked out once: the automaton of the errors, made as it is needed
    (Ukkonen 1985).

    Args:
        automaton: what accepts.
        most: errors beyond which nothing is counted; at least 1.
    """

    def __init__(self, automaton: Automaton, most: int) -> None:
        self.automaton, self.most = automaton, most
        self._following = [sorted({*row} - {automaton.dead}) for row in automaton.table]
        self._after = functools.lru_cache(_REMEMBERED)(self._step)
        self._same = functools.lru_cache(_REMEMBERED)(lambda costs: costs)  # compared by identity
        self._start = self._with_missing({0: 0})

    def of(self, text: str) -> int | None:
        """Return the number for one text, None if it is more than `most`."""
        costs = self._start
        for kind in chain.from_iterable(self.automaton.blocks(text)):
            costs = self._after(costs, kind)
            if not costs:
                return None
        accepting = self.automaton.accepting
        return min((errors for state, errors in costs if accepting[state]), default=None)

    def _step(self, costs: Costs, kind: int) -> Costs:
        """Read a character: as it is, as one too many, or in place of another."""
        reached: dict[int, int] = {}
        for state, errors in costs:
            _reach(reached, self.automaton.table[state][kind], errors)
            if errors < self.most:
                for after in (state, *self._following[state]):
                    _reach(reached, after, errors + 1)
        reached.pop(self.automaton.dead, None)
        return self._with_missing(reached)

    def _with_missing(self, costs: dict[int, int]) -> Costs:
        """Go on by characters that the text leaves out."""
        for errors in range(self.most):
            for state in [state for state, e in costs.items() if e == errors]:
                for after in self._following[state]:
                    _reach(costs, after, errors + 1)
        return self._same(frozenset(costs.items()))


def _reach(costs: dict[int, int], state: int, errors: int) -> None:
    costs[state] = min(errors, costs.get(state, errors))


@functools.lru_cache(maxsize=64)
def edits_of(automaton: Automaton, most: int) -> Edits:
    """Return the `Edits` of an automaton; remember them."""
    return Edits(automaton, most)
