"""The finite automaton of a regular pattern: what a prefix has settled, and what is remembered.

The pattern is read by the `regex` package's own parser and its character sets are taken from its
own matcher, so that the automaton means what the engine means that scores. The construction is ours
and not a library's (outlines-core, interegular, greenery) for three reasons: those determinise
without a limit, so that a pattern such as `(?s).*a.{30}` takes all the memory there is; they speak
other dialects; and they know no lone surrogates, which model output may hold.
"""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from .characters import NEWLINE, CharClasses, blank
from .nfa import Nfa, TooLarge
from .patterns import NotRegular

STATES = 20_000  # limit of a deterministic automaton
_BLOCK = 512  # characters that are read at once, before it is asked whether more matter


@dataclass(frozen=True, eq=False)
class Automaton:
    """A complete, minimal, deterministic automaton; state 0 is the start.

    Args:
        classes: what characters are told apart.
        table: `table[state][class]` is the next state.
        accepting: whether the text so far matches.
        dead: the state from which nothing matches, whatever follows, or None.
        sure: the state from which everything matches, whatever follows, or None.

    Example:
        >>> from rewards import RegexReward
        >>> automaton = RegexReward("ab*").automaton
        >>> automaton.trace("abc")[-1] == automaton.dead
        True
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
        for state in (states := [start]):
            row = []
            for kind in range(classes.count):
                after = step(state, kind)
                if after not in number:
                    if len(number) == limit:
                        raise TooLarge(f"the automaton has more than {limit:,} states.")
                    number[after] = len(number)
                    states.append(after)
                row.append(number[after])
            table.append(row)
        table, accepting = _minimised(table, [accepts(state) for state in states])
        still = [state for state, row in enumerate(table) if set(row) == {state}]
        dead = next((state for state in still if not accepting[state]), None)
        sure = next((state for state in still if accepting[state]), None)
        return cls(classes, table, accepting, dead, sure)

    @classmethod
    def of_pattern(
        cls,
        pattern: str,
        flags: int = 0,
        *,
        search: bool = False,
        strip: bool = True,
        backwards: bool = False,
    ) -> "Automaton":
        r"""Build the automaton of a pattern.

        Args:
            pattern: in the syntax of the `regex` package.
            flags: as for `regex.compile`.
            search: whether the text need only contain a match.
            strip: whether blanks around the text (`rewards.blanks`) are ignored.
            backwards: whether it reads texts from their end, and accepts wherever a match begins;
                it goes with neither of the others.

        Raises:
            NotRegular: naming what is not regular: look-around, back-references, ...
            TooLarge: if the automaton has too many states or takes too much work.

        Example:
            >>> digits = Automaton.of_pattern(r"\d+,x*")
            >>> digits.accepts("12,xx"), digits.settled("12,ab"), digits.settled("12,x")
            (True, 4, None)
        """
        nfa = Nfa(pattern, flags, search, backwards=backwards)
        classes, inside = CharClasses.of([*nfa.sets, NEWLINE, blank()])
        *moves, newline, around = inside
        plain = cls.explore(
            classes,
            nfa.first(),
            lambda state, kind: nfa.step(state, kind, moves, kind in newline),
            nfa.accepts,
        )
        return plain._stripping(around) if strip else plain

    def _stripping(self, blank: frozenset[int]) -> "Automaton":
        """Ignore blanks around the text.

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

    def within(self, alphabet: str) -> "Automaton":
        """Return the automaton of the texts that hold these characters alone.

        More may be settled in it: `ab[abc]*` is sure after "ab" where only a, b and c are written.
        """
        classes, old_kind = self.classes.only(alphabet)
        return Automaton.explore(
            classes,
            0,
            lambda state, kind: self.table[state][old_kind[kind]],
            self.accepting.__getitem__,
        )

    @functools.cached_property
    def fingerprint(self) -> int:
        """A number that tells automata apart, the same in every process."""
        about = repr((self.table, self.accepting)).encode()
        parts = [about, self.classes.boundaries.tobytes(), self.classes.class_of.tobytes()]
        return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=7).digest())

    def trace(self, text: str) -> list[int]:
        """Return the state before the first character and after each, in one sweep."""
        state, table = 0, self.table
        return [0, *[state := table[state][kind] for kind in self.classes.kinds(text)]]

    def traces(self, texts: Sequence[str]) -> np.ndarray:
        """Return `trace` of many texts, read side by side: (texts, longest + 1).

        After the end of a text its last state goes on.
        """
        width = self._steps.shape[1]
        lengths = np.array([len(text) for text in texts])
        places = np.arange(lengths.max(initial=0)) < lengths[:, None]
        kinds = np.full(places.shape[::-1], width - 1, dtype=np.int32)
        kinds.T[places] = self.classes.classify("".join(texts))
        states = np.zeros((len(kinds) + 1, len(texts)), dtype=np.int32)  # times width
        steps = self._steps.ravel()
        for place, column in enumerate(kinds):
            column += states[place]
            steps.take(column, out=states[place + 1], mode="clip")
        return states.T // width

    @functools.cached_property
    def _steps(self) -> np.ndarray:
        """The table, and a class more that changes nothing; each state times its width."""
        table = np.column_stack([np.array(self.table), np.arange(len(self.table))])
        return (table * table.shape[1]).astype(np.int32)

    @functools.cached_property
    def remaining(self) -> list[int | None]:
        """The fewest characters from each state to acceptance; None from a dead one."""
        before: list[set[int]] = [set() for _ in self.table]
        for state, row in enumerate(self.table):
            for after in row:
                before[after].add(state)
        fewest: list[int | None] = [0 if accepts else None for accepts in self.accepting]
        for state in (queue := [state for state, accepts in enumerate(self.accepting) if accepts]):
            for earlier in before[state]:
                if fewest[earlier] is None:
                    fewest[earlier] = (fewest[state] or 0) + 1
                    queue.append(earlier)
        return fewest

    def alive(self, text: str) -> tuple[int, int]:
        """Return how many first characters of a text can still become right, and the state then."""
        chars, state, kinds = self._before(text, {self.dead})
        for kind in kinds:
            after = self.table[state][kind]
            if after == self.dead:
                break
            chars, state = chars + 1, after
        return chars, state

    def starts(self, text: str) -> list[int]:
        """Return where in a text matches begin, of an automaton that reads backwards."""
        accepted = map(self.accepting.__getitem__, self.trace(text[::-1]))
        return list(compress(range(len(text), -1, -1), accepted))[::-1]

    def accepts(self, text: str) -> bool:
        """Return whether the text matches."""
        _, state, kinds = self._before(text, {self.dead, self.sure})
        return self.accepting[self._after(state, kinds)]

    def settled(self, text: str) -> int | None:
        """Return after how many characters nothing can change any more, None if never."""
        ends = {self.dead, self.sure}
        if 0 in ends:
            return 0
        chars, state, kinds = self._before(text, ends)
        for place, kind in enumerate(kinds):
            state = self.table[state][kind]
            if state in ends:
                return chars + place + 1
        return None

    def _before(self, text: str, ends: Collection[int | None]) -> tuple[int, int, Sequence[int]]:
        """Read until a block of characters leads into one of some states, which are never left.

        Returns:
            How many characters come before that block, the state after them, and the classes of its
            own; at the end of the text there are none.
        """
        chars = state = 0
        for kinds in self.blocks(text):
            before, state = state, self._after(state, kinds)
            if state in ends:
                return chars, before, kinds
            chars += len(kinds)
        return chars, state, ()

    def blocks(self, text: str) -> Iterator[Sequence[int]]:
        """Yield the classes of some characters at a time, as they are asked for."""
        for start in range(0, len(text), _BLOCK):
            yield self.classes.kinds(text[start : start + _BLOCK])

    def _after(self, state: int, kinds: Sequence[int]) -> int:
        table = self.table
        for kind in kinds:
            state = table[state][kind]
        return state


@functools.lru_cache(maxsize=256)
def automaton_of(
    pattern: str,
    flags: int,
    *,
    search: bool = False,
    strip: bool = False,
    backwards: bool = False,
    alphabet: str = "",
) -> Automaton | None:
    r"""Return what `Automaton.of_pattern` does, None if it has none to give; remember both.

    With an alphabet, `within` it.

    Example:
        >>> automaton_of("(a)x*", 0, search=False, strip=True).accepts("axx")
        True
        >>> automaton_of(r"(a)\1", 0, search=False, strip=True) is None
        True
    """
    try:
        whole = Automaton.of_pattern(
            pattern, flags, search=search, strip=strip, backwards=backwards
        )
    except (NotRegular, TooLarge):
        return None
    return whole.within(alphabet) if alphabet else whole


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
    for number in (in_order := [block_of[0]]):
        row = [block_of[after] for after in table[next(iter(blocks[number]))]]
        for after in row:
            if after not in order:
                order[after] = len(order)
                in_order.append(after)
        merged.append([order[after] for after in row])
    return merged, [accepting[next(iter(blocks[number]))] for number in in_order]
