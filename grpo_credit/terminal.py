"""How wide a command prints, and in what characters."""

import codecs
import io
import os
import re
import sys
import unicodedata
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
    """Let stdout and stderr take any character, by a stand-in or its escape.

    A terminal may be ASCII (`LC_ALL=C`), and a path or a text may hold a lone surrogate, which no
    encoding has.
    """
    codecs.register_error(_ASCII, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none
            stream.reconfigure(errors=_ASCII)


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
