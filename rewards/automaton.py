"""The finite automaton of a regular pattern: what a prefix has settled, and what is remembered.

The pattern is read by the `regex` package's own parser and its character sets are taken from its
own matcher, so that the automaton means what the engine means that scores. The construction is ours
and not a library's (outlines-core, interegular, greenery) for three reasons: those determinise
without a limit, so that a pattern such as `(?s).*a.{30}` takes all the memory there is; they speak
other dialects; and they know no lone surrogates, which model output may hold.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from regex import _regex_core as _untyped

_regex_core: Any = _untyped  # private: the engine's own parser
_regex: Any = _regex_core._regex  # and its matcher

STATES = 20_000  # limit of a deterministic automaton
NODES = 100_000  # limit of the nondeterministic one it is made from
VISITS = 2_000_000  # limit of its nodes visited while the deterministic one is made
CODE_POINTS = 0x110000
CharSet = np.ndarray  # sorted code points at which membership changes; outside at first


class TooLarge(ValueError):
    """A pattern whose automaton has more states, or takes more work, than the limit."""


class NotRegular(ValueError):
    """A pattern with something that no finite automaton of this kind can express."""


@dataclass(frozen=True, eq=False)
class CharClasses:
    """A partition of all code points, lone surrogates included.

    Args:
        boundaries: where a new segment of code points begins; the first is 0.
        class_of: the class of each segment.
    """

    boundaries: np.ndarray
    class_of: np.ndarray

    @classmethod
    def of(cls, sets: Sequence[CharSet]) -> "tuple[CharClasses, list[frozenset[int]]]":
        """Find the coarsest partition that tells the sets apart, and the classes of each set."""
        boundaries = np.unique(np.concatenate([np.array([0]), *sets]))
        boundaries = boundaries[boundaries < CODE_POINTS]
        member = np.array([_contains(s, boundaries) for s in sets]).reshape(len(sets), -1)
        columns, class_of = np.unique(member, axis=1, return_inverse=True)
        inside = [frozenset(np.flatnonzero(row).tolist()) for row in columns]
        return cls(boundaries, class_of.reshape(-1)), inside

    @property
    def count(self) -> int:
        """The number of classes."""
        return int(self.class_of.max()) + 1

    def classify(self, text: str) -> list[int]:
        """Return the class of each character."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        places = np.searchsorted(self.boundaries, codes, side="right") - 1
        return self.class_of[places].tolist()


@dataclass(frozen=True, eq=False)
class Automaton:
    """A complete, minimal, deterministic automaton; state 0 is the start.

    Args:
        classes: what characters are told apart.
        table: `table[state][class]` is the next state.
        accepting: whether the text so far matches.
        dead: the state from which nothing matches, whatever follows, or None.
        sure: the state from which everything matches, whatever follows, or None.
    """

    classes: CharClasses
    table: list[list[int]]
    accepting: list[bool]
    dead: int | None
    sure: int | None

    @classmethod
    def explore(
        cls,
        classes: CharClasses,
        start: Hashable,
        step: Callable[[Any, int], Hashable],
        accepts: Callable[[Any], bool],
        limit: int = STATES,
    ) -> "Automaton":
        """Build an automaton from a description of its states, and minimise it.

        Args:
            classes: what characters are told apart.
            start: the first state; any hashable thing.
            step: the state after a state and a character class.
            accepts: whether a text that ends in a state matches.
            limit: on the number of states.

        Raises:
            TooLarge: if there are more states than the limit.
        """
        number, table = {start: 0}, []
        for state in (found := [start]):
            row = []
            for kind in range(classes.count):
                after = step(state, kind)
                if after not in number:
                    if len(number) == limit:
                        raise TooLarge(f"the automaton has more than {limit:,} states.")
                    number[after] = len(number)
                    found.append(after)
                row.append(number[after])
            table.append(row)
        table, accepting = _minimised(table, [accepts(state) for state in found])
        still = [state for state, row in enumerate(table) if set(row) == {state}]
        dead = next((state for state in still if not accepting[state]), None)
        sure = next((state for state in still if accepting[state]), None)
        return cls(classes, table, accepting, dead, sure)

    @classmethod
    def of_pattern(
        cls, pattern: str, flags: int = 0, *, search: bool = False, strip: bool = True
    ) -> "Automaton":
        r"""Build the automaton of a pattern.

        Args:
            pattern: in the syntax of the `regex` package.
            flags: as for `regex.compile`.
            search: whether the text need only contain a match.
            strip: whether whitespace around the text is ignored.

        Raises:
            NotRegular: naming what is not regular: look-around, back-references, ...
            TooLarge: if the automaton has too many states or takes too much work.

        Example:
            >>> digits = Automaton.of_pattern(r"\d+,x*")
            >>> digits.accepts("12,xx"), digits.settled("12,ab"), digits.settled("12,x")
            (True, 4, None)
        """
        nfa = _Nfa(pattern, flags, search)
        sets = [*nfa.sets, _NEWLINE, _whitespace()]
        classes, inside = CharClasses.of(sets)
        *moves, newline, blank = inside
        plain = cls.explore(
            classes,
            nfa.first(),
            lambda state, kind: nfa.step(state, kind, moves, kind in newline),
            nfa.accepts,
        )
        return plain._stripping(blank) if strip else plain

    def _stripping(self, blank: frozenset[int]) -> "Automaton":
        """Ignore whitespace around the text.

        A state is None before the first other character; then whether the text matched after the
        last one that was not blank, and the state now.
        """

        def step(state: tuple[bool, int] | None, kind: int) -> tuple[bool, int] | None:
            matched, now = state or (False, 0)
            after = self.table[now][kind]
            if kind not in blank:
                return self.accepting[after], after
            return state and (matched, after)

        return Automaton.explore(
            self.classes, None, step, lambda state: state[0] if state else self.accepting[0]
        )

    def trace(self, text: str) -> list[int]:
        """Return the state before the first character and after each, in one sweep."""
        states, table = [0], self.table
        state = 0
        for kind in self.classes.classify(text):
            state = table[state][kind]
            states.append(state)
        return states

    def accepts(self, text: str) -> bool:
        """Return whether the text matches."""
        state, table = 0, self.table
        for kind in self.classes.classify(text):
            state = table[state][kind]
        return self.accepting[state]

    def settled(self, text: str) -> int | None:
        """Return after how many characters nothing can change any more, None if never."""
        ends = {self.dead, self.sure}
        if 0 in ends:
            return 0
        state, table = 0, self.table
        for place, kind in enumerate(self.classes.classify(text), 1):
            state = table[state][kind]
            if state in ends:
                return place
        return None


