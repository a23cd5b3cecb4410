"""Files that are never half-written, and how to read them: no torch, no numpy."""

import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

METRICS = "metrics.jsonl"  # of a run directory; see `callbacks.MetricsJsonl`
HELD_OUT = "held_out.jsonl"  # likewise; see `evaluation.HeldOut`
_LINES = 1024  # that are in memory at once
_BLOCK = 1 << 16  # bytes


_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def aside(path: Path) -> Generator[Path, None, None]:
    """Give a temporary file beside a path; what is written there replaces the path in one step.

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
    """Replace the content of a file in one step, through a temporary file beside it."""
    replace_content(path, io.BytesIO(text.encode()))


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
    """Remove the temporary files that killed processes left; nobody may be writing there now."""
    for path in filter(is_temporary, folder.iterdir()):
        path.unlink(missing_ok=True)


def free(path: Path, first: int | None = None) -> Path:
    """Return the first name that is not taken among path, path-2, path-3 (or path-1, path-2)."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(first or 2))
    candidates = numbered if first else itertools.chain([path], numbered)
    return next(candidate for candidate in candidates if not candidate.exists())


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a directory, are on disk."""
    if path.is_dir() and os.name != "posix":
        return  # elsewhere a directory cannot be opened
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if the content is not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; none where there is no file. A torn last line is left out."""
    return list(iterate_lines(path))


def iterate_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what `read_lines` returns: a long file is never held whole."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        whole = (line for line in file if line.endswith("\n"))
        while lines := list(islice(whole, _LINES)):
            yield from _parsed(lines)


def _parsed(lines: list[str]) -> list[Any]:
    """Parse lines in one go, which takes half the time: keys that come again are made once."""
    found = json.loads(f"[{','.join(lines)}]")
    if len(found) != len(lines):
        raise ValueError(f"{len(lines)} lines hold {len(found)} values, expected one on each")
    return found


def lines_from_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from the last one on, each after the place where it ends.

    What comes after the last line break is a line of its own. Of a long file only the end is read.
    """
    with path.open("rb") as file:
        end = start = file.seek(0, os.SEEK_END)
        rest = b""
        while start:
            size = min(max(_BLOCK, len(rest)), start)  # of an endless line more each time
            start = file.seek(start - size)
            lines = (file.read(size) + rest).splitlines(keepends=True)
            rest = lines[0]  # it may begin before this block
            for line in reversed(lines[1:]):
                yield end, line
                end -= len(line)
        if rest:
            yield end, rest


def step_of(path: Path) -> int:
    """Return the optimizer step of a trainer's table, -1 if its name has none."""
    number = re.fullmatch(r"[a-z]+_(\d+)", path.stem)
    return int(number[1]) if number else -1
