"""Files that are never half-written, and how to read them: no torch, no numpy."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

HELD_OUT = "held_out.jsonl"  # of a run directory; see `evaluation.HeldOut`


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a file in one step, through a temporary file beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may keep the rename and lose the content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
