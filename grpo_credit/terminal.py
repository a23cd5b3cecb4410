"""How wide a command prints, in what characters, and to whom: a reader may be gone."""

import codecs
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

PIPED = 140  # columns of a file or a pipe, where nobody has named a width
# What this package prints. Greek letters go by their name; anything else is escaped.
_STAND_INS = {
    **dict.fromkeys("·•", "*"), **dict.fromkeys("–—−", "-"), **dict.fromkeys("⌊⌋⌈⌉", "|"),
    "×": "x", "…": "...", "→": "->", "⇔": "<=>", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "±": "+-", "²": "^2", "₁": "1", "₂": "2", "₃": "3", "∞": "inf", "√": "sqrt", "∇": "grad ",
    "∂": "d", "∫": "int", "∈": "in", "‖": "||", "∝": "~", "½": "1/2", "Σ": "sum",
    "⏎": "\\n", "⟨": "<", "⟩": ">", "✓": "ok", "✕": "x",
}  # fmt: skip
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
_ASCII = "grpo_credit.ascii"


def print_anything() -> None:
    """Let stdout and stderr take any character, by a stand-in or its escape, whoever reads them.

    A terminal may be ASCII (`LC_ALL=C`), and a path or a text may hold a lone surrogate, which no
    encoding has. What a reader that is gone would get goes nowhere: in `run | tee log` Ctrl-C ends
    `tee` at once, and a run has a checkpoint to write.
    """
    codecs.register_error(_ASCII, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none
            # By the line, so that a log has what was said before a kill.
            stream.reconfigure(errors=_ASCII, line_buffering=True)
            for name in ("write", "flush"):
                setattr(stream, name, _outliving(stream, getattr(type(stream), name)))


def _outliving(stream: io.TextIOWrapper, act: Callable[..., Any]) -> Callable[..., Any]:
    def acting(*text: str) -> Any:
        try:
            return act(stream, *text)
        except BrokenPipeError:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), stream.fileno())
            return act(stream, *text)  # what is left in the buffer, too

    return acting


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(map(_ascii, error.object[error.start : error.end]))
    return text.encode("ascii", "backslashreplace").decode(), error.end


def _ascii(char: str) -> str:
    named = _GREEK.fullmatch(unicodedata.name(char, ""))
    return _STAND_INS.get(char) or (named[2].lower().replace("lamda", "lambda") if named else char)


def console(*, stderr: bool = False) -> Any:
    """Return a console as wide as the terminal, or as COLUMNS says.

    Rich takes both by itself; without either it would cut a table in a file to 80 columns.

    Args:
        stderr: whether it prints to stderr.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    named = os.environ.get("COLUMNS", "").isdigit()
    return Console(stderr=stderr, width=None if named or stream.isatty() else PIPED)
