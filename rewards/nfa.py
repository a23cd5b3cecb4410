"""The nondeterministic automaton of a regular pattern."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .characters import CODE_POINTS, CharSet
from .patterns import NotRegular, character, members_of, parsed_pattern

NODES = 100_000  # limit
VISITS = 2_000_000  # limit of nodes visited while the deterministic automaton is made
# What the rest of the text may still be, once an end of the text was asserted.
_ANYTHING, _LAST_NEWLINE, _NOTHING = range(3)
State = frozenset[tuple[int, int]]  # nodes, and what may follow each


class TooLarge(ValueError):
    """A pattern whose automaton has more states, or takes more work, than the limit."""


class Nfa:
    """Thompson's automaton: nodes with free edges, or one edge that reads a character.

    Args:
        pattern: in the syntax of the `regex` package.
        flags: as for `regex.compile`.
        search: whether the text need only contain a match.
        backwards: whether the text is read from its end, and a match need only end it: the
            automaton accepts where a match begins.
    """

    def __init__(
        self, pattern: str, flags: int, search: bool = False, *, backwards: bool = False
    ) -> None:
        self._backwards = backwards
        self.sets: list[CharSet] = []
        self._number: dict[bytes, int] = {}
        self._free: list[list[int]] = []
        self._reads: dict[int, tuple[int, int]] = {}  # node -> (set, next node)
        self._asserts: dict[int, tuple[int, int]] = {}  # node -> (what may follow, next node)
        self._at_start: dict[int, int] = {}  # node -> next node, before the first character only
        self._visits = 0
        parsed, self._info = parsed_pattern(pattern, flags)
        everything = self._set(np.array([0, CODE_POINTS]))
        self._end = self._node()
        if search:
            self._reads[self._end] = everything, self._end
        self._start = self._build(parsed, self._end)
        if search or backwards:
            skip = self._node([self._start])
            loop = self._node([skip])
            self._reads[loop] = everything, loop
            self._start = loop

    # building: each returns the node from which `node` is read before `after` is reached

    def _node(self, free: Sequence[int] = ()) -> int:
        if len(self._free) == NODES:
            raise TooLarge(f"the pattern has more than {NODES:,} parts, counted repeats unrolled.")
        self._free.append(list(free))
        return len(self._free) - 1

    def _set(self, members: CharSet) -> int:
        key = members.astype(np.int64).tobytes()
        if key not in self._number:
            self._number[key] = len(self.sets)
            self.sets.append(members)
        return self._number[key]

    def _build(self, node: Any, after: int) -> int:
        kind = type(node).__name__
        build = _BUILDERS.get(kind)
        if build is None or (self._backwards and kind in _ANCHORS):
            raise NotRegular(f"{kind} is not regular{' backwards' * self._backwards}.")
        return build(self, node, after)

    def _sequence(self, node: Any, after: int) -> int:
        for item in node.items if self._backwards else reversed(node.items):
            after = self._build(item, after)
        return after

    def _branch(self, node: Any, after: int) -> int:
        return self._node([self._build(branch, after) for branch in node.branches])

    def _group(self, node: Any, after: int) -> int:
        return self._build(node.subpattern, after)

    def _repeat(self, node: Any, after: int) -> int:
        if node.max_count is None:
            entry = self._node([after])
            self._free[entry].append(self._build(node.subpattern, entry))
        else:
            entry = after
            for _ in range(node.max_count - node.min_count):
                entry = self._node([after, self._build(node.subpattern, entry)])
        for _ in range(node.min_count):
            entry = self._build(node.subpattern, entry)
        return entry

    def _one_of(self, node: Any, after: int) -> int:
        entry = self._node()
        self._reads[entry] = self._set(members_of(node, self._info)), after
        return entry

    def _string(self, node: Any, after: int) -> int:
        for value in node.characters if self._backwards else reversed(node.characters):
            after = self._one_of(character(value, node.case_flags), after)
        return after

    def _start_of_string(self, _: Any, after: int) -> int:
        entry = self._node()
        self._at_start[entry] = after
        return entry

    def _end_of_text(self, node: Any, after: int) -> int:
        entry = self._node()
        last_line = type(node).__name__ == "EndOfStringLine"
        self._asserts[entry] = _LAST_NEWLINE if last_line else _NOTHING, after
        return entry

    # running

    def first(self) -> State:
        """Return the nodes before the first character."""
        return self._closure([(self._start, _ANYTHING)], at_start=True)

    def step(
        self, state: State, kind: int, moves: Sequence[frozenset[int]], newline: bool
    ) -> State:
        """Return the nodes after one more character."""
        self._visit(len(state))
        reached = []
        for node, rest in state:
            if rest == _NOTHING or (rest == _LAST_NEWLINE and not newline):
                continue
            chosen, after = self._reads.get(node, (None, node))
            if chosen is not None and kind in moves[chosen]:
                reached.append((after, _NOTHING if rest else _ANYTHING))
        return self._closure(reached)

    def accepts(self, state: State) -> bool:
        """Return whether the text may end here."""
        return any(node == self._end for node, _ in state)

    def _closure(self, nodes: list[tuple[int, int]], at_start: bool = False) -> State:
        """Follow free edges; keep the nodes that read or end."""
        seen = set(nodes)
        for node, rest in nodes:  # grows
            follow = [(after, rest) for after in self._free[node]]
            if node in self._asserts:
                asserted, after = self._asserts[node]
                follow.append((after, max(rest, asserted)))
            if at_start and node in self._at_start:
                follow.append((self._at_start[node], rest))
            nodes.extend(new for new in follow if new not in seen)
            seen.update(follow)
        self._visit(len(seen))
        return frozenset(n for n in seen if n[0] in self._reads or n[0] == self._end)

    def _visit(self, nodes: int) -> None:
        self._visits += nodes
        if self._visits > VISITS:
            raise TooLarge(f"making the automaton takes more than {VISITS:,} visits to its parts.")


_ANCHORS = ("StartOfString", "EndOfString", "EndOfStringLine")
_BUILDERS: dict[str, Callable[[Nfa, Any, int], int]] = {
    "Sequence": Nfa._sequence,
    "Branch": Nfa._branch,
    "Group": Nfa._group,
    "GreedyRepeat": Nfa._repeat,
    "LazyRepeat": Nfa._repeat,
    "String": Nfa._string,
    "Literal": Nfa._string,
    "StartOfString": Nfa._start_of_string,
    "EndOfString": Nfa._end_of_text,
    "EndOfStringLine": Nfa._end_of_text,
} | dict.fromkeys(
    ("Any", "AnyAll", "Character", "Property", "Range",
     "SetUnion", "SetDiff", "SetInter", "SetSymDiff"),
    Nfa._one_of,
)  # fmt: skip
