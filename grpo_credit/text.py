"""Words for people: what is hidden made visible, a close name, a time."""

import functools
import json
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Control, format (direction marks, joiners), lone surrogates, unassigned, line separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    r"""Replace what is not seen, or steers a terminal, by a symbol for it.

    Example:
        >>> visible("a\x1b[1m\tb\u202e") + visible("\n").strip()
        'a␛[1m␉b⟨U+202E⟩⏎'
    """
    return text if text.isprintable() else "".join(map(_symbol, text))


def in_line(value: Any) -> str:
    r"""Write a path, or anything else that comes from outside, as part of one line.

    Example:
        >>> in_line("runs/a\x1b[1m\nb")
        'runs/a␛[1m⏎ b'
    """
    return visible(str(value)).replace("⏎\n", "⏎ ")


@functools.lru_cache(maxsize=4096)
def _symbol(char: str) -> str:
    code = ord(char)
    if char == "\n":
        return "⏎\n"
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of them
    return f"⟨U+{code:04X}⟩" if unicodedata.category(char) in _HIDDEN else char


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def to_cell(value: Any) -> Any:
    """Write a value for a CSV file: a text that a spreadsheet would take for a formula gets a '.

    So does a text that begins with one, so that the first ' is always ours. A lone surrogate, which
    no file of UTF-8 holds, becomes its escape. Numbers are left alone.

    Example:
        >>> to_cell("=HYPERLINK(1)"), to_cell("'seq'"), to_cell("seq"), to_cell(-0.5)
        ("'=HYPERLINK(1)", "''seq'", 'seq', -0.5)
    """
    if not isinstance(value, str):
        return value
    text = encodable(value)
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def encodable(text: str) -> str:
    """Replace lone surrogates by their escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def prompt_text(prompt: Any) -> str:
    """Write a text or a conversation as one text; anything else as JSON."""
    if isinstance(prompt, str):
        return prompt
    try:
        return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    except (TypeError, LookupError):
        return json.dumps(prompt, ensure_ascii=False)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'seq'?" if a known name is close, else nothing.

    Example:
        >>> did_you_mean("sqe", ["seq", "dapo"])
        " Did you mean 'seq'?"
    """
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def duration(seconds: float) -> str:
    """Write a time as people say it, to two digits or the second.

    Example:
        >>> [duration(seconds) for seconds in (0.25, 7, 59.6, 125, 7260)]
        ['0.25 s', '7 s', '1 min 00 s', '2 min 05 s', '2 h 01 min']
    """
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size_of(count: float) -> str:
    """Write bytes in the unit that suits.

    Example:
        >>> [size_of(n) for n in (512, 3 * 2**20, 5.5 * 2**30)]
        ['512 B', '3.0 MiB', '5.5 GiB']
    """
    power = next((p for p in range(4) if count < 1024 ** (p + 1)), 4)
    digits = 1 if power else 0
    return f"{count / 1024**power:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
