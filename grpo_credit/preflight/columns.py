"""Which columns of the data the rewards read, and which of those are not there, or say nothing."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

from grpo_credit.preflight.findings import Finding, Severity
from grpo_credit.text import did_you_mean


def spread(data: Any, count: int) -> list[Any]:
    """Return rows at even distances over the data, or the first ones of a stream."""
    if not hasattr(data, "__len__"):
        return list(islice(iter(data), count))
    count = min(count, len(data))
    return [data[i * len(data) // count] for i in range(count)]


# What TRL hands to every reward function beside the data's columns.
GIVEN = frozenset(
    {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
     "environments"}
)  # fmt: skip
_NEAR = 0.8  # how alike two names are, 0 to 1, before one is taken for a slip of the other
FEW = 0.1  # of the right answers may be unreadable before that is a warning
Named = Sequence[tuple[str, Any]]


def check_columns(rewards: Named, columns: Sequence[str]) -> list[Finding]:
    """Find columns that a reward reads and the data lack.

    A column is read where the reward declares it (`columns`), names it as a parameter, or, with
    `**kwargs`, as a string in its code that is nearly the name of a column (TRL hands over what
    there is, so that `kwargs.get("ground_truths")` is None for ever, without an error).
    """
    return [
        finding
        for name, reward in rewards
        for finding in (*_declared(name, reward, columns), *_parameters(name, reward, columns),
                        *_slips(name, reward, columns))
    ]  # fmt: skip


def columns_read(rewards: Named, columns: Sequence[str]) -> dict[str, str]:
    """Map each column of the data that a reward reads to the name of such a reward."""
    read = {column: name for name, reward in rewards for column in _reads(reward)}
    return {column: read[column] for column in columns if column in read}


def check_values(read: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find columns that a reward reads and that are empty or the same in every row.

    The same value in every row is a warning where it is all that a reward reads of the data, and a
    note where another of its columns differs.
    """
    values = {column: [row[column] for row in rows] for column in read}
    differ = [c for c, every in values.items() if any(value != every[0] for value in every)]
    told_apart = {read[column] for column in differ}
    findings = (
        _same(column, name, values[column], "note" if name in told_apart else "warning")
        for column, name in read.items()
    )
    return [finding for finding in findings if finding is not None]


