r"""Reward mathematical equivalence, decided by math-verify in processes that can be killed.

Needs the extra: pip install 'grpo-credit[math]'.
"""

import functools
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from numbers import Number
from typing import Any

import regex

from .answers import AnswerReward
from .contract import need
from .extraction import AfterMarker, Extract, WholeText
from .guarded import Guarded, Policy
from .latex import Stated, plain_latex
from .quantities import split_unit


class MathAnswer(Guarded):
    r"""Reward a completion whose answer is a formula equal to the one in a column.

        R = 1 if verify(gold, answer), else 0; None if the gold is not one formula

    Both are brought into one way of writing (`plain_latex`), read whole, and compared by
    math-verify: a half is 0.5, a set has no order, (x+1)² is x² + 2x + 1. Numbers with a decimal
    point are equal if they agree to six places, of golds below 1 to six digits. Units are compared
    if both have one (3 hours are 180 minutes, not 3 minutes). math-verify's own time limits are
    signals, which work on the main thread only; the limit here is the life of a process: it holds
    on any thread and in C code. Two processes work at once, and remember what they have compared.

    The gold is a number, a formula in LaTeX with or without delimiters, a solution that ends in a
    box or in "#### …" or says what the answer is, or a list of formulas of which any is right. A
    gold that cannot be read whole is none: see `unreadable`.

    It logs `reward/<name>/timeout_rate`, `reward/<name>/error_rate` and
    `reward/<name>/unreadable_rate` (shares of completions: took too long, failed, their gold cannot
    be read), and `reward/<name>/ms_p95` (milliseconds per completion).

    Args:
        column: the column with the right answers.
        extract: where the answer is in a completion; `Stated()` if None: after the thought, in the
            last box or, without boxes, said to be the answer. What it finds is one formula.
        timeout: seconds of wall clock per completion, for parsing and comparing.
        memory: GiB for parsing and comparing, see `guard`.
        on_timeout: `"wrong"` (0.0), `"abstain"` (None), `"raise"`, or the score to give where a
            limit is passed.
        on_error: the same for a process that dies; math-verify's own errors are a wrong answer.
        processes: how many processes judge at once; they start at the first call and stay.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0 or None per completion; dimensionless.

    Raises:
        ImportError: if math-verify is not installed.
        TypeError: if the column is no text; (when called) if the completions are no list.
        ValueError: (when called) if the column is missing, with the columns there are.

    Degenerate cases: an answer of more than 1,000 characters, or with more than 10 brackets inside
    each other, is wrong, as such a gold is none. A number of another base is that and no other
    (4210_5 is not 555). Words are compared as they are written, without case; letters alone are a
    word, unless they are small and without a vowel (xy is yx). Text after a number that is no known
    unit makes it wrong where the gold has no unit (5 dozen is not 5).

    How it can be hacked: by the question itself, where it is equal to its answer (2 + 2 for 4);
    50 and 0.5 are right for 50%, and 50% for 50, 5 for 5 m, {1, 2} for (1, 2), (A) 6 for A; numbers
    within the tolerance; and by formulas that take too long, if a timeout earned more than a wrong
    answer. In a completion that the template began with `<think>`, a cut-off thought is not known
    to be one; `extract=AfterThought(Stated())` asks for its end.

    Example:
        >>> reward = MathAnswer(timeout=30)
        >>> texts = [r"so $\boxed{\frac{2}{6}}$", r"so $\boxed{3}$"]
        >>> reward(texts, solution=[r"\frac13"] * 2)
        [1.0, 0.0]
        >>> reward.close()

    Source: Kydlíček, math-verify 0.9. TRL's `accuracy_reward` and `reasoning_accuracy_reward` use
    it otherwise; rewards/README.md says where.
    """

    def __init__(
        self,
        column: str = "solution",
        *,
        extract: Extract | None = None,
        timeout: float = 1.0,
        memory: float | None = 4.0,
        on_timeout: Policy = "wrong",
        on_error: Policy = "wrong",
        processes: int = 2,
        name: str = "math_answer",
    ) -> None:
        need("math_verify", "math", "MathAnswer compares by it")
        if not isinstance(column, str):
            raise TypeError(
                f"column is {column!r:.80}, expected the name of the column with the right "
                "answers; write extract=… for where the answer is."
            )
        super().__init__(
            _Verifier(extract or Stated(), column, name),
            timeout=timeout,
            memory=memory,
            on_error=on_error,
            on_timeout=on_timeout,
            processes=processes,
            name=name,
        )

    def unreadable(self, golds: Iterable[Any]) -> list[Any]:
        """Return the column's values that are no formulas, within the time limit each."""
        golds = list(golds)
        given: Any = dict.fromkeys(self.columns, golds)
        scores = self([""] * len(golds), **given)
        return [gold for gold, score in zip(golds, scores, strict=True) if score is None]


