"""What a reward is: a picklable object with a name that TRL calls with completions and columns.

    reward(completions, **columns) -> one float (or None: does not apply) per completion

Beyond its score a reward may say where in the text it was earned, and offers then any of:

* `spans(completions)`: named character spans (`Spans`) of each completion;
* `decided(completions)`: after how many characters the score was settled (`Decided`);
* `steps(completions)`: for each completion, (character where a step ends, its reward) pairs;
* `turn_rewards(completions)`: for each completion, (turn, reward) pairs; turns count from 0, each
  is what one call of the model wrote;
* `automaton`: the `rewards.automaton.Automaton` of the prefix, if the score is 1 where it accepts
  and 0 elsewhere, otherwise None;
* `automaton_for(prompt)`: the same, where the prompt decides;
* `automata(completions)`: the same, one for each completion, where a column decides.

Where a method of these has parameters named as what the reward call is given (columns of the data
set, `prompts`, `completion_ids`, `environments`, `trainer_state`, …), it is given them, and also
`written`: for each completion what the model wrote in each message, thought and call included, ""
for the messages of others. Each returns a list with one answer per completion. Places are counted
in that completion's text, from 0 to its length: in a conversation, the assistant's last message.
(message, start, end) in `spans`, or (message, end, reward) in `steps`, counts in `written` of any
message. `CreditGRPOTrainer` refuses any other place, in place of clipping it.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Number, Real
from typing import Any, NamedTuple

from .blanks import is_blank
from .patience import BUDGET, at_most, slow_patterns

Completion = str | list[dict[str, Any]]
LogMetric = Callable[[str, float], None]
LogExtra = Callable[[str, list[Any]], None]
TRLS = ("prompts", "completion_ids")  # columns that TRL adds to those of the data set
Spans = dict[str, list[tuple[int, int]]]  # name -> (first character, one past the last)


class Decided(NamedTuple):
    """After how many characters of a completion its score can no longer change.

    Args:
        chars: the number, counting the character that settled it; None if only the end of the
            completion settles it.
        exact: whether it is the smallest such number; otherwise it is an upper bound.

    Example:
        >>> from rewards import RegexReward
        >>> RegexReward("ab").decided(["ax..."])[0]
        Decided(chars=2, exact=True)
    """

    chars: int | None
    exact: bool = True


class TextReward:
    """Base of the rewards that judge one text at a time; a subclass says how in `score`.

    Args:
        name: what TRL calls the reward in its logs.

    Attributes:
        columns: the data set's columns that `score` takes, by name.
        budget: seconds that patterns may look at all completions of a call (`rewards.patience`).

    Raises:
        ValueError: (when called) if a column is missing, with the columns there are, or has another
            length than the completions.
        TypeError: (when called) if a completion is neither a text nor a list of messages.

    Example:
        >>> class Short(TextReward):
        ...     def score(self, text):
        ...         return float(len(text) < 4)
        >>> Short("short")(["abc", "abcd"])
        [1.0, 0.0]
    """

    columns: tuple[str, ...] = ()
    budget = BUDGET

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score completions; see the class."""
        rows = rows_of(self, columns, len(listed(self.__name__, "completions", completions)))
        with at_most(self.budget), slow_patterns() as slow:
            scores = self._scores(completions, rows)
        if log_metric is not None:
            for what, count in self._counts(scores, slow.total()).items():
                log_metric(f"reward/{self.__name__}/{what}_rate", count / max(1, len(scores)))
        return scores

    def _counts(self, scores: Sequence[float | None], timeouts: int) -> dict[str, int]:
        """Return what is logged of a call: of how many completions something is true, by name."""
        return {}

    def _scores(
        self, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        texts = texts_of(self, completions)
        return [self.score(text, **row) for text, row in zip(texts, rows, strict=True)]

    def score(self, text: str, /, *args: Any, **row: Any) -> float | None:
        """Score one text; `row` holds its value of each column in `columns`."""
        raise NotImplementedError


class ColumnReward(TextReward):
    """Base of the rewards for which one column of the data set says what is right, if it is named.

    Logs the share of completions of which it says nothing as `reward/<name>/unreadable_rate`.
    """

    def __init__(self, name: str, column: str | None) -> None:
        super().__init__(name)
        self.column = column
        self.columns = () if column is None else (column,)

    def _counts(self, scores: Sequence[float | None], timeouts: int) -> dict[str, int]:
        return {} if self.column is None else {"unreadable": scores.count(None)}

    def gold(self, value: Any) -> Any:
        """Read a value of the column; None if it says nothing: there the reward abstains."""
        return None if is_nothing(value) else value

    def _gold_of(self, row: Mapping[str, Any]) -> Any:
        return None if self.column is None else self.gold(row[self.column])

    def unreadable(self, golds: Iterable[Any]) -> list[Any]:
        """Return the column's values for which the reward abstains."""
        return [gold for gold in golds if self.gold(gold) is None]


def completion_text(completion: Completion) -> str:
    """Return what a model answered: a plain text, or the assistant's last message.

    What tools and users say in a conversation is never scored, whoever spoke last. A message
    without a role is the assistant's. A thought that a parser has set apart (`reasoning_content`)
    stands before the content again, between `<think>` and `</think>`.

    Raises:
        TypeError: if it is neither a text nor a list of messages.
        ValueError: if no message is the assistant's, with the roles there are.

    Example:
        >>> completion_text([{"role": "assistant", "content": "4", "reasoning_content": "2+2"}])
        '<think>2+2</think>4'
    """
    if isinstance(completion, str):
        return completion
    return message_text(completion[answered(completion)])


def message_text(message: Mapping[str, Any]) -> str:
    """Return what a message says: its thought, if a parser has set it apart, and its content.

    Example:
        >>> message_text({"content": "4", "reasoning_content": "2+2"})
        '<think>2+2</think>4'
    """
    return "".join(message_pieces(message))


def message_pieces(message: Mapping[str, Any]) -> list[str]:
    """Return the parts of `message_text`: the thought between its tags, if any, and the content.

    A thought that nothing follows was never closed: parsers let it run to the end of the message.

    Example:
        >>> message_pieces({"content": "4", "reasoning_content": "2+2"})
        ['<think>', '2+2', '</think>', '4']
    """
    content = _content(message)
    thought = message.get("reasoning_content") or message.get("thinking")
    if not (isinstance(thought, str) and thought):
        return [content]
    if content or message.get("tool_calls"):
        return ["<think>", thought, "</think>", content]
    return ["<think>", _ENDED.sub("", thought), content]


def texts_after(completion: Completion) -> list[str]:
    """Return the texts of the messages that follow the one which is scored: others wrote them.

    Example:
        >>> said = [("assistant", "a"), ("user", "thanks")]
        >>> texts_after([{"role": role, "content": text} for role, text in said])
        ['thanks']
    """
    if isinstance(completion, str):
        return []
    return [_content(message) for message in completion[answered(completion) + 1 :]]


def answered(completion: Any) -> int:
    """Return which message of a conversation is scored; see `completion_text`.

    Example:
        >>> said = [("assistant", "a"), ("tool", "b"), ("assistant", "c"), ("user", "d")]
        >>> answered([{"role": role, "content": text} for role, text in said])
        2
    """
    if not (isinstance(completion, list) and completion):
        raise _not_a_completion(completion)
    for place in reversed(range(len(completion))):
        if not isinstance(completion[place], dict):
            raise _not_a_completion(completion)
        if completion[place].get("role", "assistant") == "assistant":
            return place
    roles = ", ".join(dict.fromkeys(str(message["role"]) for message in completion))
    raise ValueError(
        f"no message of the completion is the assistant's; the roles are {roles}. Only what the "
        "model wrote is scored: give its messages the role 'assistant'."
    )


def _not_a_completion(value: Any) -> TypeError:
    return TypeError(f"completion is {value!r:.80}, expected a string or a list of messages.")


_ENDED = re.compile(r"(?:<\|[^<>|\s]{1,40}\|>|</s>|<eos>|<end_of_turn>|<turn\|>)\s*\Z")


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part.get("text") or "" for part in content)  # content blocks
    raise TypeError(f"content is {content!r:.80}, expected a string or a list of blocks.")