def check_golds(rewards: Named, rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find right answers in the data that rewards cannot read, and for which they abstain.

    Asked is every reward that says which those are (`unreadable`), and every part of a combination.
    """
    findings = (
        _unread(name, part, column, [row[column] for row in rows if column in row])
        for name, reward in rewards
        for part in _parts(reward)
        if hasattr(part, "unreadable")
        for column in _columns_of(part)[:1]
    )
    return [finding for finding in findings if finding is not None]


def _parts(reward: Any) -> Iterator[Any]:
    """Yield a reward, or what it is made of."""
    reward = without_partials(reward)
    parts = getattr(reward, "parts", None) or ()
    if not parts:
        yield reward
    for part in parts:
        yield from _parts(part)


def _unread(name: str, reward: Any, column: str, golds: list[Any]) -> Finding | None:
    remedy = (
        "Name the column with the bare answers, or take a reward that reads such answers: "
        "MathAnswer formulas, NumericAnswer one number, ChoiceAnswer letters, ExactAnswer texts."
    )
    try:
        unread = reward.unreadable(golds)
    except ValueError as error:  # it reads none of the kind, and says why
        return Finding("error", f"answers for {name}", str(error), remedy)
    if not unread:
        return None
    share = len(unread) / len(golds)
    return Finding(
        "error" if share == 1 else "warning" if share > FEW else "note",
        f"answers for {name}",
        f"reward {name!r} cannot read {len(unread)} of {len(golds)} values of the column "
        f"{column!r}, such as {unread[0]!r:.60}: there it abstains, and nothing is learnt from it.",
        remedy,
    )


def _declared(name: str, reward: Any, columns: Sequence[str]) -> Iterator[Finding]:
    for column in _columns_of(reward):
        if column not in columns:
            yield _missing("error", name, column, columns, "so it raises an error")


def _parameters(name: str, reward: Any, columns: Sequence[str]) -> Iterator[Finding]:
    for parameter in _named_parameters(reward):
        if parameter.name in {*GIVEN, *columns, *_columns_of(reward)}:
            continue
        if parameter.default is parameter.empty:
            yield _missing("error", name, parameter.name, columns, "so the call fails")
        elif get_close_matches(parameter.name, columns, cutoff=_NEAR):
            consequence = f"so it is {parameter.default!r:.40} for every completion"
            yield _missing("warning", name, parameter.name, columns, consequence)


def _slips(name: str, reward: Any, columns: Sequence[str]) -> Iterator[Finding]:
    words, read = _words(reward), _reads(reward)
    for word in sorted(words - {*GIVEN, *columns, *_columns_of(reward)}):
        near = get_close_matches(word, columns, n=1, cutoff=_NEAR)
        if near and near[0] not in read:
            yield _missing("warning", name, word, columns, "so what it looks for is never there")


def _missing(
    severity: Any, name: str, column: str, columns: Sequence[str], consequence: str
) -> Finding:
    hint = did_you_mean(column, columns).strip()
    return Finding(
        severity,
        f"columns of {name}",
        f"reward {name!r} reads the column {column!r}, which the data lack ({', '.join(columns)}), "
        f"{consequence}.",
        f"{hint} Rename a column of the data, or read the right one.".strip(),
    )


def _same(column: str, name: str, values: list[Any], severity: Severity) -> Finding | None:
    if len(values) < 2:
        return None
    if all(value is None or value in ("", [], {}) for value in values):
        return Finding(
            "error",
            f"columns of {name}",
            f"the column {column!r}, which reward {name!r} reads, is empty in all "
            f"{len(values)} rows looked at.",
            "Fill it, or let the reward read another one.",
        )
    if all(value == values[0] for value in values[1:]):
        return Finding(
            severity,
            f"columns of {name}",
            f"the column {column!r}, which reward {name!r} reads, is {values[0]!r:.60} in all "
            f"{len(values)} rows looked at.",
            "Check that the data were prepared as meant.",
        )
    return None


def without_partials(reward: Any) -> Any:
    """Return what partials of a reward call in the end."""
    return without_partials(reward.func) if isinstance(reward, functools.partial) else reward


def reward_name(reward: Any) -> str:
    """Return what TRL calls a reward in its logs; of a model's name, the name itself."""
    reward = without_partials(reward)
    return reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)


# ---- what a reward reads ----------------------------------------------------------------------


def _reads(reward: Any) -> set[str]:
    named = {parameter.name for parameter in _named_parameters(reward)}
    return ({*_columns_of(reward)} | named | _words(reward)) - GIVEN


def _columns_of(reward: Any) -> tuple[str, ...]:
    declared = getattr(reward, "columns", ())
    return (declared,) if isinstance(declared, str) else tuple(declared)


def _function(reward: Any) -> Callable[..., Any] | None:
    """Return what is called, beneath partials and wrappers; None for a model."""
    reward = without_partials(reward)
    if hasattr(reward, "parameters") and hasattr(reward, "forward"):
        return None
    reward = inspect.unwrap(reward)
    return reward if inspect.isroutine(reward) else type(reward).__call__


def _named_parameters(reward: Any) -> list[inspect.Parameter]:
    if _function(reward) is None:
        return []
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # written in C
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in parameters if p.kind in kinds]


def _words(reward: Any) -> set[str]:
    """Collect the strings in a function's own code that could be names of columns."""
    code = getattr(_function(reward), "__code__", None)
    takes_all = code is not None and code.co_flags & inspect.CO_VARKEYWORDS
    return {c for c in _constants(code) if c.isidentifier()} if takes_all else set()


def _constants(code: Any) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from (part for part in constant if isinstance(part, str))
        elif inspect.iscode(constant):  # a comprehension or an inner function
            yield from _constants(constant)
