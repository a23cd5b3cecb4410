r"""Rewards that compare the answer in a completion with a column of the data set.

Finding and comparing are apart: `NumericAnswer(AfterMarker("####"))`, `ExactAnswer(InBox())`; see
`rewards.extraction`.
"""

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .choices import Choices
from .contract import (
    ColumnReward,
    Completion,
    Spans,
    accepted,
    expected,
    one_span,
    spellings,
)
from .extraction import AfterMarker, Extract, InTag, Span
from .markup import bare, folded, undressed
from .numerals import DECIMALS, exact, number, unit_pattern
from .patience import in_time


class AnswerReward(ColumnReward, ABC):
    """Base of the rewards that compare an answer with a column; a subclass says how in `read`.

        R = 1 if read(answer) equals read(gold) for a gold of the column, else 0

    The column holds one right answer or a list of them; None, NaN and blanks are none. Where there
    is none, or one of them cannot be read whole, the reward abstains (None). The gold is what
    `extract` finds in a text, otherwise what follows `####` in it, otherwise all of it.

    Logs the shares of completions in which looking for the answer took too long (`ByPattern`), and
    whose gold cannot be read, as `reward/<name>/timeout_rate` and `reward/<name>/unreadable_rate`.

    Args:
        extract: where the answer is in a completion; what is no `Extract` is a TypeError.
        column: the column with the right answers.
        name: what TRL calls the reward in its logs.
    """

    def __init__(self, extract: Extract, column: str, name: str) -> None:
        super().__init__(name, column)
        expected("extract", extract, Extract, "an instance such as InTag('answer')")
        self.extract = extract

    def _counts(self, scores: Sequence[float | None], timeouts: int) -> dict[str, int]:
        return {**super()._counts(scores, timeouts), "timeout": timeouts}

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text; 0 as well if looking for the answer took too long."""
        golds = in_time(lambda: self._gold_of(row))
        if golds is None:
            return None
        span = in_time(lambda: self.locate(text))
        return float(span is not None and self.right(text[slice(*span)], golds))

    def unreadable(self, golds: Iterable[Any]) -> list[Any]:
        """Return the column's values that cannot be read: there the reward abstains."""
        return [gold for gold in golds if in_time(lambda g=gold: self.gold(g)) is None]

    def locate(self, text: str) -> Span | None:
        """Return where the answer is in a text; what reads the same is one answer."""
        return self.extract(text, self.read)

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where the answer is in each completion, as `answer`."""
        return one_span(
            self, "answer", lambda text: in_time(lambda: self.locate(text)), completions
        )

    def gold(self, value: Any) -> tuple[Any, ...] | None:
        """Read all that is right by the column's value; None if it is nothing, or unclear."""
        golds = [self.gold_of(one) for one in accepted(value)]
        return None if not golds or None in golds else tuple(golds)

    def gold_of(self, value: Any) -> Any:
        """Read one right answer; None if there is nothing to compare with."""
        text = str(value)
        span = self.locate(text) or AfterMarker(unique=False)(text) or (0, len(text))
        return self.read(text[slice(*span)])

    def right(self, answer: str, golds: Sequence[Any]) -> bool:
        """Return whether an answer says the same as one of the golds, which have been read."""
        return self.read(answer) in golds

    @abstractmethod
    def read(self, text: str) -> Any:
        """Return what a text says, None if nothing."""


