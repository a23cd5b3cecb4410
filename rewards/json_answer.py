"""Reward JSON that parses, follows a schema, and is what a column says.

A schema needs the extra: pip install 'grpo-credit[json]'.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .contract import ColumnReward, Completion, Spans, is_nothing, need, one_span
from .extraction import AfterThought, Extract, InFence, Span

LONGEST = 1_000_000  # characters of an answer


@dataclass
class InJson(InFence):
    r"""Take a block fenced as ```json, or as none, or all of the text if there is no fence in it.

    Example:
        >>> InJson()(" [1]"), InJson()("```\n[1]\n```"), InJson()("```json\n1\n```\n```\n2\n```")
        ((1, 4), (4, 7), None)
    """

    language: str | tuple[str, ...] | None = ("json", "")

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        return super().find(text) if "```" in text or "~~~" in text else iter([(0, len(text))])


class JsonAnswer(ColumnReward):
    r"""Reward an answer that is JSON, of the right form, with the right content.

        R = 1 if the answer parses ∧ follows the schema, if one is given
                                 ∧ equals the column's, if one is named, else 0

    JSON is that of RFC 8259: `NaN` and `Infinity` are none, nor is an object that has a name twice
    (readers differ in which they take), a number of more than 4,300 digits or beyond what a float
    holds, or an answer of more than a million characters or nested deeper than Python reads. Values
    are equal as JSON Schema's `const` has it: objects in any order of names, 1 = 1.0, but true ≠ 1
    and "1" ≠ 1.

    Args:
        schema: a JSON Schema; the draft is the one that `$schema` names, or the newest.
        column: the column with the right value: JSON as a text. (A column of objects would get the
            names of all rows in every row, with nulls.) None asks for the form alone.
        extract: where the answer is in a completion; by default the one in a block fenced as
            ```json, or as none, or all of the text if there is no fence in it; after the thought,
            if there is one. Several that differ are none.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) 1.0, 0.0, or None where the column holds nothing; dimensionless.

    Raises:
        ImportError: if a schema or a column is given and jsonschema is not installed.
        ValueError: if the schema is none; (when called) if a column's text is no JSON.

    How it can be hacked: a form without a `required` list is followed by `{}`. A `pattern` in the
    schema runs Python's `re` on what the model wrote, and `uniqueItems` compares all pairs of its
    items: put such a reward under `guard`. `multipleOf` is reckoned in floats: 19.99 is no multiple
    of 0.01.

    Example:
        >>> schema = {"type": "object", "required": ["city"]}
        >>> form = JsonAnswer(schema)
        >>> form(['{"city": "Bern"}', '```json\n{"city": 1}\n```', '{"town": "Bern"}', '{"city"'])
        [1.0, 1.0, 0.0, 0.0]
        >>> JsonAnswer(column="gold")(['{"b": 1.0, "a": []}', "[]"], gold=['{"a": [], "b": 1}'] * 2)
        [1.0, 0.0]

    Source: JSON Schema 2020-12, https://json-schema.org; jsonschema.
    """

    def __init__(
        self,
        schema: Mapping[str, Any] | bool | None = None,
        *,
        column: str | None = None,
        extract: Extract | None = None,
        name: str = "json_answer",
    ) -> None:
        super().__init__(name, column)
        self.extract = extract or AfterThought(InJson(), required=False)
        self._schemas = [] if schema is None else [checked_schema(schema)]
        if schema is not None or column is not None:
            need_jsonschema()

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text."""
        schemas = self._schemas
        if self.column is not None:
            if (gold := self._gold_of(row)) is None:
                return None
            schemas = [*schemas, gold]
        span = self.extract.in_time(text)
        return 0.0 if span is None else float(_follows(text[slice(*span)], schemas))

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where the answer is in each completion, as `answer`."""
        return one_span(self, "answer", self.extract.in_time, completions)

    def gold(self, value: Any) -> dict[str, Any] | None:
        """Return the schema of the right value; None if the column's says nothing."""
        if is_nothing(value):
            return None
        try:
            return {"const": parsed(value) if isinstance(value, str) else value}
        except ValueError as error:
            raise ValueError(
                f"column {self.column!r} of reward {self.__name__!r} holds {value!r:.80}, expected "
                f"JSON: {error}. A plain text is JSON in quotes: json.dumps(text)."
            ) from None


def parsed(text: str) -> Any:
    """Parse JSON as RFC 8259 has it.

    Raises:
        ValueError: if it is none, too long, or nested too deep.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, expected at most {LONGEST}")
    try:
        return json.loads(
            text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_distinct
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def follows(value: Any, schema: Any) -> bool:
    """Return whether a value follows a schema.

    One that is nested deeper than Python reads, or too large for the schema's arithmetic, does not.
    """
    from jsonschema.validators import validator_for

    try:
        return validator_for(schema)(schema).is_valid(value)
    except (RecursionError, OverflowError):
        return False


def _follows(text: str, schemas: list[Any]) -> bool:
    try:
        value = parsed(text)
    except ValueError:
        return False
    return all(follows(value, schema) for schema in schemas)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number:.20} is beyond what a float holds")
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a name twice")
    return value


def need_jsonschema() -> None:
    """Raise an ImportError if jsonschema is not installed."""
    need("jsonschema", "json", "values are compared by it")


def checked_schema(schema: Any) -> Any:
    """Return a JSON Schema, once it is known to be one.

    Raises:
        ImportError: if jsonschema is not installed.
        ValueError: if it is none, or refers to what is not there.
    """
    need_jsonschema()
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing.exceptions import Unresolvable

    try:
        validator_for(schema).check_schema(schema)
        validator_for(schema)(schema).is_valid({})
    except Unresolvable as error:
        raise ValueError(f"schema refers to what is not there: {error}.") from None
    except SchemaError as error:
        where = f"at {error.json_path}"
        raise ValueError(f"schema is no JSON Schema: {error.message} {where}.") from None
    return schema
