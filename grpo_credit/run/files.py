"""Files that are never half-written, and how to read strangers': no torch, no numpy.

What is read is bounded before memory is asked for: a size for every file, a length for every line,
a depth for what is inside each other, and a count for what a YAML file refers to again. A fault is
a `CreditError` that names the file, and the line where there are lines.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError

HELD_OUT = "held_out.jsonl"  # of a run directory; see `evaluation.HeldOut`
LARGEST = 32 * 2**20  # bytes of a file that is read whole
LONGEST = 2**20  # bytes of a line, and of a YAML file
DEEPEST = 64  # lists and mappings inside each other
MOST_NODES = 10_000  # of a YAML file, what is referred to again counted again
LONGEST_WORD = 2**16  # characters of a YAML word: "1:1:1:..." is a number in base 60
_LAST_STEP = 2**53
_LONG_NUMBER = re.compile(r"\d{300}")


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a file in one step, through a temporary file beside it.

    A lone surrogate, which UTF-8 has no bytes for, is written as its escape.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may keep the rename and lose the content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def expect_size(path: Path, largest: int) -> None:
    """Refuse a file that is too large to be read, or is none.

    Raises:
        CreditError: with its name and size.
        OSError: if there is nothing of that name.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CreditError(f"{path} is no regular file.")
    if found.st_size > largest:
        raise CreditError(f"{path} has {found.st_size:,} bytes, expected at most {largest:,}.")


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a text file of at most `largest` bytes.

    Raises:
        CreditError: if it is larger, no regular file, or not UTF-8.
        OSError: if it cannot be read.
    """
    expect_size(path, largest)
    with path.open("rb") as file:
        return _decoded(file.read(largest), path)


def _decoded(content: bytes, where: object) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CreditError(f"{where} is not UTF-8: {error.reason} at byte {error.start}.") from None


def parse_json(text: str, where: object) -> Any:
    """Parse JSON that may be anybody's.

    Args:
        text: the JSON.
        where: names it in messages.

    Raises:
        CreditError: if it is none, nests deeper than `DEEPEST`, or holds a whole number that no
            float can hold.
    """
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > DEEPEST or _LONG_NUMBER.search(text):
            _expect_plain(value)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CreditError(f"{where} is not valid JSON ({why})") from None
    return value


def _expect_plain(value: Any, most: int = 10**300) -> None:
    """Refuse depth, and whole numbers that are too large."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, int) and abs(each) >= most:
                raise ValueError(f"a number has more than {len(str(most)) - 1} digits")
            if isinstance(each, list | dict):
                inner.extend(each.values() if isinstance(each, dict) else each)
        if not (level := inner):
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def read_json(path: Path, largest: int = LARGEST) -> Any:
    """Read a JSON file; see `read_text` and `parse_json` for what is refused."""
    return parse_json(read_text(path, largest), path)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        CreditError: if it holds anything else; and see `read_json`.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise CreditError(f"{path} holds {found!r:.60}, expected a JSON object.")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; none where there is no file. A torn last line is left out.

    Raises:
        CreditError: naming the line, if one is longer than `LONGEST` or `parse_line` refuses it.
    """
    return list(_lines(path)) if path.is_file() else []


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            if line.endswith(b"\n"):
                yield parse_line(line, f"{path}:{number}")
            elif len(line) == LONGEST:
                raise CreditError(f"{path}:{number} is longer than {LONGEST:,} bytes.")


def parse_line(line: bytes, where: object) -> dict[str, Any]:
    """Parse a line about an optimizer step: an object with a whole "step", 0 or more.

    Raises:
        CreditError: if it is anything else.
    """
    found = parse_json(_decoded(line, where), where)
    step = found.get("step") if isinstance(found, dict) else None
    if type(step) is not int or not 0 <= step < _LAST_STEP:
        raise CreditError(f'{where} is {found!r:.60}, expected an object with a whole "step".')
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of options: one mapping, without code, whose keys are names.

    Raises:
        CreditError: if it is no YAML, no mapping, or beyond the limits above.
        OSError: if it cannot be read.
    """
    import yaml

    text = read_text(path, LONGEST)
    try:
        _expect_bounded(yaml.parse(text, yaml.SafeLoader))
        content = yaml.safe_load(text)
        _expect_plain(content, 10**18)
    except CreditError as error:
        raise CreditError(f"{path} {error}") from None
    # a timestamp of month 13 is a ValueError, an empty !!int an IndexError, a !!bool x a KeyError
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise CreditError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise CreditError(f"{path} holds no mapping of options.")
    if odd := [key for key in content if not isinstance(key, str) or not key.isprintable()]:
        raise CreditError(f"{path} has the key {odd[0]!r:.60}, expected the name of an option.")
    return content


def _expect_bounded(events: Iterable[Any]) -> None:
    """Refuse depth, long words, and what would be too much if every alias were written out."""
    import yaml

    sizes: dict[str | None, int] = {}  # of what has an anchor
    open_: list[tuple[str | None, int]] = []
    nodes = 0
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes[anchor] = nodes - before
        elif isinstance(event, yaml.AliasEvent):
            nodes += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            inner = isinstance(event, yaml.CollectionStartEvent)
            open_ += [(event.anchor, nodes)] if inner else []
            sizes[event.anchor] = MOST_NODES if inner else 1  # until it is closed it is endless
            nodes += 1
        if nodes > MOST_NODES:
            raise CreditError(f"holds more than {MOST_NODES:,} entries, aliases written out.")
        if len(open_) > DEEPEST or len(getattr(event, "value", None) or "") > LONGEST_WORD:
            raise CreditError(f"nests deeper than {DEEPEST} levels, or has an endless word.")
