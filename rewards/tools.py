"""Reward calls of tools that are well formed, and those that a column asks for.

Needs the extra: pip install 'grpo-credit[json]'.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .contract import ColumnReward, Completion, Spans, completion_text, is_nothing, listed
from .extraction import thought_end
from .json_answer import checked_schema, follows, need_jsonschema, parsed


class Call(NamedTuple):
    """A call of a tool: its name and its arguments."""

    name: str
    arguments: Any


class ToolCalls(ColumnReward):
    r"""Reward a completion whose calls of tools are right.

        R = 1 if there is a call ∧ each is of a known tool ∧ its arguments follow that tool's schema
                                 ∧ the calls are those of the column, if one is named, else 0

    Calls are read from all messages of the assistant (`tool_calls`, as TRL puts them there), or,
    where a message has none and where a completion is a text, from the form of Hermes and Qwen,
    `<tool_call>{"name": …, "arguments": …}</tool_call>`. Arguments may be an object, or a text that
    is one in JSON. What is written in a thought is no call. A block that is no call, or is never
    closed, is a wrong call, and so is a thought that never closes. With a column the calls may come
    in any order; where it holds an empty list, not to call anything is right.

    Args:
        tools: functions with type hints and a docstring in Google's style, as TRL takes them, or
            their JSON schemas. An argument that a tool does not have is wrong.
        column: the column with the right calls: a list of {"name": …, "arguments": …} as a JSON
            text. None asks for the form alone.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column holds nothing; dimensionless.

    Raises:
        ImportError: if jsonschema is not installed.
        ValueError: if there is no tool, two have one name, or one's schema is none; (when called)
            if a column is missing, or does not hold calls.

    How it can be hacked: without a column any call in the right form pays, needed or not.

    Example:
        >>> city = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
        >>> weather = {"name": "weather", "parameters": {"type": "object", **city}}
        >>> reward = ToolCalls([weather])
        >>> call = '<tool_call>{"name": "weather", "arguments": {"city": %s}}</tool_call>'
        >>> reward([call % '"Bern"', call % "3", "It rains."])
        [1.0, 0.0, 0.0]
        >>> gold = '[{"name": "weather", "arguments": {"city": "Bern"}}]'
        >>> ToolCalls([weather], column="calls")([call % '"Bern"'], calls=[gold])
        [1.0]
    """

    def __init__(
        self,
        tools: Sequence[Callable[..., Any] | Mapping[str, Any]],
        *,
        column: str | None = None,
        name: str = "tool_calls",
    ) -> None:
        need_jsonschema()
        super().__init__(name, column)
        functions = [_function(tool) for tool in tools]
        self.schemas = {function["name"]: _parameters(function) for function in functions}
        if not functions or len(self.schemas) < len(functions):
            names = ", ".join(function["name"] for function in functions)
            raise ValueError(
                f"tools are {names or 'none'}; expected one or more, each with a name."
            )

    def _scores(
        self, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        return [self._score(*pair) for pair in zip(completions, rows, strict=True)]

    def _score(self, completion: Completion, row: Mapping[str, Any]) -> float | None:
        calls = [_read(call) for call in _calls(completion)]
        formed = all(map(self._fits, calls))
        if self.column is None:
            return float(formed and bool(calls))
        golds = self._gold_of(row)
        return None if golds is None else float(formed and _same(calls, golds))

    def _fits(self, call: Call | None) -> bool:
        known = call is not None and call.name in self.schemas
        return known and follows(call.arguments, self.schemas[call.name])

    def gold(self, value: Any) -> list[Call] | None:
        """Read the right calls; None if the column's value says nothing."""
        if is_nothing(value):
            return None
        try:
            found = parsed(value) if isinstance(value, str) else value
            calls = [_read(call) for call in found] if isinstance(found, list | tuple) else [None]
        except (TypeError, ValueError):
            calls = [None]
        if None in calls:
            raise ValueError(
                f"column {self.column!r} of reward {self.__name__!r} holds {value!r:.80}, expected "
                'calls as JSON: [{"name": …, "arguments": {…}}, …].'
            )
        return [call for call in calls if call is not None]

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where calls are in each completion that is a text, as `call`."""
        return [
            {"call": [match.span() for match in _blocks(completion)]}
            if isinstance(completion, str)
            else {"call": []}  # of messages: outside of the last one's text
            for completion in listed(self.__name__, "completions", completions)
        ]


_BLOCK = re.compile(r"<tool_call>((?:(?!</?tool_call>).)*)(?:</tool_call>)?", re.DOTALL)


def _calls(completion: Completion) -> Iterator[Any]:
    """Return what stands where calls do."""
    if isinstance(completion, str):
        yield from _written(completion)
        return
    for message in completion:
        if message.get("role", "assistant") == "assistant":
            yield from message.get("tool_calls") or _written(completion_text([message]))


def _written(text: str) -> Iterator[str | None]:
    if thought_end(text) is None:
        yield None
    for match in _blocks(text):
        yield match[1] if match[0].endswith("</tool_call>") else None


def _blocks(text: str) -> Iterator[re.Match[str]]:
    start = thought_end(text)
    return _BLOCK.finditer(text, len(text) if start is None else start)


def _read(call: Any) -> Call | None:
    """Read a call: of a text, or of a message; None if it is none."""
    try:
        call = parsed(call) if isinstance(call, str) else call
        call = call.get("function", call)
        name, arguments = call["name"], call.get("arguments", {})
        arguments = parsed(arguments) if isinstance(arguments, str) else arguments
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return Call(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _same(calls: Sequence[Call | None], golds: Sequence[Call]) -> bool:
    """Return whether calls are the same, in any order."""
    left = list(calls)
    for gold in golds:
        named = ((n, call) for n, call in enumerate(left) if call and call.name == gold.name)
        same = {"const": gold.arguments}
        at = next((n for n, call in named if follows(call.arguments, same)), None)
        if at is None:
            return False
        del left[at]
    return not left


def _function(tool: Any) -> dict[str, Any]:
    """Return the schema of a tool, a function or a schema."""
    if callable(tool):
        from transformers.utils import get_json_schema

        tool = get_json_schema(tool)
    function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    if not isinstance(function.get("name"), str):
        raise ValueError(f"tool is {tool!r:.80}, expected a function or its JSON schema.")
    return dict(function)


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments, and let no others in."""
    parameters = function.get("parameters") or {"type": "object"}
    return checked_schema({"additionalProperties": False, **parameters})
