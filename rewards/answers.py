r"""Rewards that compare the answer in a completion with a column of the data set.

Finding and comparing are apart: `NumericAnswer(AfterMarker("####"))`, `ExactAnswer(InBox())`; see
`rewards.extraction`.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

from .contract import (
    Completion,
    LogExtra,
    LogMetric,
    Spans,
    TextReward,
    completion_text,
    listed,
    rows_of,
)
from .extraction import AfterMarker, Extract, InTag, Span


class AnswerReward(TextReward):
    """Base of the rewards that compare an answer with a column; a subclass says how in `read`.

        R = 1 if read(answer) equals read(gold), else 0; None if the gold cannot be read

    The gold is what `extract` finds in the column's value, otherwise what follows `####` in it,
    otherwise all of it. Logs the share of completions in which looking for the answer took too long
    (`ByPattern`), as `reward/<name>/timeout_rate`.

    Args:
        extract: where the answer is in a completion.
        column: the column with the right answers.
        name: what TRL calls the reward in its logs.
    """

    def __init__(self, extract: Extract, column: str, name: str) -> None:
        super().__init__(name)
        self.extract = extract
        self.column = column
        self.columns = (column,)

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions; see the class."""
        scores: list[float | None] = []
        timeouts = 0
        rows = rows_of(self, columns, len(listed(self.__name__, "completions", completions)))
        for completion, row in zip(completions, rows, strict=True):
            try:
                scores.append(self._judged(completion_text(completion), row[self.column]))
            except TimeoutError:
                scores.append(None)
                timeouts += 1
        if log_metric is not None:
            log_metric(f"reward/{self.__name__}/timeout_rate", timeouts / max(1, len(scores)))
        return scores

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text; None as well if looking for the answer took too long."""
        try:
            return self._judged(text, row[self.column])
        except TimeoutError:
            return None

    def _judged(self, text: str, value: Any) -> float | None:
        gold = self.gold(value)
        span = self.found(text)
        if gold is None:
            return None
        return float(span is not None and self.right(text[slice(*span)], gold))

    def found(self, text: str) -> Span | None:
        """Return where the answer is in a text."""
        return self.extract(text)

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where the answer is in each completion, as `answer`."""
        return [self._spans(completion_text(completion)) for completion in completions]

    def _spans(self, text: str) -> Spans:
        try:
            span = self.found(text)
        except TimeoutError:
            span = None
        return {"answer": [] if span is None else [span]}

    def gold(self, value: Any) -> Any:
        """Read the column's value; None if there is nothing to compare with."""
        if value is None:
            return None
        text = str(value)
        span = self.found(text) or AfterMarker(unique=False)(text) or (0, len(text))
        return self.read(text[slice(*span)])

    def right(self, answer: str, gold: Any) -> bool:
        """Return whether an answer says the same as the gold, which has been read."""
        return self.read(answer) == gold

    def read(self, text: str) -> Any:
        """Return what a text says, None if nothing."""
        raise NotImplementedError


