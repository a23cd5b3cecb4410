"""How far a text is from what an automaton accepts, in linear time."""

import functools
from itertools import chain

from .automaton import Automaton

_REMEMBERED = 20_000  # sets of costs; a policy's texts share nearly all of theirs
_HOPELESS = 1  # the number of the set without a state
Costs = dict[int, int]  # state of the automaton -> the fewest errors with which it is reached


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
        self._forget()

    def of(self, text: str) -> int | None:
        """Return the number for one text, None if it is more than `most`."""
        if len(self._sets) > _REMEMBERED:
            self._forget()
        here, steps = 0, self._steps
        for kind in chain.from_iterable(self.automaton.blocks(text)):
            try:
                here = steps[here][kind]
            except KeyError:
                after = steps[here][kind] = self._number(self._step(self._sets[here], kind))
                here = after
            if here == _HOPELESS:
                return None
        accepting = self.automaton.accepting
        return min((e for state, e in self._sets[here].items() if accepting[state]), default=None)

    def _forget(self) -> None:
        self._sets: list[Costs] = []
        self._numbers: dict[frozenset[tuple[int, int]], int] = {}
        self._steps: list[dict[int, int]] = []  # of each set: class -> the next set, once met
        self._number(self._with_missing({0: 0}))
        self._number({})

    def _number(self, costs: Costs) -> int:
        number = self._numbers.setdefault(frozenset(costs.items()), len(self._sets))
        if number == len(self._sets):
            self._sets.append(costs)
            self._steps.append({})
        return number

    def _step(self, costs: Costs, kind: int) -> Costs:
        """Read a character: as it is, as one too many, or in place of another."""
        reached: Costs = {}
        for state, errors in costs.items():
            _reach(reached, self.automaton.table[state][kind], errors)
            if errors < self.most:
                for after in (state, *self._following[state]):
                    _reach(reached, after, errors + 1)
        reached.pop(self.automaton.dead, None)
        return self._with_missing(reached)

    def _with_missing(self, costs: Costs) -> Costs:
        """Go on by characters that the text leaves out."""
        for errors in range(self.most):
            for state in [state for state, e in costs.items() if e == errors]:
                for after in self._following[state]:
                    _reach(costs, after, errors + 1)
        return costs


def _reach(costs: Costs, state: int, errors: int) -> None:
    costs[state] = min(errors, costs.get(state, errors))


@functools.lru_cache(maxsize=64)
def edits_of(automaton: Automaton, most: int) -> Edits:
    """Return the `Edits` of an automaton; remember them."""
    return Edits(automaton, most)
