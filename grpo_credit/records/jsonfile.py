"""Python values as strict JSON, and files of it that are never half-written. See `files`."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grpo_credit.records.files import replace_text

MAX_VALUES = 16  # larger arrays are described, not copied


def qualified_name(thing: Any) -> str:
    """Dotted import path of a function, method or class, or of the class of an object."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def _array(value: torch.Tensor | np.ndarray) -> Any:
    if math.prod(value.shape) <= MAX_VALUES and not getattr(value, "is_meta", False):
        return plain(value.tolist())
    return {"shape": list(value.shape), "dtype": str(value.dtype)}


def _partial(value: functools.partial) -> dict[str, Any]:
    arguments = {"args": list(value.args), **value.keywords}
    return {"partial": qualified_name(value.func), **plain(arguments)}


def _dataclass(value: Any) -> dict[str, Any]:
    fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"callable": qualified_name(value), **fields} if callable(value) else fields


# The first matching type decides, so Enum comes before the str and int that enums may derive from.
_RULES = (
    (Enum, lambda value: plain(value.value)),
    ((bool, int, str, type(None)), lambda value: value),
    (float, lambda value: value if math.isfinite(value) else None),
    (np.generic, lambda value: plain(value.item())),
    ((torch.Tensor, np.ndarray), _array),
    ((torch.dtype, torch.device, os.PathLike), str),
    (date, lambda value: value.isoformat()),
    (Mapping, lambda value: {str(plain(key)): plain(entry) for key, entry in value.items()}),
    ((list, tuple), lambda value: [plain(entry) for entry in value]),
    ((set, frozenset), lambda value: [plain(entry) for entry in sorted(value, key=repr)]),
    (functools.partial, _partial),
)


def plain(value: Any) -> Any:
    """Turn any value into one that strict JSON can hold, the same in every process.

    Paths, dtypes and devices become strings, enums their value, NaN and infinities null, arrays of
    up to 16 values lists and larger ones their shape and dtype, dataclasses and objects with
    `to_dict` dictionaries, functions, classes and everything else their dotted name (never a
    `repr`, which may hold a memory address).

    Example:
        >>> plain({"lr": float("nan"), "where": Path("runs"), "dtype": torch.bfloat16, "f": max})
        {'lr': None, 'where': 'runs', 'dtype': 'torch.bfloat16', 'f': 'builtins.max'}
    """
    for kind, rule in _RULES:
        if isinstance(value, kind):
            return rule(value)
    if isinstance(value, type):
        return qualified_name(value)
    if dataclasses.is_dataclass(value):
        return _dataclass(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    return qualified_name(value)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader finds the old content or the new, never a part."""
    replace_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def append_line(path: Path, value: Any) -> None:
    """Append one line of JSON; it is on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(value), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
