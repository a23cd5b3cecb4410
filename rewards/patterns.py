"""Patterns as the `regex` package's own parser reads them, and characters as its matcher does."""

import functools
from typing import Any

import numpy as np
import regex
from regex import _regex_core as _untyped

from .characters import CODE_POINTS, CharSet

_regex_core: Any = _untyped  # private: the engine's own parser
_regex: Any = _regex_core._regex  # and its matcher
_OTHER_FLAGS = {
    regex.REVERSE: "REVERSE",
    regex.LOCALE: "LOCALE",
    regex.BESTMATCH: "BESTMATCH",
    regex.ENHANCEMATCH: "ENHANCEMATCH",
    regex.WORD: "WORD",
}


class NotRegular(ValueError):
    """A pattern with something that no finite automaton of this kind can express."""


def parsed_pattern(pattern: str, flags: int) -> tuple[Any, Any]:
    """Parse as `regex.compile` does: again from the start where a flag turns up on the way."""
    regex.compile(pattern, flags)  # its errors name the position
    while True:
        source = _regex_core.Source(pattern)
        info = _regex_core.Info(flags, source.char_type, {})
        info.guess_encoding = _regex_core.UNICODE
        source.ignore_space = bool(info.flags & regex.VERBOSE)
        try:
            parsed = _regex_core._parse_pattern(source, info)
        except _regex_core._UnscopedFlagSet:
            flags = info.global_flags
            continue
        if not info.flags & (regex.ASCII | regex.LOCALE | regex.UNICODE):
            info.flags |= regex.UNICODE
        for flag, named in _OTHER_FLAGS.items():
            if info.flags & flag:
                raise NotRegular(f"the flag {named} is not regular.")
        return parsed, info


def character(value: int, case_flags: int) -> Any:
    """Make the node of one character of a longer text."""
    return _regex_core.Character(value, case_flags=case_flags)


def members_of(leaf: Any, info: Any) -> CharSet:
    """Return the characters that a one-character node matches, by asking the engine itself."""
    case = getattr(leaf, "case_flags", 0)
    if (case & _regex_core.FULLIGNORECASE) == _regex_core.FULLIGNORECASE:
        raise NotRegular("full case-folding is not regular.")
    if type(leaf) is _regex_core.Character and leaf.positive and not case & regex.IGNORECASE:
        return np.array([leaf.value, leaf.value + 1])
    run = _regex_core.GreedyRepeat(leaf.optimise(info, False), 1, None)
    code = [*run.compile(False, False), (_regex_core.OP.SUCCESS,)]
    return _runs(tuple(_regex_core._flatten_code(code)), info.flags)


@functools.lru_cache(maxsize=1024)
def _runs(code: tuple[int, ...], flags: int) -> CharSet:
    """Run compiled code over every code point, and note where its matches begin and end."""
    version = (flags & _regex_core._ALL_VERSIONS) or regex.DEFAULT_VERSION
    engine = _regex.compile("", flags | version, list(code), {}, {}, {}, [], -1, (), 0, 0)
    spans = [match.span() for match in engine.finditer(_every_character())]
    return np.array(spans, dtype=np.int64).reshape(-1)


@functools.cache
def _every_character() -> str:
    return "".join(map(chr, range(CODE_POINTS)))
