import json
import pickle

import pytest

from rewards import ToolCalls


def weather(city: str, days: int = 1) -> str:
    """Return the weather.

    Args:
        city: where.
        days: how many.
    """
    return city * days


def clock() -> str:
    """Return the time."""
    return "12:00"


def call(name="weather", **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def messages(*calls, text=""):
    """Return what TRL's loop of tools leaves: calls, results, and an answer."""
    assistant = {"role": "assistant", "content": text, "tool_calls": list(calls)}
    results = [{"role": "tool", "name": "weather", "content": "rain"} for _ in calls]
    return [assistant, *results, {"role": "assistant", "content": "It rains."}]


def block(name="weather", **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


TOOLS = [weather, clock]


@pytest.mark.parametrize("make", [lambda *calls: messages(*calls), None], ids=["messages", "text"])
@pytest.mark.parametrize(
    ("calls", "score"),
    [
        ([{"city": "Bern"}], 1.0),
        ([{"city": "Bern", "days": 3}], 1.0),
        ([{"city": "Bern"}, {"name": "clock"}], 1.0),
        ([{"city": 3}], 0.0),
        ([{"days": 3}], 0.0),
        ([{"city": "Bern", "town": "Bern"}], 0.0),
        ([{"name": "clock", "city": "Bern"}], 0.0),
        ([{"name": "whether", "city": "Bern"}], 0.0),
        ([{"city": "Bern"}, {"city": 3}], 0.0),
        ([], 0.0),
    ],
)
def test_the_form_of_calls_is_judged(make, calls, score):
    completion = make(*(call(**c) for c in calls)) if make else "".join(block(**c) for c in calls)
    assert ToolCalls(TOOLS)([completion]) == [score]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}',
        "<tool_call></tool_call>",
        "<tool_call>weather(city='Bern')</tool_call>",
        '<tool_call>["weather"]</tool_call>',
        '<tool_call>{"name": "weather", "arguments": ["Bern"]}</tool_call>',
        '<tool_call>{"name": ["weather"], "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {"city": "Bern"}}</tool_call>',
        '<tool_call><tool_call>{"name": "clock"}</tool_call>',
        "<tool_call>" * 20_000,
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_what_is_no_call_is_wrong(text):
    assert ToolCalls(TOOLS)([text]) == [0.0]


@pytest.mark.parametrize(
    "calls",
    [[{"function": None}], ["weather"], [None], [{}], [{"function": {"name": "weather"}}],
     [{"function": {"name": "weather", "arguments": "{"}}]],
)  # fmt: skip
def test_broken_calls_of_messages_are_wrong(calls):
    assert ToolCalls(TOOLS)([messages(*calls)]) == [0.0]


def test_arguments_may_be_a_text():
    called = {"function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    assert ToolCalls(TOOLS)([messages(called)]) == [1.0]


def test_calls_in_the_text_of_a_message_count_where_it_has_no_others():
    written = [{"role": "assistant", "content": block(city="Bern")}]
    assert ToolCalls(TOOLS)([written]) == [1.0]
    assert ToolCalls(TOOLS, column="calls")([written], calls=["[]"]) == [0.0]


def test_only_the_assistant_calls():
    echo = [{"role": "tool", "content": "", "tool_calls": [call(city="Bern")]}]
    assert ToolCalls(TOOLS)([echo]) == [0.0]


@pytest.mark.parametrize(
    ("calls", "gold", "score"),
    [
        ([call(city="Bern")], [{"name": "weather", "arguments": {"city": "Bern"}}], 1.0),
        ([call(city="Rom")], [{"name": "weather", "arguments": {"city": "Bern"}}], 0.0),
        ([call("clock"), call(city="Bern")],
         [{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "clock"}], 1.0),
        ([call("clock"), call("clock")], [{"name": "clock"}], 0.0),
        ([call("clock")], [{"name": "clock"}, {"name": "clock"}], 0.0),
        ([], [], 1.0),
        ([call("clock")], [], 0.0),
        ([call(city="Bern", days=True)],
         [{"name": "weather", "arguments": {"city": "Bern", "days": 1}}], 0.0),
    ],
)  # fmt: skip
def test_calls_are_those_of_the_column(calls, gold, score):
    reward = pickle.loads(pickle.dumps(ToolCalls(TOOLS, column="calls")))
    assert reward([messages(*calls)], calls=[json.dumps(gold)]) == [score]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"tools are none; expected one or more"):
        ToolCalls([])
    with pytest.raises(ValueError, match=r"tools are weather, weather; expected"):
        ToolCalls([weather, weather])
    with pytest.raises(ValueError, match=r"tool is 'weather', expected a function or its JSON"):
        ToolCalls(["weather"])
    with pytest.raises(ValueError, match=r"schema is no JSON Schema: 'objec' is not valid"):
        ToolCalls([{"name": "x", "parameters": {"type": "objec"}}])
    with pytest.raises(ValueError, match=r"holds '\{\}', expected calls as"):
        ToolCalls(TOOLS, column="calls")([""], calls=["{}"])
    with pytest.raises(ValueError, match=r"column 'calls' .* holds 'weather', expected calls as"):
        ToolCalls(TOOLS, column="calls")([""], calls=["weather"])


def test_calls_in_a_text_are_named():
    text = f"I look. {block(city='Bern')} Then {block('clock')}"
    (spans,) = ToolCalls(TOOLS).spans([text])
    assert [text[slice(*span)] for span in spans["call"]] == [block(city="Bern"), block("clock")]
