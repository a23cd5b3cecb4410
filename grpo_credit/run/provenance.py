"""Where a run comes from: time, machine, commit and command line, without secrets; no torch."""

import hashlib
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
HIDDEN = "<hidden>"

# "num_tokens" counts and "tokenizer" names; neither is a secret.
_SECRET_KEY = re.compile(r"token(?!s|iz)|secret|password|api[_-]?key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"hf_[A-Za-z0-9]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def now() -> str:
    """UTC time in ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def host() -> str:
    """A short hash of the machine's name: tells machines apart without naming them."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def describe_command(command: Sequence[str]) -> dict[str, Any]:
    """Give a command line as a list and as text for a shell, without its secrets."""
    words = list(command)
    for index, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if not flag.startswith("--") or not _SECRET_KEY.search(flag):
            continue
        if equals:
            words[index] = f"{flag}={HIDDEN}"
        elif index + 1 < len(words) and not words[index + 1].startswith("--"):
            words[index + 1] = HIDDEN
    words = [hide_in_text(word) for word in words]
    return {"argv": words, "shell": shlex.join(words)}


def hide_secrets(value: Any, key: str = "") -> Any:
    """Replace the secrets in a JSON value; see the head of this module for what counts as one."""
    if isinstance(value, dict):
        return {name: hide_secrets(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [hide_secrets(entry, key) for entry in value]
    if isinstance(value, str):
        return HIDDEN if _SECRET_KEY.search(key) else hide_in_text(value)
    return value


def hide_in_text(text: str) -> str:
    """Replace what looks like a Hub token or the login part of a URL."""
    return _SECRET_TEXT.sub(HIDDEN, text)


def git_state(file: Path) -> dict[str, Any] | None:
    """Say which commit a file belongs to; None outside a repository or without git.

    Returns:
        "commit"; "tracked", whether the file is under version control; "dirty", whether the tree
        has changes or untracked files that are not ignored. A value that git did not give within
        two seconds is None.
    """
    folder = file.resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain")
    tracked = _git(folder, "ls-files", "--", str(file.resolve()))
    return {
        "commit": commit,
        "tracked": None if tracked is None else bool(tracked),
        "dirty": None if changes is None else bool(changes),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def one_line(error: BaseException) -> str:
    """Kind and first line of an exception, up to 300 characters, without secrets."""
    text = next(iter(str(error).strip().splitlines()), "")
    return hide_in_text(f"{type(error).__name__}: {text}".removesuffix(": "))[:300]
