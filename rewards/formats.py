"""Regular expressions as rewards."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import regex

from .blanks import lead, stripped
from .contract import Completion, Decided, Spans, TextReward, texts_of
from .patience import (
    BUDGET,
    at_most,
    brief,
    clock,
    granted,
    in_time,
    ran_out,
    seconds_left,
)

if TYPE_CHECKING:
    from .automaton import Automaton

T = TypeVar("T")


class RegexReward(TextReward):
    r"""Reward a completion that matches a regular expression.

        R = 1 if the pattern matches the completion, else 0
        R = min(n, limit) / limit with n matches, none overlapping           (mode="count")

    `.` does not match a newline unless the pattern says `(?s)`: the commonest reason for a format
    reward that never fires. A pattern that is regular (no look-around, back-reference, atomic or
    possessive part) is also compiled to finite automata. They give the score, in linear time, once
    the matcher was slow on a text of a call, and say where the score was decided.

    Args:
        pattern: in the syntax of the `regex` package.
        mode: `"fullmatch"`: the whole completion is one match; `"search"`: it contains one;
            `"count"`: matches are counted.
        flags: as for `regex.compile`.
        limit: matches that earn the full reward; for `mode="count"` alone.
        timeout: seconds of matching per completion, in processor time of all threads, as the engine
            counts. Where they run out and the pattern is not regular, the completion earns 0;
            `reward/<name>/timeout_rate` is logged, and a warning names the pattern once.
        budget: seconds for all completions of a call together; when they are used up, `SHORT` is
            left for each.
        partial: what a completion earns that does not match, for regular patterns in
            `mode="fullmatch"` alone. `"prefix"`: partial_weight · (1 - d / d₀) · v / n, where its
            first v of n characters could still become a match, and would with d more, d₀ of which
            the shortest match has; `"fuzzy"`: partial_weight · (1 - e / (max_errors + 1)), where
            e characters must be inserted, deleted or replaced to make it match, and 0 for more
            than max_errors.
        partial_weight: more than 0, less than 1.
        max_errors: for `partial="fuzzy"`.
        strip: whether blanks around the completion are ignored: whitespace, and characters without
            a shape such as U+FEFF.
        alphabet: all characters that completions can hold, if they are few and known. `decided` and
            `automaton` are then about such texts alone, so more is settled: `ab[abc]*` is won after
            "ab" where nothing but a, b and c can follow. Empty: any character may come.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number from 0 to 1 per completion; dimensionless.

    Raises:
        ValueError: if the pattern is invalid, with the position and a hint; if it matches nothing
            that is stripped, as one that ends in `\n$`; if an argument is out of range or does not
            go with the mode or the pattern.
        TypeError: if the pattern is no string.

    How it can be hacked: it sees the form alone, so any content in the right form earns 1, and a
    body that may be `.+` may be one blank. In mode `"count"` repeating the same match pays; with
    `partial="prefix"` a completion that is cut off at its last character earns almost
    `partial_weight`.

    Example:
        >>> digits = RegexReward(r"<answer>\d+</answer>", name="digits")
        >>> chat = [{"role": "assistant", "content": "<answer>1</answer>"}]
        >>> digits(["<answer>12</answer>", "12", chat])
        [1.0, 0.0, 1.0]
        >>> digits.decided(["12", "<answer>12</answer>"])
        [Decided(chars=1, exact=True), Decided(chars=None, exact=True)]

    Source: the format reward of DeepSeek-R1, arXiv:2501.12948, section 2.2.2.
    """

    def __init__(
        self,
        pattern: str,
        *,
        mode: Literal["fullmatch", "search", "count"] = "fullmatch",
        flags: int = 0,
        limit: int | None = None,
        timeout: float = 1.0,
        budget: float = BUDGET,
        partial: Literal["prefix", "fuzzy"] | None = None,
        partial_weight: float = 0.5,
        max_errors: int = 3,
        strip: bool = True,
        alphabet: str = "",
        name: str = "regex_format",
    ) -> None:
        super().__init__(name)
        _expect(mode in _MODES, f"mode is {mode!r}, expected one of {', '.join(_MODES)}.")
        _expect(
            partial in (None, *_PARTIAL),
            f"partial is {partial!r}, expected None, {' or '.join(_PARTIAL)}.",
        )
        _expect(
            (limit is not None) == (mode == "count"),
            f"limit is {limit} with mode {mode!r}; it goes with mode 'count', which needs it.",
        )
        _expect(limit is None or limit >= 1, f"limit is {limit}, expected 1 or more.")
        _expect(
            partial is None or mode == "fullmatch",
            f"partial={partial!r} goes with mode 'fullmatch', not {mode!r}.",
        )
        _expect(timeout > 0, f"timeout is {timeout}, expected more than 0 seconds.")
        _expect(budget > 0, f"budget is {budget}, expected more than 0 seconds.")
        _expect(
            0 < partial_weight < 1,
            f"partial_weight is {partial_weight}, expected a number between 0 and 1.",
        )
        _expect(max_errors >= 1, f"max_errors is {max_errors}, expected 1 or more.")
        self.pattern = _compiled(pattern, flags)
        self.mode, self.flags, self.limit, self.timeout = mode, flags, limit, timeout
        self.budget = budget
        self._is_slow = False  # whether the matcher was, in this call
        self.partial, self.partial_weight = partial, partial_weight
        self.max_errors, self.strip, self.alphabet = max_errors, strip, alphabet
        self._refuse_what_cannot_fire()

    def _scores(
        self, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        self._is_slow = False
        return super()._scores(completions, rows)

    def _counts(self, scores: Sequence[float | None], timeouts: int) -> dict[str, int]:
        return {"timeout": timeouts}

    def _refuse_what_cannot_fire(self) -> None:
        """Refuse what an automaton proves; it is made where there is a reason to ask it."""
        _expect(
            not self.partial or self._machine() is not None,
            f"partial={self.partial!r} needs a regular pattern (no look-around, back-reference, "
            "atomic or possessive part) whose automaton is not too large.",
        )
        if not self.strip or not _BLANKS.search(self.pattern.pattern):
            return
        machine = self._machine()
        _expect(
            machine is None
            or machine.remaining[0] is not None
            or self._machine(strip=False).remaining[0] is None,
            f"the pattern {self.pattern.pattern!r} matches nothing that is stripped: it needs "
            "white space at an end, which is taken off first. Pass strip=False, or drop it there.",
        )

    def score(self, text: str) -> float:
        """Score one text; 0 where the time ran out."""
        body = self._stripped(text)
        return self._answer(body, self._score_by_matching, self._score_by_automaton) or 0.0

    def _answer(
        self,
        text: str,
        by_matching: Callable[[str, float], T],
        by_automaton: Callable[[str], T | None],
    ) -> T | None:
        """Ask the matcher; once it was slow in a call, the automaton. None if neither knows."""
        if not self._is_slow:
            patience = brief(text, self.timeout)
            if self.partial:  # what does not match is read by the automaton in any case
                patience /= 3
            try:
                return by_matching(text, patience)
            except TimeoutError:
                self._is_slow = True
        answer = in_time(
            lambda: by_automaton(text), lambda: by_matching(text, granted(self.timeout))
        )
        if answer is None:
            ran_out(self.pattern.pattern)
        return answer

    def _score_by_matching(self, text: str, seconds: float) -> float:
        most = self.limit or 1
        return len(self._matches(text, seconds, most)) / most or self._part(text)

    def _score_by_automaton(self, text: str) -> float | None:
        if self.mode == "count":
            matches = self._matches_by_starts(text, self.limit or 1)
            return None if matches is None else len(matches) / (self.limit or 1)
        machine = self._machine()
        return machine and (1.0 if machine.accepts(text) else self._part(text))

    def _part(self, text: str) -> float:
        return self.partial_weight * _PARTIAL[self.partial](self, text) if self.partial else 0.0

    def _progress(self, text: str) -> float:
        machine = self._machine()
        chars, state = machine.alive(text)
        whole, left = machine.remaining[0], machine.remaining[state]
        if not chars or not whole or left is None:
            return 0.0
        return max(0.0, 1 - left / whole) * chars / len(text)

    def _nearness(self, text: str) -> float:
        from .edits import edits_of

        errors = edits_of(self._machine(), self.max_errors).of(text)
        return 0.0 if errors is None else 1 - errors / (self.max_errors + 1)

    # ---- matching -----------------------------------------------------------------------------

    def _matches(self, text: str, seconds: float, most: int | None = None) -> list[Any]:
        """Find matches with the engine.

        Raises:
            TimeoutError: if it takes longer.
        """
        if self.mode == "count":
            matches = self.pattern.finditer(text, timeout=seconds, concurrent=True)
            return list(islice(matches, most))
        match = getattr(self.pattern, self.mode)(text, timeout=seconds, concurrent=True)
        return [match] if match else []

    def _matches_by_starts(self, text: str, most: int | None) -> list[Any] | None:
        """Find the same, and look only where one begins; None if nobody knows where."""
        from .automaton import automaton_of

        machine = automaton_of(self.pattern.pattern, self.flags, backwards=True)
        if machine is None or machine.accepting[0]:  # what may be empty begins everywhere
            return None
        return list(islice(self._found_at(text, machine.starts(text)), most))

    def _found_at(self, text: str, starts: Sequence[int]) -> Iterator[Any]:
        deadline, after = clock() + granted(self.timeout), 0
        while (place := bisect_left(starts, after)) < len(starts):
            seconds = seconds_left(deadline)
            match = self.pattern.match(text, starts[place], timeout=seconds, concurrent=True)
            yield match
            after = match.end()

    def _matches_by_automaton(self, text: str) -> list[Any] | None:
        if self.mode != "fullmatch":
            return self._matches_by_starts(text, None if self.mode == "count" else 1)
        machine = self._machine()
        return [] if machine is not None and not machine.accepts(text) else None

    # ---- where it was decided -----------------------------------------------------------------

    @property
    def automaton(self) -> "Automaton | None":
        """The automaton whose acceptance is the score.

        None where the pattern is not regular or its automaton too large, and where the score is
        not acceptance: in mode `"count"` and with partial credit.
        """
        return self._machine(self.alphabet) if self._is_acceptance else None

    @property
    def _is_acceptance(self) -> bool:
        return self.mode != "count" and not self.partial

    def _machine(self, alphabet: str = "", strip: bool | None = None) -> Any:
        from .automaton import automaton_of

        return automaton_of(
            self.pattern.pattern,
            self.flags,
            search=self.mode != "fullmatch",
            strip=self.strip if strip is None else strip,
            alphabet=alphabet,
        )

    def decided(self, completions: Sequence[Completion]) -> list[Decided]:
        """Say after how many characters each score was settled, whatever follows.

        Exact for regular patterns. For others an upper bound by partial matching, which takes some
        prefixes for viable that are not, and sees only scores that settle at 0. In mode `"count"`
        and with partial credit the score may change up to the end.

        Raises:
            ValueError: if a completion holds a character that is not in `alphabet`.
        """
        texts = texts_of(self, completions)
        if not self._is_acceptance:
            return [Decided(None, exact=False) for _ in texts]
        automaton = self.automaton
        if automaton is not None:
            return [Decided(automaton.settled(text)) for text in texts]
        with at_most(self.budget):
            return [self._decided_by_matching(text) for text in texts]

    def _decided_by_matching(self, text: str) -> Decided:
        before = lead(text) if self.strip else 0
        try:
            dead = self._dead_after(text[before:], clock() + granted(self.timeout))
        except TimeoutError:
            ran_out(self.pattern.pattern)
            dead = None
        return Decided(None if dead is None else before + dead, exact=False)

    def _dead_after(self, text: str, deadline: float) -> int | None:
        """Return how many characters it takes until no continuation matches, None if never."""
        low, high = 0, len(text) + 1  # viable up to low, dead from high on
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._viable(text[:middle], deadline) else (low, middle)
        return high if high <= len(text) else None

    def _viable(self, prefix: str, deadline: float) -> bool:
        match = self.pattern.search if self.mode == "search" else self.pattern.fullmatch
        if match(prefix, partial=True, timeout=seconds_left(deadline), concurrent=True):
            return True
        bare = stripped(f".{prefix}")[1:]  # what follows may be blank, too
        return self.strip and bool(match(bare, timeout=seconds_left(deadline), concurrent=True))

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return the characters of the match (`"match"`) and of each capture group, by its name.

        Groups without a name are called "1", "2", ... A completion that does not match, or not in
        time, has none.
        """
        self._is_slow = False
        with at_most(self.budget):
            return [self._spans(text) for text in texts_of(self, completions)]

    def _spans(self, text: str) -> Spans:
        body = self._stripped(text)
        matches = self._answer(body, self._matches, self._matches_by_automaton)
        before = lead(text) if self.strip and matches else 0
        names = {0: "match", **{group: name for name, group in self.pattern.groupindex.items()}}
        spans: Spans = {}
        for group in range(self.pattern.groups + 1):
            each = (span for match in matches or () for span in match.spans(group))
            if places := [(before + start, before + end) for start, end in each]:
                spans.setdefault(names.get(group, str(group)), []).extend(places)
        return spans

    def _stripped(self, text: str) -> str:
        return stripped(text) if self.strip else text

    def __repr__(self) -> str:
        return f"RegexReward({self.pattern.pattern!r}, mode={self.mode!r}, name={self.__name__!r})"


