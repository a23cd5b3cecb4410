"""The source of the rules that are a user's own, so that a run can be repeated and told apart."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

from grpo_credit.credit.strategy import Rule

LIMIT = 64 * 1024  # characters of a source that are kept


def own_sources(rules: Iterable[Rule]) -> list[dict[str, str | None]]:
    """Describe the rules that this package does not ship, each once.

    Args:
        rules: of a strategy.

    Returns:
        For each: "rule"; "file", from the current folder where it is below it; "sha256" of the
        whole file; "function" and "module", the sources, up to 64 Ki characters of each. A function
        without a file, as of an interactive session, has null for what is not known. Other files
        that the module imports are not looked at.
    """
    own = {rule.name: _code_of(rule.function) for rule in rules}
    return [
        _described(name, code)
        for name, code in own.items()
        if str(code.__module__).partition(".")[0] != "grpo_credit"
    ]


def _code_of(function: Callable[..., object]) -> Callable[..., object] | type:
    """Return what has a source: what partials and wrappers hold; of an object, its class."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if inspect.isroutine(function) else type(function)


def _described(name: str, code: Callable[..., object] | type) -> dict[str, str | None]:
    try:
        file, here = Path(inspect.getsourcefile(code) or ""), Path.cwd()
        content, source = file.read_bytes(), inspect.getsource(code)
    except (OSError, TypeError):
        return {"rule": name, **dict.fromkeys(("file", "sha256", "function", "module"))}
    return {
        "rule": name,
        "file": str(file.relative_to(here) if file.is_relative_to(here) else file),
        "sha256": hashlib.sha256(content).hexdigest(),
        "function": _bounded(source),
        "module": _bounded(content.decode("utf-8", errors="replace")),
    }


def _bounded(text: str) -> str:
    if len(text) <= LIMIT:
        return text
    return f"{text[:LIMIT]}\n# … {len(text) - LIMIT:,} more characters\n"