class ExactAnswer(AnswerReward):
    """Reward an answer that is the text in a column.

        R = 1 if normal(answer) = normal(gold), else 0

    `normal` is Unicode's compatibility form NFKC, with runs of whitespace as one space and, if
    `ignore_case`, without case.

    Args:
        extract: where the answer is in a completion; between `<answer>` tags if None.
        column: the column with the right answers.
        ignore_case: whether "Bern" and "bern" are the same.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column is empty; dimensionless.

    How it can be hacked: by a likely answer without any reasoning.

    Example:
        >>> ExactAnswer()(["<answer> São  Paulo</answer>", "São Paulo"], answer=["são paulo"] * 2)
        [1.0, 0.0]
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

    def right(self, answer: str, gold: str) -> bool:
        """Return whether an answer is the gold, looking at no more text than could be."""
        # Composing joins four characters at most, and takes quadratic time on endless accents.
        answer = " ".join(answer.split())
        return len(answer) <= 4 * len(gold) and self.read(answer) == gold

    def read(self, text: str) -> str | None:
        """Return the normal form."""
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        return (text.casefold() if self.ignore_case else text) or None


class NumericAnswer(AnswerReward):
    r"""Reward an answer that is the number in a column.

        R = 1 if |answer − gold| ≤ max(abs_tol, rel_tol · |gold|), else 0

    Read are one sign (also −), currencies ($5), groups of three digits (1,234 or 1 234 or 1_234),
    fractions (3/4), percentages (50% is 0.5), and powers of ten (1e-3, 1.2 × 10^5). Computed
    exactly. Words around are ignored, but a second number makes it no answer, as does what changes
    its value: 5!, sin(5), x/2, 0x10, 1.5 million. Answers of the same value, 42 and 42.0, are one.

    Args:
        extract: where the answer is in a completion; between `<answer>` tags if None.
        column: the column with the right answers, as numbers or texts.
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
        if not (0 <= rel_tol < math.inf and 0 <= abs_tol < math.inf):
            raise ValueError(
                f"rel_tol and abs_tol are {rel_tol} and {abs_tol}, expected finite numbers from 0."
            )
        if decimal not in _NUMBERS:
            raise ValueError(f"decimal is {decimal!r}, expected one of {', '.join(_NUMBERS)}.")
        self.rel_tol = Fraction(str(rel_tol))  # the decimal number that was written
        self.abs_tol = Fraction(str(abs_tol))
        self.decimal = decimal
        self.unit = _unit((units,) if isinstance(units, str) else units)

    def right(self, answer: str, gold: Fraction) -> bool:
        """Return whether an answer is within tolerance."""
        value = self.read(answer)
        tolerance = max(self.abs_tol, self.rel_tol * abs(gold))
        return value is not None and abs(value - gold) <= tolerance

    def found(self, text: str) -> Span | None:
        """Return where the answer is in a text; numbers of the same value are one answer."""
        return self.extract(text, self.read)

    def read(self, text: str) -> Fraction | None:
        """Return the only number of a text; None if there is none or another."""
        if len(text) > 1000:
            return None
        text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
        text = text.replace("{,}", ",").replace(r"\!", "")  # LaTeX: 1{,}000 and 1,\!000
        if self.unit:
            text = self.unit.sub("", text)
        found = list(islice(_NUMBERS[self.decimal].finditer(text), 2))
        if len(found) != 1 or len(found[0][0]) > 64:
            return None
        before, after = text[: found[0].start()], text[found[0].end() :]
        if _EXPRESSION.search(f"{before} {after}") or (self.unit and re.search(r"\w", after)):
            return None
        if _CHANGED_BEFORE.search(before[-64:]) or _CHANGED_AFTER.match(after):
            return None
        return _value(found[0])


