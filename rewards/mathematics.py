r"""Reward mathematical equivalence, decided by math-verify in processes that can be killed.

Needs the extra: pip install 'grpo-credit[math]'.
"""

import functools
import importlib.util
import logging
from typing import Any

from .contract import TextReward
from .guard import Guarded, Policy


class MathAnswer(Guarded):
    r"""Reward a completion whose last boxed or stated formula equals the one in a column.

        R = 1 if verify(parse(gold), parse(completion)), else 0; None if the gold does not parse

    What is found and what is equal is what TRL's `accuracy_reward` says: a formula in LaTeX
    (`\boxed{…}` first, otherwise one that follows "answer"), compared by math-verify. But its time
    limits are signals, which work on the main thread only, while the limit here is the life of a
    process: it holds on any thread and in C code. Two processes work at once, and remember what
    they have parsed and compared.

    It logs `reward/<name>/timeout_rate`, `reward/<name>/error_rate` (shares of completions) and
    `reward/<name>/ms_p95` (milliseconds per completion).

    Args:
        column: the column with the right answers, in LaTeX or as plain numbers.
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
        ValueError: (when called) if the column is missing, with the columns there are.

    Deviation: TRL reads the first message of a completion, this the last.

    How it can be hacked: of an equation the last side alone may count (1 = 2 is right for 2), 50 is
    right for 50%; and by formulas that take too long, if a timeout earned more than a wrong answer.

    Example:
        >>> reward = MathAnswer(timeout=30)
        >>> texts = [r"so $\boxed{\frac{2}{6}}$", r"so $\boxed{3}$"]
        >>> reward(texts, solution=[r"$\frac{1}{3}$"] * 2)
        [1.0, 0.0]
        >>> reward.close()

    Source: Kydlíček, math-verify 0.9, with the settings of TRL 1.16.
    """

    def __init__(
        self,
        column: str = "solution",
        *,
        timeout: float = 1.0,
        memory: float | None = 4.0,
        on_timeout: Policy = "wrong",
        on_error: Policy = "wrong",
        processes: int = 2,
        name: str = "math_answer",
    ) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError(
                "math-verify is not installed, and MathAnswer compares by it; "
                "pip install 'grpo-credit[math]'"
            )
        super().__init__(
            _Verifier(column, name),
            timeout=timeout,
            memory=memory,
            on_error=on_error,
            on_timeout=on_timeout,
            processes=processes,
            name=name,
        )


class _Verifier(TextReward):
    """What runs in the processes; it has no time limit of its own."""

    def __init__(self, column: str, name: str) -> None:
        super().__init__(name)
        self.columns = (column,)

    def warm_up(self) -> None:
        """Import math-verify, and make it compile its patterns and load its grammar."""
        for module in ("parser", "grader"):  # they warn that their signals are off
            logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
        self.score(r"$\boxed{\frac{x}{2}}$", **dict.fromkeys(self.columns, r"$\frac{2x}{4}$"))

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text."""
        from math_verify import parse

        [gold] = row.values()
        if gold is None or not _parsed_gold(str(gold)):
            return None
        answer = parse(text, [_latex()], extraction_mode="first_match", parsing_timeout=0)
        if not answer:  # a gold that hangs with any formula has to with none, for `guard` to see it
            _verdict(str(gold), _Parsed(_parsed_gold("1")))
            return 0.0
        return _verdict(str(gold), _Parsed(answer))


class _Parsed:
    """What was parsed, equal to what has the same structure and was written the same."""

    def __init__(self, answer: list[Any]) -> None:
        from sympy import srepr

        self.answer = answer
        self.key = tuple(map(srepr, answer))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Parsed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=1024)
def _parsed_gold(text: str) -> list[Any]:
    from math_verify import parse

    return parse(text, parsing_timeout=0)


@functools.lru_cache(maxsize=4096)
def _verdict(gold: str, parsed: _Parsed) -> float:
    """Compare; the completions of a group share the right answer and often the wrong ones."""
    from math_verify import verify

    return float(verify(_parsed_gold(gold), parsed.answer, timeout_seconds=0))


@functools.cache
def _latex() -> Any:
    """Return TRL's settings: a well-formed formula, boxes first, none without an anchor."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig

    return LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )


def __getattr__(name: str) -> Any:
    """Make `math_answer` when it is first asked for: without math-verify it cannot be made."""
    if name != "math_answer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = MathAnswer()
    return globals()[name]