@functools.lru_cache(maxsize=256)
def automaton_of(pattern: str, flags: int, *, search: bool, strip: bool) -> Automaton | None:
    r"""Return what `Automaton.of_pattern` does, None if it has none to give; remember both.

    Example:
        >>> automaton_of("(a)x*", 0, search=False, strip=True).accepts("axx")
        True
        >>> automaton_of(r"(a)\1", 0, search=False, strip=True) is None
        True
    """
    try:
        return Automaton.of_pattern(pattern, flags, search=search, strip=strip)
    except (NotRegular, TooLarge):
        return None


def _minimised(table: list[list[int]], accepting: list[bool]) -> tuple[list[list[int]], list[bool]]:
    """Merge states that no text tells apart (Hopcroft), and number them from the start on."""
    before: list[dict[int, list[int]]] = [defaultdict(list) for _ in table[0]]
    for state, row in enumerate(table):
        for kind, after in enumerate(row):
            before[kind][after].append(state)
    halves = [{s for s, yes in enumerate(accepting) if yes == want} for want in (True, False)]
    blocks = [block for block in halves if block]
    block_of = {state: number for number, block in enumerate(blocks) for state in block}
    waiting = set(range(len(blocks)))
    while waiting:
        splitter = list(blocks[waiting.pop()])
        for sources in before:
            reached = [s for after in splitter for s in sources.get(after, ())]
            hit: dict[int, set[int]] = defaultdict(set)
            for state in reached:
                hit[block_of[state]].add(state)
            for number, part in hit.items():
                if len(part) == len(blocks[number]):
                    continue
                blocks[number] -= part
                small = part
                if number not in waiting and len(part) > len(blocks[number]):
                    blocks[number], small = part, blocks[number]
                blocks.append(small)
                block_of.update(dict.fromkeys(small, len(blocks) - 1))
                waiting.add(len(blocks) - 1)
    order = {block_of[0]: 0}
    merged: list[list[int]] = []
    for number in (found := [block_of[0]]):
        row = [block_of[after] for after in table[next(iter(blocks[number]))]]
        for after in row:
            if after not in order:
                order[after] = len(order)
                found.append(after)
        merged.append([order[after] for after in row])
    return merged, [accepting[next(iter(blocks[number]))] for number in found]


# ---- from a pattern to a nondeterministic automaton -------------------------------------------

_NEWLINE: CharSet = np.array([10, 11])
# What the rest of the text may still be, once an end of the text was asserted.
_ANYTHING, _LAST_NEWLINE, _NOTHING = range(3)
State = frozenset[tuple[int, int]]  # nodes, and what may follow each


