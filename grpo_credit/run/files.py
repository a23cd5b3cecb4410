"""Files that are never half-written, and how to read them: no torch, no numpy."""

import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HELD_OUT = "held_out.jsonl"  # of a run directory; see `evaluation.HeldOut`


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
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
