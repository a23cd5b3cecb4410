import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import InFence, JsonAnswer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"name": "Ada"}', 1.0),
        ('{"age": 36, "name": "Ada"}', 1.0),
        ('  {"name": "Ada"}\n', 1.0),
        ('So:\n```json\n{"name": "Ada"}\n```\nDone.', 1.0),
        ('{"age": 36}', 0.0),
        ('{"name": "Ada", "age": -1}', 0.0),
        ('{"name": "Ada", "town": "London"}', 0.0),
        ('{"name": "Ada"', 0.0),
        ("{'name': 'Ada'}", 0.0),
        ('{"name": "Ada",}', 0.0),
        ('Here: {"name": "Ada"}', 0.0),
        ('{"name": "Ada"} {"name": "Bob"}', 0.0),
        ('```json\n{"name": "Ada"}\n', 0.0),
        ('```json\n{"name": "Ada"}\n```\n```json\n{"name": "Bob"}\n```', 0.0),
        ('```\n{"name": "Ada"}\n```\n```json\n{"name": "Bob"}\n```', 0.0),
        ('```json\n{"name": "Ada"}\n```\n~~~\n{"name": "Bob"}\n~~~', 0.0),
        ('```json\n{"name": "Ada"}\n```\nAgain:\n```\n{"name": "Ada"}\n```', 1.0),
        ('```json\n{"name": "Ada"}\n```\n```python\n1\n```', 1.0),
        ("", 0.0),
        ("[]", 0.0),
        ('```\n{"name": "Ada"}\n```', 1.0),
    ],
)
def test_a_form_is_followed_or_not(text, score):
    assert JsonAnswer(PERSON)([text]) == [score]


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", '{"a": 1, "a": 1}', "1" * 5000, "[" * 100_000, '{"a":' * 100_000,
     "[" * 100_000 + "]" * 100_000, "1e400",
     "[-1e999]", '"' + "a" * 1_000_000 + '"', "\ufeff1", "01", "'a'"],
)  # fmt: skip
def test_what_readers_disagree_on_is_no_json(text):
    assert JsonAnswer()([text]) == [0.0]


def test_a_recursive_schema_is_not_followed_deeper_than_python_reads():
    nested = {"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}}
    reward = JsonAnswer({**nested, "$ref": "#/$defs/list"})
    assert reward(["[[[]]]", "[[1]]", "[" * 900 + "]" * 900]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        ('{"b": [1, 2], "a": 1}', '{"a": 1.0, "b": [1, 2]}', 1.0),
        ("[2, 1]", "[1, 2]", 0.0),
        ("true", "1", 0.0),
        ("1", "true", 0.0),
        ("[true]", "[1]", 0.0),
        ('"1"', "1", 0.0),
        ("1e2", "100", 1.0),
        ("null", "null", 1.0),
        ("0", "false", 0.0),
        ('{"a": 1}', '{"a": 1, "b": null}', 0.0),
    ],
)
def test_values_are_equal_as_json_has_it(text, gold, score):
    assert JsonAnswer(column="gold")([text], gold=[gold]) == [score]


@given(VALUES)
def test_a_value_written_otherwise_earns_the_same(value):
    texts = [json.dumps(value, indent=indent, sort_keys=True) for indent in (None, 3)]
    gold = json.dumps(value)
    assert JsonAnswer(column="gold")(texts, gold=[gold] * 2) == [1.0, 1.0]


@given(VALUES, VALUES)
def test_another_value_never_earns(one, other):
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) or one == other:
        return
    assert JsonAnswer(column="gold")([json.dumps(one)], gold=[json.dumps(other)]) == [0.0]


def test_what_a_schema_cannot_reckon_with_does_not_follow_it():
    hundreds = JsonAnswer({"multipleOf": 0.5})
    assert hundreds(["1.5", "1" + "0" * 400, "1.3"]) == [1.0, 0.0, 0.0]


def test_the_answer_is_named():
    text = "So:\n```json\n[1]\n```"
    (spans,) = JsonAnswer().spans([text])
    assert [text[slice(*span)] for span in spans["answer"]] == ["[1]"]
    assert JsonAnswer().spans(["```json\n"]) == [{"answer": []}]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"no JSON Schema: 'numbr' is not valid .* at \$\.type"):
        JsonAnswer({"type": "numbr"})
    with pytest.raises(ValueError, match=r"column 'gold' .* holds 'Bern', expected JSON: .*dumps"):
        JsonAnswer(column="gold")(["1"], gold=["Bern"])
    with pytest.raises(ValueError, match=r"column 'gold' .* holds 'Bern', expected JSON"):
        JsonAnswer(column="gold").unreadable(["1", None, "Bern"])
    with pytest.raises(ValueError, match=r"refers to what is not there: .*nope"):
        JsonAnswer({"$ref": "#/nope"})


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("```\na\n```", None, "a"),
        ("```\na\n```", "python", None),
        ("```Python\na\n```", "python", "a"),
        ("~~~python\na\n~~~", "python", "a"),
        ("````python\n```\na\n```\n````", "python", "```\na\n```"),
        ("```python\na\n```\ntext\n```json\nb\n```", "json", "b"),
        ("text ```python\na\n```", "python", None),
        ("```python\na", "python", None),
        ("  ```python\n  a\n  ```", "python", "a"),
        ("```python\n```", "python", ""),
        ("```json\na\n```\n```json\nb\n```", "json", None),
    ],
)
def test_code_blocks_are_those_of_markdown(text, language, found):
    span = InFence(language)(text)
    assert (None if span is None else text[slice(*span)]) == found