def accepted(value: Any) -> list[Any]:
    """Return the right answers that a value of a column holds: itself, or those of a list.

    None, NaN and texts of whitespace are none; where one is a container of its own, none is read.
    """
    several = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, list | tuple | dict | set | bytes) for one in several):
        return []
    return [one for one in several if not is_nothing(one)]


def is_nothing(value: Any) -> bool:
    """Return whether a value of a column says nothing: None, NaN, or a text that shows nothing."""
    if isinstance(value, str):
        return is_blank(value)
    return value is None or (isinstance(value, Number) and value != value)  # NaN


def spellings(value: Any) -> list[str]:
    """Return how a right answer may be written: 42.0, as pandas makes of 42, is 42 as well."""
    whole = isinstance(value, Real | Decimal) and math.isfinite(value) and value == int(value)
    return [str(value)] if isinstance(value, bool) or not whole else [str(int(value)), str(value)]


def texts_of(reward: Any, completions: Sequence[Completion]) -> list[str]:
    """Return the texts of completions.

    Raises:
        TypeError: if they are no list, such as one text, or one of them is no completion.
    """
    return [completion_text(one) for one in listed(reward.__name__, "completions", completions)]


def one_span(
    reward: Any,
    name: str,
    find: Callable[[str], tuple[int, int] | None],
    completions: Sequence[Completion],
) -> list[Spans]:
    """Return what is found in each completion, in the time that a call has, as spans of a name."""
    with at_most(reward.budget):
        places = [find(text) for text in texts_of(reward, completions)]
    return [{name: [] if span is None else [span]} for span in places]