class _Verifier(AnswerReward):
    """What runs in the processes; it has no time limit of its own."""

    def warm_up(self) -> None:
        """Import math-verify, and make it load its grammar."""
        for module in ("parser", "grader"):  # they warn that their signals are off
            logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
        _equal(r"\frac{x}{2}\text{ m}", r"\frac{2x}{4}\text{ cm}")

    def gold_of(self, value: Any) -> str | None:
        """Read one right answer; None if it is not one formula that can be read whole."""
        if isinstance(value, Number) and value in (math.inf, -math.inf):
            return None
        text = str(value)
        formulas = (
            plain_latex(text[slice(*span)])
            for extract in (self.extract, AfterMarker(unique=False), Stated(), WholeText())
            if (span := extract(text))
        )
        texts = ((gold, split_unit(_option(gold)[1] or gold)[0]) for gold in formulas if gold)
        return next((gold for gold, text in texts if _right(text)[0]), None)

    def right(self, answer: str, golds: Sequence[str]) -> bool:
        """Return whether an answer is one of the golds."""
        formula = plain_latex(answer)
        return formula is not None and any(_equal(gold, formula) for gold in golds)

    def read(self, text: str) -> str | None:
        """Return the formula, written in one way."""
        return plain_latex(text)


def _equal(gold: str, answer: str) -> bool:
    """Compare what both have: of an option the label, the text, or both."""
    (gold_label, gold_text), (label, text) = _option(gold), _option(answer)
    if bool(gold_label) != bool(label):
        return (gold_label or label) in (gold, answer) or _same(gold_text, text)
    only_labels = label and not (gold_text and text)
    return gold_label == label and bool(only_labels or _same(gold_text, text))


def _option(latex: str) -> tuple[str, str]:
    r"""Return the label of an option and its text (`\textbf{(A)} 5`), "" for what there is not."""
    option = _LABEL.fullmatch(latex)
    return (option["label"], option["text"]) if option else ("", latex)


@functools.lru_cache(maxsize=4096)
def _same(gold: str, answer: str) -> bool:
    """Compare; the completions of a group share the right answer and often the wrong ones."""
    from math_verify import verify

    answer, unit = split_unit(answer)
    gold, gold_unit = split_unit(gold, bare=unit is not None)
    if gold_unit and not unit:
        answer, unit = split_unit(answer, bare=True)
    golds, places = _right(gold)
    answers = _values(answer) or _values(answer.rpartition("=")[2])
    if unit and not gold_unit and not unit.known:
        return False
    if gold.isalpha() and answer.isalpha() and not _PRODUCT.fullmatch(gold):
        return gold.casefold() == answer.casefold()
    if gold_unit and unit and gold_unit != unit:
        if gold_unit.dimension != unit.dimension:
            return False
        golds = [value * gold_unit.factor / unit.factor for value in golds]
    return verify(
        golds,
        [value for value in answers if _is_true(value)] if _agree(answer) else [],
        float_rounding=places,
        numeric_precision=places + 9,
        allow_set_relation_comp=True,
        timeout_seconds=0,
    )