class ExactAnswer(AnswerReward):
    r"""Reward an answer that is the text in a column, or one of several.

        R = 1 if normal(answer) = normal(gold) for a gold of the column, else 0

    `normal` is Unicode's compatibility form NFKC, with straight quotes, plain hyphens, runs of
    whitespace as one space, without the markup of `rewards.markup`, quotes around all of it and a
    full stop at its end, and, if `ignore_case`, without case. A number 42.0 in the column, as
    pandas makes of 42, is the text 42 as well.

    Args:
        extract: where the answer is in a completion; between `<answer>` tags if None.
        column: the column with the right answers: a text, or a list of those that are right.
        ignore_case: whether "Bern" and "bern" are the same.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column is empty; dimensionless.

    How it can be hacked: by a likely answer without any reasoning.

    Example:
        >>> texts = ["<answer> São  Paulo</answer>", "São Paulo", r"<answer>**SP**.</answer>"]
        >>> ExactAnswer()(texts, answer=[["são paulo", "SP"]] * 3)
        [1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        extract: Extract | None = None,
        column: str = "answer",
        *,
        ignore_case: bool = True,
        name: str = "exact_answer",
    ) -> None:
        super().__init__(extract or InTag(), column, name)
        self.ignore_case = ignore_case

    def gold(self, value: Any) -> tuple[str, ...] | None:
        """Read all that is right by the column's value; None if it is nothing."""
        return super().gold([text for one in accepted(value) for text in spellings(one)])

    def locate(self, text: str) -> Span | None:
        """Return where the answer is in a text, without reading what may be endless."""
        return self.extract(text)

    def right(self, answer: str, golds: Sequence[str]) -> bool:
        """Return whether an answer is a gold, looking at no more text than could be."""
        # Composing joins four characters at most, and takes quadratic time on endless accents.
        answer = " ".join(answer.split())
        longest = 4 * max(map(len, golds)) + _MARKUP
        return len(answer) <= longest and self.read(answer) in golds

    def read(self, text: str) -> str | None:
        """Return the normal form."""
        text = bare(" ".join(undressed(folded(text)).split()))
        return (text.casefold() if self.ignore_case else text) or None


_MARKUP = 64  # characters of markup around an answer