def _unit(units: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern of a unit at the end of a text, the longest first."""
    names = [unicodedata.normalize("NFKC", unit).translate(_SIGNS) for unit in units]
    either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(?:{either})\W*$", re.IGNORECASE) if names else None


_SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "×": "*", "·": "*"})
_EXPRESSION = re.compile(r"[\^√π±∞]|\\(?:sqrt|pi|pm|infty)")
_CHANGED_BEFORE = re.compile(
    r"""
    [^\W_]\(\s*$  # f(5)
    | (?<![^\W_])(?:(?:arc|a)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|lg|exp|sqrt)[\s({\[]*$
    | [\w)}](?:[/*]|\s[/*]\s)$  # x/2
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CHANGED_AFTER = re.compile(
    r"""
    [)}\]]*!  # 5!
    | x[0-9a-f] | [ob][0-9]  # 0x10
    | \s?[/*]\s?[a-z]\b  # 5/x
    | [\s-]*(?:hundred|thousand|dozen|million|billion|trillion|milliard)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def _number(decimal: str, grouping: str) -> re.Pattern[str]:
    return re.compile(
        rf"""
        (?<!\w)
        (?P<sign>[+-]?) \s? (?:\\?[$€£¥₹₽₩]\s?)? (?P<inner>[+-]?)
        (?P<digits>
            [0-9]{{1,3}} (?P<gap>[{grouping}_' ]) [0-9]{{3}} (?:(?P=gap)[0-9]{{3}})* (?![0-9])
            | [0-9]+ | (?=[{decimal}][0-9])
        )
        (?:[{decimal}](?P<places>[0-9]+))?
        (?:[eE](?P<exponent>[+-]?[0-9]+) | \s?\*\s?10\s?\^\s?\{{?(?P<power>[+-]?[0-9]+)\}}?)?
        (?:\s?/\s?(?P<divisor>[0-9]+))?
        (?P<percent>\s?(?:\\?%|percent\b))?
        """,
        re.VERBOSE,
    )


_NUMBERS = {".": _number(".", ","), ",": _number(",", ".")}


def _value(found: re.Match[str]) -> Fraction | None:
    """Return the value of a number of at most 64 characters; None without a sensible one."""
    places = found["places"] or ""
    exponent = found["exponent"] or found["power"] or "0"
    divisor = int(found["divisor"] or 1) * (100 if found["percent"] else 1)
    if abs(int(exponent)) > 999 or divisor == 0 or (found["sign"] and found["inner"]):
        return None
    digits = int(re.sub("[^0-9]", "", found["digits"]) + places)
    sign = -1 if "-" in (found["sign"], found["inner"]) else 1
    return sign * digits * Fraction(10) ** (int(exponent) - len(places)) / divisor


class ChoiceAnswer(AnswerReward):
    """Reward an answer that names the choice in a column.

        R = 1 if the only choice named in the answer is the one named in the column, else 0

    Named is what stands alone as a capital letter: "(B)", "B.", "**B**", "option B", "B: 42"; or
    all of the answer is the letter, also in lower case.

    Args:
        extract: where the answer is in a completion; between `<answer>` tags if None.
        choices: the letters there are.
        column: the column with the right answers.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column names none or several; dimensionless.

    Raises:
        ValueError: if the choices are not different capital letters.

    Degenerate cases: naming the right letter twice is right; a word that is a letter ("A dog",
    "Vitamin C") names it too.

    How it can be hacked: by guessing, 1 of n times. Naming several choices earns nothing.

    Example:
        >>> texts = ["<answer>(B)</answer>", "<answer>A or B</answer>", "<answer>b</answer>"]
        >>> ChoiceAnswer()(texts, answer=["B", "B", "B. Bern"])
        [1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        extract: Extract | None = None,
        choices: str = "ABCDE",
        column: str = "answer",
        *,
        name: str = "choice_answer",
    ) -> None:
        super().__init__(extract or InTag(), column, name)
        letters = len(choices) > 1 and choices.isalpha() and choices.isupper()
        if not letters or len(set(choices)) < len(choices):
            raise ValueError(f"choices are {choices!r}, expected different capitals, as 'ABCD'.")
        self.choices = choices
        self.alone = re.compile(rf"(?<![^\W_])[{choices}](?![^\W_])")

    def read(self, text: str) -> str | None:
        """Return the only choice that a text names."""
        bare = text.strip("()[]{}*_.:,$ \t\r\n").upper()
        if len(bare) == 1 and bare in self.choices:
            return bare
        named = set(self.alone.findall(text))
        return named.pop() if len(named) == 1 else None


exact_answer = ExactAnswer()
"""1 where the text between `<answer>` tags is that of the column `answer`."""

numeric_answer = NumericAnswer()
"""1 where the number between `<answer>` tags is that of the column `answer`."""

choice_answer = ChoiceAnswer()
"""1 where the letter between `<answer>` tags is that of the column `answer`."""