@functools.lru_cache(maxsize=1024)
def _right(latex: str) -> tuple[list[Any], int]:
    """Return what a gold may mean, and to how many decimal places."""
    golds = _values(latex)
    return golds, max(map(_places, golds), default=6)


@functools.lru_cache(maxsize=4096)
def _values(latex: str) -> list[Any]:
    """Return what a formula may mean: a single word is itself, or a product of variables."""
    readings = (_value(rf"\text{{{latex}}}") if latex.isalpha() else None, _value(latex))
    return [value for value in readings if value is not None]


def _value(latex: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex
    from sympy import Float, Integer, nan, zoo

    if number := _NUMBER.fullmatch(latex):  # as latex2sympy reads it, in a thousandth of the time
        return Float(latex) if number["places"] else Integer(latex)
    latex = normalize_latex(latex, NormalizationConfig(boxed="none"))
    try:
        real = not should_treat_as_complex(latex)
        value = latex2sympy(latex, is_real=real, normalization_config=None)
    except Exception:  # its grammar has bare exceptions, and SymPy any
        return None
    return None if value.has(nan, zoo) else value


_LABEL = regex.compile(
    r"""
    (?: \\(?:text|math)[a-z]*\s*\{\s* (?: \((?P<label>[A-J])\) | (?P<label>[A-J])[.):] ) \s*\}
      | \((?P<label>[A-J])\) (?=$|\ (?:\w|\\(?:frac|sqrt|text|pi))) | (?P<label>[A-J])[.):] (?=\ )
    ) \s*+
    (?! (?:or|and|not)\b | .*(?<![a-zA-Z\\])[A-J](?![a-zA-Z]) | (?:\\[a-z]+\{)?\W*[a-j]\W*$ )
    (?P<text>.*)  # that names no other option: (A) B
    """,
    regex.VERSION1 | regex.VERBOSE | regex.DOTALL,
)
_PRODUCT = re.compile(r"[b-df-hj-np-tv-z]+")  # small letters without a vowel are no word
_NUMBER = re.compile(r"-?[0-9]+(?P<places>\.[0-9]+)?")


def _places(gold: Any) -> int:
    """Return the decimal places of six digits of the smallest number in a gold, 6 at least."""
    sizes = [float(abs(number.doit().evalf())) for number in _numbers(gold)]
    small = min((size for size in sizes if size), default=0 if sizes else 1)
    return max(6, 5 - math.floor(math.log10(min(small, 1)))) if small else 330


def _numbers(value: Any) -> Iterator[Any]:
    """Return the numbers of a formula, a set, a tuple, a matrix or a relation."""
    if getattr(value, "is_number", False):
        yield value
    else:
        for part in value.flat() if hasattr(value, "flat") else getattr(value, "args", ()):
            yield from _numbers(part)


def _agree(answer: str) -> bool:
    """Return whether the numbers in a chain of equations (1 = x = 7) are the same."""
    sides = answer.split("=")
    if len(sides) < 3:
        return True
    values = [value for side in sides if (value := _value(side.strip())) is not None]
    numbers = [value for value in values if getattr(value, "is_number", False)]
    return all(number.equals(numbers[0]) for number in numbers)


def _is_true(value: Any) -> bool:
    """Return whether numbers that a formula calls equal are."""
    from sympy import Eq

    sides = [value] if isinstance(value, Eq) else getattr(value, "_unsorted_args", ())
    return all(
        side.lhs.equals(side.rhs)
        for side in sides
        if isinstance(side, Eq) and side.lhs.is_number and side.rhs.is_number
    )


def __getattr__(name: str) -> Any:
    """Make `math_answer` when it is first asked for: without math-verify it cannot be made."""
    if name != "math_answer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = MathAnswer()
    return globals()[name]
