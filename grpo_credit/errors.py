"""The error that is the user's to mend, and errors told in one line: a module without torch."""

import linecache
import os
import sysconfig
import traceback
from pathlib import Path

from grpo_credit.text import in_line

TRACEBACK = "--traceback"
_OURS = Path(__file__).resolve().parents[1]
_PACKAGES = tuple(str(_OURS / name) + os.sep for name in ("grpo_credit", "rewards"))
_PYTHON = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})


class CreditError(ValueError):
    """A strategy cannot be found, built or used as asked, or a file is not what it should be.

    Example:
        >>> from grpo_credit import resolve_credit
        >>> try:
        ...     resolve_credit("sqe")
        ... except CreditError as error:
        ...     print(str(error)[:43])
        unknown strategy 'sqe'. Did you mean 'seq'?
    """


def in_one_line(error: BaseException, script: str = "") -> str:
    """Return what is wrong; where nobody wrote a message for the user, also from where it comes.

    What would steer a terminal, such as a path with escapes, is made visible. `script` is a file of
    the user's whose own `raise` is meant for its user, such as a recipe.
    """
    text = in_line(" ".join(map(str.strip, str(error).splitlines())))  # some write several
    if _is_meant(error, script):
        return text
    named = f"{type(error).__name__}: {text}".removesuffix(": ")
    return f"{named} (raised at {place(error)}; {TRACEBACK} shows the way there)"


def named_line(error: BaseException) -> str:
    """Return the first line of the text of an error, after its kind if it is not ours."""
    if isinstance(error, CreditError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")


def first_line(error: BaseException) -> str:
    """Return the first line of the text of an error."""
    return str(error).partition("\n")[0]


def place(error: BaseException) -> str:
    """Return file and line of an error: the innermost that is not Python's own library."""
    if isinstance(error, SyntaxError) and error.filename:
        return _shown(error.filename, error.lineno)
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    theirs = [frame for frame in frames if not _is_pythons(frame[0])]
    return _shown(*(theirs or frames)[-1])


def _is_meant(error: BaseException, script: str) -> bool:
    """Whether the message was written for who typed the command."""
    if isinstance(error, CreditError) or (isinstance(error, OSError) and error.filename):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    file, line = frames[-1].filename, frames[-1].lineno or 0
    whole = os.path.realpath(file)  # a script that was started by a relative path has that one
    ours = whole.startswith(_PACKAGES) or (script and os.path.realpath(script) == whole)
    return bool(ours) and linecache.getline(file, line).lstrip().startswith("raise ")


def _is_pythons(file: str) -> bool:
    return file.startswith("<") or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))


def _shown(file: str, line: int | None) -> str:
    """Write a place with the shortest path that names it."""
    for folder in (*_INSTALLED, f"{Path.cwd()}{os.sep}"):
        file = file.removeprefix(folder)
    return f"{file}:{line}"