class NumericAnswer(AnswerReward):
    r"""Reward an answer that is the number in a column.

        R = 1 if |answer − gold| ≤ max(abs_tol, rel_tol · |gold|), else 0

    Read are one sign (also −, minus 5, -(5), |-5|), currencies ($5), groups of three digits (1,234
    or 1 234 or 1_234), fractions (3/4, ½, 1 1/2, `\frac{3}{4}`), percentages (50% is 0.5), powers
    of ten (1e-3, 1.2 × 10^5), the digits of every script, and the last side of an equation (x = 42,
    6 * 7 = 42); see `rewards.numerals` for the grammar. Computed exactly. Plain words around are
    ignored, but a second number makes it no answer, as does what changes its value or denies it:
    5!, sin(5), x/2, 42x, 0x10, 2⁵, 5k, 1.5 million, half of 42, not 42, less than 42. Answers of
    the same value, 42 and 42.0, are one. Numbers in the column are numbers, whatever `decimal` is.

    Args:
        extract: where the answer is in a completion; between `<answer>` tags if None.
        column: the column with the right answers, as numbers or texts, or lists of either.
        rel_tol: tolerance relative to the right answer, dimensionless.
        abs_tol: tolerance in the answer's own unit.
        units: what may end the answer; after the number, any other word makes it no answer. With
            "%" among them, 50% is 50. Without units any words may follow.
        decimal: "." or ",": with ",", dots group digits.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column has no number; dimensionless.

    Raises:
        ValueError: if a tolerance is negative or `decimal` neither.

    Degenerate cases: more than 1,000 characters, a number of more than 64, a division by zero,
    1,2345, and expressions (√2, 2^n) are no number; for those use `MathAnswer`. Where the right
    answer is 0, only 0 is right unless `abs_tol` is given.

    How it can be hacked: by the commonest answers of the data set (0, 1, 2), and within tolerance.
    Units count only if `units` are given: 5 cm is right for 5 m. Words are not understood: one that
    changes a value and is not in `rewards.words` is ignored.

    Example:
        >>> from rewards.extraction import WholeText
        >>> reward = NumericAnswer(WholeText())
        >>> reward(["$1,234.50", "1 or 2", "1/3"], answer=["#### 1234.5", 2, "0.3333333"])
        [1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        extract: Extract | None = None,
        column: str = "answer",
        *,
        rel_tol: float = 1e-6,
        abs_tol: float = 0.0,
        units: str | Sequence[str] = (),
        decimal: str = ".",
        name: str = "numeric_answer",
    ) -> None:
        super().__init__(extract or InTag(), column, name)
        for argument, tolerance in {"rel_tol": rel_tol, "abs_tol": abs_tol}.items():
            expected(argument, tolerance, numbers.Real | Decimal, "a number")
        if not (0 <= rel_tol < math.inf and 0 <= abs_tol < math.inf):
            raise ValueError(
                f"rel_tol and abs_tol are {rel_tol} and {abs_tol}, expected finite numbers from 0."
            )
        if decimal not in DECIMALS:
            raise ValueError(f"decimal is {decimal!r}, expected one of {', '.join(DECIMALS)}.")
        self.rel_tol = Fraction(str(rel_tol))  # the decimal number that was written
        self.abs_tol = Fraction(str(abs_tol))
        self.decimal = decimal
        self.unit = unit_pattern((units,) if isinstance(units, str) else units)

    def right(self, answer: str, golds: Sequence[Fraction]) -> bool:
        """Return whether an answer is within tolerance of a gold."""
        value = self.read(answer)
        return value is not None and any(
            abs(value - gold) <= max(self.abs_tol, self.rel_tol * abs(gold)) for gold in golds
        )

    def gold_of(self, value: Any) -> Fraction | None:
        """Read one right answer: a number as it is, a text as an answer."""
        is_number = isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)
        return exact(value) if is_number else super().gold_of(value)

    def read(self, text: str) -> Fraction | None:
        """Return the only number of a text; None if there is none or another."""
        return number(text, self.decimal, self.unit)


class ChoiceAnswer(AnswerReward):
    """Reward an answer that names the choice in a column, or all of several.

        R = 1 if the choices named in the answer are those named in the column, else 0

    Named is a letter alone ("B", "(b)", "**B**"), a label before the option's text ("B. Both A and
    C"), what follows "the answer is" or "option", otherwise the only capital that stands alone in
    the text. Where the column names several ("A, C", or a list), all are needed and no other.

    Args:
        extract: where the answer is in a completion; between `<answer>` tags if None.
        choices: the letters there are.
        column: the column with the right answers.
        index_base: the number in the column that stands for the first choice: 0 in MMLU.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column names no choice, or it is unclear which
        ("A or B", "N/A"); dimensionless.

    Raises:
        ValueError: if the choices are not different capital letters; (when called) if the column
            holds numbers and there is no `index_base`.

    Degenerate cases: naming the right letter twice is right; a word that is a letter ("A dog",
    "Vitamin C") names it too, one with a sign at it (C++, 37 °C, N/A) does not. Texts that begin
    with a label are read by it: "A) x, or (B) y" is A. A letter that is taken back ("A. No, wait,
    B") is none.

    How it can be hacked: by guessing, 1 of n times. Naming several choices earns nothing, unless
    all of them are right.

    Example:
        >>> texts = ["<answer>(B)</answer>", "<answer>A or B</answer>", "<answer>b</answer>"]
        >>> ChoiceAnswer()(texts, answer=["B", "B", "B. Bern"])
        [1.0, 0.0, 1.0]
        >>> ChoiceAnswer(index_base=0)(texts, answer=[1, 1, 1])
        [1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        extract: Extract | None = None,
        choices: str = "ABCDE",
        column: str = "answer",
        *,
        index_base: int | None = None,
        name: str = "choice_answer",
    ) -> None:
        super().__init__(extract or InTag(), column, name)
        expected("choices", choices, str, "one text of capitals, as 'ABCD'")
        letters = len(choices) > 1 and choices.isalpha() and choices.isupper()
        if not letters or len(set(choices)) < len(choices):
            raise ValueError(f"choices are {choices!r}, expected different capitals, as 'ABCD'.")
        self.choices = Choices(choices)
        self.index_base = index_base

    def gold(self, value: Any) -> tuple[str] | None:
        """Read the letters that are needed, all in one text; None if it is unclear which."""
        golds = super().gold(value)
        return golds and ("".join(sorted({*"".join(golds)})),)

    def gold_of(self, value: Any) -> str | None:
        """Read what one value names: a text, or the number of a choice."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return super().gold_of(value)
        if self.index_base is None:
            first = self.choices.letters[0]
            raise ValueError(
                f"column {self.column!r} holds the number {value}, and reward {self.__name__!r} "
                f"expects letters; give index_base=0 if 0 stands for {first}, 1 if 1 does."
            )
        letters = dict(enumerate(self.choices.letters, self.index_base))
        return letters.get(value)  # 2.0 finds 2

    def read(self, text: str) -> str | None:
        """Return the choices that a text names, sorted; None if it is unclear which."""
        return self.choices.read(text)


exact_answer = ExactAnswer()
"""1 where the text between `<answer>` tags is that of the column `answer`."""

numeric_answer = NumericAnswer()
"""1 where the number between `<answer>` tags is that of the column `answer`."""

choice_answer = ChoiceAnswer()
"""1 where the letter between `<answer>` tags is that of the column `answer`."""
