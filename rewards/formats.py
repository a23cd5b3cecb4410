"""Regular expressions as rewards."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import regex

from .contract import (
    Completion,
    Decided,
    LogExtra,
    LogMetric,
    Spans,
    TextReward,
    completion_text,
)
from .patience import BUDGET, SHORT, at_most, clock, granted, ran_out, slow_patterns

if TYPE_CHECKING:
    from .automaton import Automaton


class RegexReward(TextReward):
    r"""Reward a completion that matches a regular expression.

        R = 1 if the pattern matches the completion, else 0
        R = min(n, limit) / limit with n matches, none overlapping           (mode="count")

    `.` does not match a newline unless the pattern says `(?s)`: the commonest reason for a format
    reward that never fires. A pattern that is regular (no look-around, back-reference, atomic or
    possessive part) is also compiled to a finite automaton. It gives the score, in linear time,
    where the matcher runs out of time, and says where the score was decided.

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
        partial: what a completion earns that does not match (`mode="fullmatch"` alone). `"prefix"`:
            partial_weight · v / n, where v of its n characters could still become a match;
            `"fuzzy"`: partial_weight · (1 - e / (max_errors + 1)), where e characters must be
            inserted, deleted or replaced to make it match, and 0 for more than max_errors.
        partial_weight: more than 0, less than 1.
        max_errors: for `partial="fuzzy"`.
        strip: whether whitespace around the completion is ignored.
        alphabet: all characters that completions can hold, if they are few and known. `decided` and
            `automaton` are then about such texts alone, so more is settled: `ab[abc]*` is won after
            "ab" where nothing but a, b and c can follow. Empty: any character may come.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number from 0 to 1 per completion; dimensionless.

    Raises:
        ValueError: if the pattern is invalid, with the position and a hint; if an argument is out
            of range or does not go with the mode.
        TypeError: if the pattern is no string.

    How it can be hacked: it sees the form alone, so any content in the right form earns 1. In mode
    `"count"` repeating the same match pays; with `partial="prefix"` a completion that begins well
    and never ends earns almost `partial_weight`.

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
        self.partial, self.partial_weight = partial, partial_weight
        self.max_errors, self.strip, self.alphabet = max_errors, strip, alphabet
        self._near: Any = _fuzzy(self.pattern, max_errors) if partial == "fuzzy" else None

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions; see the class."""
        with at_most(self.budget), slow_patterns() as slow:
            scores = super().__call__(completions, **columns)
        if log_metric is not None:
            rate = slow.total() / max(1, len(scores))
            log_metric(f"reward/{self.__name__}/timeout_rate", rate)
        return scores

    def score(self, text: str) -> float:
        """Score one text; 0 where the time ran out."""
        if self.partial:
            self._machine()  # made once, not in the time of a completion
        for limit in (min(SHORT, self.timeout), self.timeout):
            try:
                return _MODES[self.mode](self, self._stripped(text), clock() + granted(limit))
            except TimeoutError:
                machine = self._machine() if self._is_acceptance else None
                if machine is not None:
                    return float(machine.accepts(text))
        ran_out(self.pattern.pattern)
        return 0.0

    def _fullmatch(self, text: str, deadline: float) -> float:
        if self.pattern.fullmatch(text, timeout=_left(deadline), concurrent=True):
            return 1.0
        return _PARTIAL[self.partial](self, text, deadline) if self.partial else 0.0

    def _search(self, text: str, deadline: float) -> float:
        match = self.pattern.search(text, timeout=_left(deadline), concurrent=True)
        return float(match is not None)

    def _count(self, text: str, deadline: float) -> float:
        limit = self.limit or 1
        found = self.pattern.finditer(text, timeout=_left(deadline), concurrent=True)
        return sum(1 for _ in islice(found, limit)) / limit

    def _viable_share(self, text: str, deadline: float) -> float:
        if not text:
            return 0.0
        dead = self._dead_after(text, deadline)
        viable = len(text) if dead is None else max(0, dead - 1)
        return self.partial_weight * viable / len(text)

    def _nearness(self, text: str, deadline: float) -> float:
        match = self._near.fullmatch(text, timeout=_left(deadline), concurrent=True)
        if match is None:
            return 0.0
        return self.partial_weight * (1 - sum(match.fuzzy_counts) / (self.max_errors + 1))

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

    def _machine(self, alphabet: str = "") -> "Automaton | None":
        from .automaton import automaton_of

        search, pattern = self.mode == "search", self.pattern.pattern
        return automaton_of(pattern, self.flags, search=search, strip=self.strip, alphabet=alphabet)

    def decided(self, completions: Sequence[Completion]) -> list[Decided]:
        """Say after how many characters each score was settled, whatever follows.

        Exact for regular patterns. For others an upper bound by partial matching, which takes some
        prefixes for viable that are not, and sees only scores that settle at 0. In mode `"count"`
        and with partial credit the score may change up to the end.

        Raises:
            ValueError: if a completion holds a character that is not in `alphabet`.
        """
        texts = [completion_text(completion) for completion in completions]
        if not self._is_acceptance:
            return [Decided(None, exact=False) for _ in texts]
        automaton = self.automaton
        if automaton is not None:
            return [Decided(place) for place in automaton.settled_in(texts)]
        with at_most(self.budget):
            return [self._decided_by_matching(text) for text in texts]

    def _decided_by_matching(self, text: str) -> Decided:
        lead = len(text) - len(text.lstrip()) if self.strip else 0
        try:
            dead = self._dead_after(text[lead:], clock() + granted(self.timeout))
        except TimeoutError:
            ran_out(self.pattern.pattern)
            dead = None
        return Decided(None if dead is None else lead + dead, exact=False)

    def _dead_after(self, text: str, deadline: float) -> int | None:
        """Return how many characters it takes until no continuation matches, None if never."""
        machine = self._machine()
        if machine is not None:
            settled = machine.settled(text)
            dead = settled is not None and machine.trace(text[:settled])[-1] == machine.dead
            return settled if dead else None
        low, high = 0, len(text) + 1  # viable up to low, dead from high on
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._viable(text[:middle], deadline) else (low, middle)
        return high if high <= len(text) else None

    def _viable(self, prefix: str, deadline: float) -> bool:
        match = self.pattern.search if self.mode == "search" else self.pattern.fullmatch
        if match(prefix, partial=True, timeout=_left(deadline), concurrent=True):
            return True
        bare = prefix.rstrip()  # what follows may be blank, too
        return self.strip and bool(match(bare, timeout=_left(deadline), concurrent=True))

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Give the characters of the match (`"match"`) and of each capture group, by its name.

        Groups without a name are called "1", "2", ... A completion that does not match, or not in
        time, has none.
        """
        with at_most(self.budget):
            return [self._spans(completion_text(completion)) for completion in completions]

    def _spans(self, text: str) -> Spans:
        lead = len(text) - len(text.lstrip()) if self.strip else 0
        names = {number: name for name, number in self.pattern.groupindex.items()}
        found: Spans = {}
        try:
            for match in self._matches(self._stripped(text)):
                for group in range(self.pattern.groups + 1):
                    spans = [(lead + start, lead + end) for start, end in match.spans(group)]
                    if spans:
                        name = names.get(group, str(group)) if group else "match"
                        found.setdefault(name, []).extend(spans)
        except TimeoutError:
            ran_out(self.pattern.pattern)
            return {}
        return found

    def _matches(self, text: str) -> Iterator[Any]:
        limit = granted(self.timeout)
        if self.mode == "count":
            return self.pattern.finditer(text, timeout=limit, concurrent=True)
        match = getattr(self.pattern, self.mode)(text, timeout=limit, concurrent=True)
        return iter([match] if match else [])

    def _stripped(self, text: str) -> str:
        return text.strip() if self.strip else text

    def __repr__(self) -> str:
        return f"RegexReward({self.pattern.pattern!r}, mode={self.mode!r}, name={self.__name__!r})"


_MODES: dict[str, Callable[[RegexReward, str, float], float]] = {
    "fullmatch": RegexReward._fullmatch,
    "search": RegexReward._search,
    "count": RegexReward._count,
}
_PARTIAL: dict[str, Callable[[RegexReward, str, float], float]] = {
    "prefix": RegexReward._viable_share,
    "fuzzy": RegexReward._nearness,
}
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


def _left(deadline: float) -> float:
    seconds = deadline - clock()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _fuzzy(pattern: Any, errors: int) -> Any:
    """Allow errors, and find the fewest."""
    end = "\n" if pattern.flags & regex.VERBOSE else ""  # ends a comment
    return regex.compile(f"(?b)(?:{pattern.pattern}{end}){{e<={errors}}}", pattern.flags)


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