_MODES = ("fullmatch", "search", "count")
_PARTIAL: dict[str, Callable[[RegexReward, str], float]] = {
    "prefix": RegexReward._progress,
    "fuzzy": RegexReward._nearness,
}
_BLANKS = regex.compile(r"\s|\\[srntfvhRxuUpN]|\[:")  # ways to write white space in a pattern
_HINTS = {
    "missing )": "a group is not closed; write \\( for a parenthesis of the text",
    "unbalanced parenthesis": "a group is closed that was not opened; write \\) for the text's own",
    "nothing to repeat": "*, + and ? repeat what stands before; write \\*, \\+, \\? for the text's",
    "multiple repeat": "two repeats in a row; put the first into a group",
    "unterminated character set": "a set is not closed; write \\[ for a bracket of the text",
    "bad escape": "write \\\\ for a backslash of the text, and use r'...' for patterns",
}


def _expect(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)


def _compiled(pattern: str, flags: int) -> Any:
    if not isinstance(pattern, str):
        raise TypeError(
            f"pattern is {pattern!r:.80}, expected a string (str), as completions are; give the "
            "pattern's source as r'...'."
        )
    try:
        compiled = regex.compile(pattern, flags)
    except regex.error as error:
        where, pointer = "", ""
        if error.pos is not None:
            where = f" at position {error.pos}"
            pointer = f"\n  {pattern}\n  {' ' * error.pos}^"
        hint = next((f"; {text}" for key, text in _HINTS.items() if key in error.msg), "")
        raise ValueError(f"invalid pattern: {error.msg}{where}{hint}.{pointer}") from None
    _expect(
        not compiled.flags & regex.REVERSE,
        "the pattern searches backwards, (?r), but completions are written forwards; drop it.",
    )
    _expect(
        "match" not in compiled.groupindex,
        "a group is called 'match', which names the whole match among the spans; rename the group.",
    )
    return compiled