def expected(argument: str, value: Any, kind: Any, what: str) -> None:
    """Raise a TypeError if an argument is of no such kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{argument} is {value!r}, expected {what}.")


def need(module: str, extra: str, why: str) -> None:
    """Raise an ImportError if what a reward works by is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"{module.replace('_', '-')} is not installed, and {why}; "
            f"pip install 'grpo-credit[{extra}]'"
        )


def listed(reward: str, what: str, values: Any) -> Any:
    """Return values, one per completion, as they came, once they are known to be no single one.

    Raises:
        TypeError: if they are a text, which would be taken apart character by character, a mapping,
            or have no length.
    """
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        raise TypeError(
            f"{what} of reward {reward!r} is {values!r:.80}, expected a list with one value per "
            f"completion; put a single one into a list."
        )
    return values


def rows_of(reward: Any, columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Cut the columns that a reward declares into rows, one per completion.

    Raises:
        ValueError: if one is missing, with the columns there are, or has another length.
        TypeError: if one is no list, such as one text.
    """
    names = reward.columns
    for name in names:
        if name not in columns:
            own = f"TRL passes them; outside TRL pass {name}=, one per completion."
            other = "Rename a column of the data set, or name the right one when making the reward."
            raise ValueError(
                f"reward {reward.__name__!r} needs the column {name!r}; the data have "
                f"{', '.join(sorted(columns)) or 'none'}. {own if name in TRLS else other}"
            )
        one_each(reward.__name__, name, columns[name], count)
    return [{name: columns[name][row] for name in names} for row in range(count)]


def one_each(reward: str, column: str, values: Any, count: int) -> Any:
    """Return the values of a column, once they are known to be one per completion.

    Raises:
        ValueError: if there are more, or fewer.
        TypeError: if they are no list, such as one text.
    """
    if len(listed(reward, f"column {column!r}", values)) != count:
        raise ValueError(
            f"column {column!r} has {len(values)} values for {count} completions of "
            f"reward {reward!r}; expected one per completion."
        )
    return values
