"""Files that are never half-written, and how to read strangers': no torch, no numpy.

What is read is bounded before memory is asked for: a size for every file, a length for every line,
a depth for what is inside each other, and a count for what a YAML file refers to again. A fault is
a `CreditError` that names the file, and the line where there are lines.
"""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from grpo_credit.errors import CreditError

METRICS = "metrics.jsonl"  # of a run directory; see `callbacks.MetricsJsonl`
HELD_OUT = "held_out.jsonl"  # likewise; see `evaluation.HeldOut`
ANSWERS = "answers.jsonl"  # likewise: the greedy completions of the tests
LARGEST = 32 * 2**20  # bytes of a file that is read whole
LONGEST = 2**20  # bytes of a line, and of a YAML file
DEEPEST = 64  # lists and mappings inside each other
MOST_NODES = 10_000  # of a YAML file, what is referred to again counted again
LONGEST_WORD = 2**16  # characters of a YAML word: "1:1:1:..." is a number in base 60
_LAST_STEP = 2**53
_DIGITS, _LONG_NUMBER = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 300
_LINES, _BYTES = 1024, 2**23  # that are in memory at once
_BLOCK = 1 << 16  # bytes


_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # with the number of the process that writes it


@contextmanager
def aside(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary file beside a path; what is written there replaces the path in one step.

    If the body fails, the old file stays. Only a process that is killed leaves the temporary one;
    see `sweep`.
    """
    if path.exists() and not path.is_file():  # /dev/null, a pipe: nothing to replace
        yield path
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut may keep the rename and lose the content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a file in one step, through a temporary file beside it.

    A lone surrogate, which UTF-8 has no bytes for, is written as its escape.
    """
    replace_content(path, io.BytesIO(text.encode("utf-8", "backslashreplace")))


def replace_content(path: Path, content: BinaryIO) -> None:
    """Replace the content of a file by the rest of another one; see `replace_text`."""
    with aside(path) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def refuse_unwritable(path: Path | str, option: str) -> None:
    """Refuse a name that some libraries cannot write to: torch takes UTF-8, no system takes NUL.

    Raises:
        ValueError: naming the option.
    """
    text = str(path)
    if "\0" in text or (not text.isascii() and text != text.encode(errors="replace").decode()):
        raise ValueError(f"{option} {text!r} is no UTF-8 name of a folder; use another.")


def is_temporary(path: Path) -> bool:
    """Return whether a file's name is one of `aside`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that are no more, and of this one's number."""
    for path in folder.iterdir():
        if not (named := _TEMPORARY.fullmatch(path.name)):
            continue
        if (pid := int(named[1])) == os.getpid() or not psutil.pid_exists(pid):
            path.unlink(missing_ok=True)


def free(path: Path, first: int | None = None) -> Path:
    """Return the first name that is not taken among path, path-2, path-3 (or path-1, path-2)."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(first or 2))
    candidates = numbered if first else itertools.chain([path], numbered)
    return next(candidate for candidate in candidates if not candidate.exists())


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expect_size(path: Path, largest: int) -> None:
    """Refuse a file that is too large to be read, or is none.

    Raises:
        CreditError: with its name and size.
        OSError: if there is nothing of that name.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CreditError(f"{path} is no regular file.")
    if status.st_size > largest:
        raise CreditError(f"{path} has {status.st_size:,} bytes, expected at most {largest:,}.")


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a text file of at most `largest` bytes.

    Raises:
        CreditError: if it is larger, no regular file, or not UTF-8.
        OSError: if it cannot be read.
    """
    expect_size(path, largest)
    with path.open("rb") as file:
        return decoded(file.read(largest), path)


def decoded(content: bytes, where: object) -> str:
    """Return the text that bytes of UTF-8 are, or say where they are none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CreditError(f"{where} is not UTF-8: {error.reason} at byte {error.start}.") from None


def parse_json(text: str, where: object) -> Any:
    """Parse JSON of bounded depth, whose numbers Python reads; `where` names it.

    Raises:
        CreditError: if it is none, or beyond the limits above.
    """
    try:
        value = json.loads(text)
        content = text.encode("utf-8", "surrogatepass")
        if _brackets(content) > DEEPEST or _has_long_number(content):
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
    return parse_object(read_text(path), str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse JSON that is an object, as options are.

    Raises:
        CreditError: if it is anything else; and see `parse_json`.
    """
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise CreditError(f"{where} is {text:.200}, expected a JSON object.")
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; none where there is no file. A torn last line is left out.

    Raises:
        CreditError: naming the line, if one is longer than `LONGEST` or `parse_line` refuses it.
    """
    return list(iterate_lines(path))


def iterate_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what `read_lines` returns: a long file is never held whole."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = 1
        while lines := _some_lines(file, path, first):
            yield from _parsed(lines, path, first)
            first += len(lines)


def _some_lines(file: BinaryIO, path: Path, first: int) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    while len(lines) < _LINES and size < _BYTES and (line := file.readline(LONGEST)):
        if line.endswith(b"\n"):
            lines.append(line)
            size += len(line)
        elif len(line) == LONGEST:
            raise CreditError(f"{path}:{first + len(lines)} is longer than {LONGEST:,} bytes.")
    return lines


def _parsed(lines: list[bytes], path: Path, first: int) -> list[dict[str, Any]]:
    """Parse lines in one go, which takes half the time: keys that come again are made once.

    Where anything is odd they are parsed one by one, so that the wrong one is named.
    """
    with contextlib.suppress(ValueError, RecursionError):
        content = b",".join(lines)
        if max(map(_brackets, lines)) <= DEEPEST and not _has_long_number(content):
            values = json.loads(f"[{content.decode('utf-8')}]")
            if len(values) == len(lines) and all(map(_has_step, values)):
                return values
    return [parse_line(line, f"{path}:{n}") for n, line in enumerate(lines, first)]


def _brackets(content: bytes) -> int:
    return content.count(b"[") + content.count(b"{")


def _has_long_number(content: bytes) -> bool:
    return _LONG_NUMBER in content.translate(_DIGITS)  # 20 times as fast as a pattern


def parse_line(line: bytes, where: object) -> dict[str, Any]:
    """Parse a line about an optimizer step: an object with a whole "step", 0 or more.

    Raises:
        CreditError: if it is anything else.
    """
    value = parse_json(decoded(line, where), where)
    if not _has_step(value):
        raise CreditError(f'{where} is {value!r:.60}, expected an object with a whole "step".')
    return value


def _has_step(value: Any) -> bool:
    step = value.get("step") if isinstance(value, dict) else None
    return type(step) is int and 0 <= step < _LAST_STEP


def lines_from_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from the last one on, each after the place where it ends.

    What comes after the last line break is a line of its own. Of a long file only the end is read.

    Raises:
        CreditError: if a line is longer than `LONGEST`.
    """
    with path.open("rb") as file:
        end = start = file.seek(0, os.SEEK_END)
        rest = b""
        while start:
            size = min(max(_BLOCK, len(rest)), start)  # of an endless line more each time
            start = file.seek(start - size)
            rest, *lines = _split(file.read(size) + rest)  # the first may begin before this block
            for line in reversed(lines):
                yield end, line
                end -= len(line)
            if len(rest) > LONGEST:
                raise CreditError(f"{path} has a line that is longer than {LONGEST:,} bytes.")
        if rest:
            yield end, rest


def _split(content: bytes) -> list[bytes]:
    *whole, rest = content.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def step_of(path: Path) -> int:
    """Return the optimizer step of a trainer's table, -1 if its name has none."""
    number = re.fullmatch(r"[a-z]+_(\d{1,15})", path.stem)
    return int(number[1]) if number else -1


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
