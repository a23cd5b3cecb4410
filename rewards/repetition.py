"""A penalty for repeating oneself, and the rate that it is proportional to."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from .contract import Completion, Spans, completion_text
from .lengths import token_ids

_WORD = re.compile(r"\S+")


class Repetition:
    """Penalize repeated n-grams, in proportion.

        R = max_penalty · (1 − distinct n-grams / n-grams)

    Args:
        ngram_size: n, at least 1; words or tokens.
        max_penalty: what a completion of repetitions alone comes close to; at most 0.
        unit: `"words"`, separated by whitespace, as they stand; or `"tokens"`, which is TRL's
            `get_repetition_penalty_reward` and what languages without spaces need.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number in [max_penalty, 0] per completion; dimensionless.

    Raises:
        ValueError: if an argument is outside its range or the unit unknown; (when called) if tokens
            are to be counted and no `completion_ids` are given, or not one list per completion.

    Degenerate cases: 0 for fewer than n words or tokens.

    How it can be hacked: by saying nothing, or the same in other words; a change of case or of
    punctuation makes another word. Tables, code and quotations repeat for good reasons.

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
        name: str = "repetition",
    ) -> None:
        if unit not in _UNITS:
            raise ValueError(f"unit is {unit!r}, expected one of {', '.join(_UNITS)}.")
        if not -float("inf") < max_penalty <= 0:
            raise ValueError(f"max_penalty is {max_penalty}, expected a finite number, at most 0.")
        self.ngram_size = _checked_size(ngram_size)
        self.max_penalty = max_penalty
        self.score_range = (max_penalty, 0.0)
        self.unit = unit
        self.columns = ("completion_ids",) if unit == "tokens" else ()
        self.__name__ = name

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **_: Any,
    ) -> list[float]:
        """Score completions; see the class."""
        items = _UNITS[self.unit](self.__name__, completions, completion_ids)
        rates = [repetition_rate(row, self.ngram_size) for row in items]
        return [rate * self.max_penalty if rate else 0.0 for rate in rates]  # and never -0.0

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Name `repeated` the words inside n-grams that occurred before, and what is between them.

        With `unit="tokens"` nothing is named: which characters a token holds is not known here.
        """
        if self.unit == "tokens":
            return [{} for _ in completions]
        texts = [completion_text(completion) for completion in completions]
        return [{"repeated": _repeated(text, self.ngram_size)} for text in texts]


def repetition_rate(text_or_ids: str | Sequence[Any], n: int = 3) -> float:
    """Return the share of n-grams that occurred before.

        rate = 1 − distinct n-grams / n-grams

    Args:
        text_or_ids: a text, of which words count, or token ids.
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
    items = _words(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids
    ngrams = list(_ngrams(items, _checked_size(n)))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _repeated(text: str, n: int) -> list[tuple[int, int]]:
    places = [match.span() for match in _WORD.finditer(text)]
    seen: set[tuple[str, ...]] = set()
    runs: list[tuple[int, int]] = []  # first word, one past the last
    for first, ngram in enumerate(_ngrams([text[start:end] for start, end in places], n)):
        if ngram in seen:
            joins = runs and first <= runs[-1][1]
            start = runs.pop()[0] if joins else first
            runs.append((start, first + n))
        seen.add(ngram)
    return [(places[first][0], places[end - 1][1]) for first, end in runs]


def _ngrams(items: Sequence[Any], n: int) -> Iterator[tuple[Any, ...]]:
    return zip(*(islice(items, shift, None) for shift in range(n)), strict=False)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _checked_size(n: int) -> int:
    if n < 1:
        raise ValueError(f"n-grams of {n} items were asked for, expected at least 1.")
    return n


def _in_words(name: str, completions: Sequence[Completion], ids: Any) -> list[list[str]]:
    return [_words(completion_text(completion)) for completion in completions]


def _in_tokens(name: str, completions: Sequence[Completion], ids: Any) -> Sequence[Sequence[int]]:
    return token_ids(name, ids, len(completions))


_UNITS = {"words": _in_words, "tokens": _in_tokens}
