"""A penalty for repeating oneself, and the rate that it is proportional to."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from .contract import Completion, Spans, TextReward, listed, texts_of

_WORD = re.compile(r"\S+")
_LETTER = re.compile(r"[^\W\d_]")
_CHARACTERS = 0x110000  # of Unicode: more different words than these are not told apart
_LONG = 24  # characters; a word of more is one without spaces, or none
_STRETCHES = 8  # of a long word, that weigh as much as an n-gram


class Repetition(TextReward):
    """Penalize repeated n-grams, in proportion.

        R = max_penalty · (1 − distinct n-grams / n-grams)

    Words are what stands between whitespace. A loop may do without: in words of more than 24
    characters, as Chinese sentences, dashes and `so_we_get_so_we_get_` are, every stretch of 24
    characters counts as an n-gram too, an eighth each.

    Args:
        ngram_size: n, at least 1; words or tokens.
        max_penalty: what a completion of repetitions alone comes close to; at most 0.
        unit: `"words"`, as they stand; or `"tokens"`, which is TRL's
            `get_repetition_penalty_reward`.
        skip_counters: whether words without a letter are left out, so that a loop with a counter in
            it ("wait 1 wait 2 wait 3") is one. Then worked sums repeat, too, and so do tables.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number in [max_penalty, 0] per completion; dimensionless.

    Raises:
        ValueError: if an argument is outside its range, the unit unknown, or tokens are to be
            counted without counters; (when called) if tokens
            are to be counted and no `completion_ids` are given, or not one list per completion.

    Degenerate cases: 0 for fewer than n words or tokens.

    How it can be hacked: by saying nothing, or the same in other words; a change of case or of
    punctuation makes another word, and so does a counter that is not skipped. Tables, code and
    quotations repeat for good reasons.

    Example:
        >>> reward = Repetition(ngram_size=2)
        >>> reward(["one two three four", "go go go go go"])
        [0.0, -0.75]
        >>> reward.spans(["to be or not to be"])
        [{'repeated': [(13, 18)]}]

    Source: Yeo et al. 2025, Demystifying Long Chain-of-Thought Reasoning, arXiv:2502.03373,
    appendix C.2; the form is that of TRL.
    """

    def __init__(
        self,
        ngram_size: int = 3,
        max_penalty: float = -1.0,
        *,
        unit: Literal["words", "tokens"] = "words",
        skip_counters: bool = False,
        name: str = "repetition",
    ) -> None:
        super().__init__(name)
        if unit not in ("words", "tokens"):
            raise ValueError(f"unit is {unit!r}, expected one of words, tokens.")
        if not -float("inf") < max_penalty <= 0:
            raise ValueError(f"max_penalty is {max_penalty}, expected a finite number, at most 0.")
        self.ngram_size = _checked_size(ngram_size)
        self.max_penalty = max_penalty
        self.score_range = (max_penalty, 0.0)
        if skip_counters and unit == "tokens":
            raise ValueError("skip_counters=True goes with unit='words': tokens are only numbers.")
        self.unit = unit
        self.skip_counters = skip_counters
        self.columns = ("completion_ids",) if unit == "tokens" else ()

    def _scores(
        self, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        if self.unit == "tokens":
            rates = [repetition_rate(row["completion_ids"], self.ngram_size) for row in rows]
        else:
            rates = [
                _rate_in_words(_words(text, self.skip_counters), self.ngram_size)
                for text in texts_of(self, completions)
            ]
        return [rate * self.max_penalty if rate else 0.0 for rate in rates]  # and never -0.0

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Name `repeated` what is inside n-grams that occurred before, and between their words.

        With `unit="tokens"` nothing is named: which characters a token holds is not known here.
        """
        if self.unit == "tokens":
            return [{} for _ in listed(self.__name__, "completions", completions)]
        return [{"repeated": self._repeated(text)} for text in texts_of(self, completions)]

    def _repeated(self, text: str) -> list[tuple[int, int]]:
        words = [m for m in _WORD.finditer(text) if not self.skip_counters or _LETTER.search(m[0])]
        numbered = _numbered([word[0] for word in words])
        runs = _runs(_slices(numbered, self.ngram_size), self.ngram_size)
        spans = [(words[first].start(), words[end - 1].end()) for first, end in runs]
        for word in words:
            if len(word[0]) > _LONG:
                stretches = _runs(_slices(word[0], _LONG), _LONG)
                spans += [(word.start() + first, word.start() + end) for first, end in stretches]
        return _joined(spans)


def repetition_rate(text_or_ids: str | Sequence[Any], n: int = 3) -> float:
    """Return the share of n-grams that occurred before.

        rate = 1 − distinct n-grams / n-grams

    Args:
        text_or_ids: a text, of which words count (and stretches of long ones, see `Repetition`), or
            token ids.
        n: at least 1.

    Returns:
        A number in [0, 1), dimensionless; 0 for fewer than n words or ids.

    Raises:
        ValueError: if `n` is less than 1.

    Example:
        >>> repetition_rate("a b a b a b", n=2)  # ab ba ab ba ab: 2 distinct of 5
        0.6
        >>> repetition_rate([7, 7], n=3)
        0.0

    Source: arXiv:2502.03373, appendix C.2.
    """
    size = _checked_size(n)
    if isinstance(text_or_ids, str):
        return _rate_in_words(_words(text_or_ids), size)
    every = len(text_or_ids) - size + 1
    return 1 - _distinct([_numbered(text_or_ids)], size) / every if every > 0 else 0.0


def _rate_in_words(words: Sequence[str], n: int) -> float:
    long = [word for word in words if len(word) > _LONG]
    stretches = sum(len(word) - _LONG + 1 for word in long)
    every = max(0, len(words) - n + 1) + stretches / _STRETCHES
    new = _distinct([_numbered(words)], n) + _distinct(long, _LONG) / _STRETCHES
    return 1 - new / every if every else 0.0


def _distinct(texts: Iterable[str], n: int) -> int:
    """Count the different stretches of n characters in texts."""
    import numpy as np  # cuts bytes four times as fast as slices do, and is not needed before

    size, different = 4 * n, set()
    for text in texts:
        data = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint8)
        for first in range(0, min(size, len(data) - size + 1), 4):
            whole = data[first : first + (len(data) - first) // size * size]
            different.update(whole.view(f"V{size}").tolist())
    return len(different)


def _slices(text: str, n: int) -> Iterator[str]:
    return map(text.__getitem__, map(slice, range(len(text) - n + 1), range(n, len(text) + 1)))


def _runs(ngrams: Iterable[Any], n: int) -> list[tuple[int, int]]:
    """Return the first item, and one past the last, of each run of repeated n-grams."""
    seen: set[Any] = set()
    runs: list[tuple[int, int]] = []
    for first, ngram in enumerate(ngrams):
        if ngram in seen:
            joins = runs and first <= runs[-1][1]
            start = runs.pop()[0] if joins else first
            runs.append((start, first + n))
        seen.add(ngram)
    return runs


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort spans, and make one of those that overlap."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _numbered(items: Sequence[Any]) -> str:
    """Return a text with one character for each item: stretches of it are quickly compared."""
    character = {item: chr(n % _CHARACTERS) for n, item in enumerate(dict.fromkeys(items))}
    return "".join(map(character.__getitem__, items))


def _words(text: str, skip_counters: bool = False) -> list[str]:
    words = text.split()
    return [word for word in words if _LETTER.search(word)] if skip_counters else words


def _checked_size(n: int) -> int:
    if n < 1:
        raise ValueError(f"n-grams of {n} items were asked for, expected at least 1.")
    return n
