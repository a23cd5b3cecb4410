"""Conversations in tables: parquet holds those alone whose messages are all of one shape."""

import io
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyarrow as pa

CONVERSATIONS = ("prompt", "completion")  # TRL's names, in its logs and in its table


def storable(column: Sequence[Any]) -> list[Any]:
    """Return a column as it is if parquet can hold it, otherwise with each conversation as JSON.

    It cannot where the arguments of tools differ in type, a tool takes none, or contents are texts
    here and blocks there.
    """
    try:
        pd.DataFrame({"column": [*column]}).to_parquet(io.BytesIO())
    except pa.ArrowException:
        return [each if isinstance(each, str) else as_json(each) for each in column]
    return [*column]


def as_json(conversation: Any) -> str:
    """Write a conversation; what JSON does not know, such as an image, as its description."""
    return json.dumps(conversation, ensure_ascii=False, default=repr)


@contextmanager
def logged_storably(logs: dict[str, Any]) -> Generator[None]:
    """Let TRL write its completions table, whatever tools were called with; its logs stay."""
    kept = {name: logs[name] for name in CONVERSATIONS}
    try:
        logs.update({name: storable(column) for name, column in kept.items()})
        yield
    finally:
        logs.update(kept)