class _Nfa:
    """Thompson's automaton: nodes with free edges, or one edge that reads a character."""

    def __init__(self, pattern: str, flags: int, search: bool) -> None:
        self.sets: list[CharSet] = []
        self._number: dict[bytes, int] = {}
        self._free: list[list[int]] = []
        self._reads: dict[int, tuple[int, int]] = {}  # node -> (set, next node)
        self._asserts: dict[int, tuple[int, int]] = {}  # node -> (what may follow, next node)
        self._at_start: dict[int, int] = {}  # node -> next node, before the first character only
        self._visits = 0
        parsed, self._info = _parsed(pattern, flags)
        everything = self._set(np.array([0, CODE_POINTS]))
        self._end = self._node()
        if search:
            self._reads[self._end] = everything, self._end
        self._start = self._build(parsed, self._end)
        if search:
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
        build = _BUILDERS.get(type(node).__name__)
        if build is None:
            raise NotRegular(f"{type(node).__name__} is not regular.")
        return build(self, node, after)

    def _sequence(self, node: Any, after: int) -> int:
        for item in reversed(node.items):
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
        self._reads[entry] = self._set(_members(node, self._info)), after
        return entry

    def _string(self, node: Any, after: int) -> int:
        for value in reversed(node.characters):
            one = _regex_core.Character(value, case_flags=node.case_flags)
            after = self._one_of(one, after)
        return after

    def _start_of_string(self, _: Any, after: int) -> int:
        entry = self._node()
        self._at_start[entry] = after
        return entry

    def _end_of_string(self, _: Any, after: int) -> int:
        entry = self._node()
        self._asserts[entry] = _NOTHING, after
        return entry

    def _end_of_last_line(self, _: Any, after: int) -> int:
        entry = self._node()
        self._asserts[entry] = _LAST_NEWLINE, after
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


_BUILDERS: dict[str, Callable[[_Nfa, Any, int], int]] = {
    "Sequence": _Nfa._sequence,
    "Branch": _Nfa._branch,
    "Group": _Nfa._group,
    "GreedyRepeat": _Nfa._repeat,
    "LazyRepeat": _Nfa._repeat,
    "String": _Nfa._string,
    "Literal": _Nfa._string,
    "StartOfString": _Nfa._start_of_string,
    "EndOfString": _Nfa._end_of_string,
    "EndOfStringLine": _Nfa._end_of_last_line,
} | dict.fromkeys(
    ("Any", "AnyAll", "Character", "Property", "Range",
     "SetUnion", "SetDiff", "SetInter", "SetSymDiff"),
    _Nfa._one_of,
)  # fmt: skip


def _parsed(pattern: str, flags: int) -> tuple[Any, Any]:
    """Parse as `regex.compile` does: again from the start where a flag turns up on the way."""
    regex.compile(pattern, flags)  # its errors name the position
    while True:
        source = _regex_core.Source(pattern)
        info = _regex_core.Info(flags, source.char_type, {})
        info.guess_encoding = _regex_core.UNICODE
        source.ignore_space = bool(info.flags & regex.VERBOSE)
        try:
            parsed = _regex_core._parse_pattern(source, info)
        except _regex_core._UnscopedFlagSet:
            flags = info.global_flags
            continue
        if not info.flags & (regex.ASCII | regex.LOCALE | regex.UNICODE):
            info.flags |= regex.UNICODE
        for flag, named in _OTHER_FLAGS.items():
            if info.flags & flag:
                raise NotRegular(f"the flag {named} is not regular.")
        return parsed, info


_OTHER_FLAGS = {
    regex.REVERSE: "REVERSE",
    regex.LOCALE: "LOCALE",
    regex.BESTMATCH: "BESTMATCH",
    regex.ENHANCEMATCH: "ENHANCEMATCH",
    regex.WORD: "WORD",
}


def _members(leaf: Any, info: Any) -> CharSet:
    """Return the characters that one-character node matches, by asking the engine itself."""
    case = getattr(leaf, "case_flags", 0)
    if (case & _regex_core.FULLIGNORECASE) == _regex_core.FULLIGNORECASE:
        raise NotRegular("full case-folding is not regular.")
    if type(leaf) is _regex_core.Character and leaf.positive and not case & regex.IGNORECASE:
        return np.array([leaf.value, leaf.value + 1])
    run = _regex_core.GreedyRepeat(leaf.optimise(info, False), 1, None)
    code = [*run.compile(False, False), (_regex_core.OP.SUCCESS,)]
    return _runs(tuple(_regex_core._flatten_code(code)), info.flags)


@functools.lru_cache(maxsize=1024)
def _runs(code: tuple[int, ...], flags: int) -> CharSet:
    """Run compiled code over every code point, and note where its matches begin and end."""
    version = (flags & _regex_core._ALL_VERSIONS) or regex.DEFAULT_VERSION
    engine = _regex.compile("", flags | version, list(code), {}, {}, {}, [], -1, (), 0, 0)
    spans = [match.span() for match in engine.finditer(_every_character())]
    return np.array(spans, dtype=np.int64).reshape(-1)


@functools.cache
def _every_character() -> str:
    return "".join(map(chr, range(CODE_POINTS)))


@functools.cache
def _whitespace() -> CharSet:
    """Return what `str.strip` strips."""
    blank = np.array([chr(code).isspace() for code in range(0x3002)])  # none lies beyond
    return np.flatnonzero(np.diff(blank.astype(np.int8), prepend=0))


def _contains(members: CharSet, codes: np.ndarray) -> np.ndarray:
    return np.searchsorted(members, codes, side="right") % 2 == 1
