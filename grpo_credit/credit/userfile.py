"""Files of the user's: read before they are run, and run without training anything.

Nothing of a file is executed before its source was looked at: a training script that is taken for a
recipe, or for a module of rules, would train.
"""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError, place
from grpo_credit.text import did_you_mean

CODE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")  # pkg.mod:obj
_TRUST = "trust_remote_code"
_KERNELS = "allow_all_kernels"
TRAINS = ("run_recipe", "main", "train")  # of this package, of recipes, of trainers
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IN_A_SCRIPT = (
    "In a script of your own: `from grpo_credit.preflight.verdict import preflight`, then "
    "`print(trainer.plan)` and `preflight(trainer)` before `trainer.train()` (docs/preflight.md)."
)


def load_recipe(path: Path) -> Any:
    """Import a recipe's file and return its `RECIPE`.

    Raises:
        CreditError: if the file is not there, is no Python, assigns no `RECIPE`, or trains when it
            is imported; nothing of it was run then. Or if it cannot be imported.
    """
    source = read_source(path)
    if "RECIPE" not in set(_bound(source)):
        raise CreditError(
            f"{path} is no recipe: it assigns no RECIPE, and nothing of it was run. A recipe says "
            "`RECIPE = Recipe(...)` and calls `run_recipe` below `if __name__ == '__main__':`, as "
            f"recipes/grpo_regex.py does. {IN_A_SCRIPT}"
        )
    refuse_training(path, source)
    folder = str(path.parent.resolve())  # as when it is run as a script
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # `read_source` refuses what does not end in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    with running(path):
        spec.loader.exec_module(module)
    recipe = module.RECIPE
    if not callable(getattr(recipe, "check", None)):
        raise CreditError(
            f"RECIPE of {path} is of type {type(recipe).__name__}, expected a "
            "grpo_credit.run.recipe.Recipe."
        )
    return recipe


def refuse_code_of(file: Path, content: Mapping[str, object], typed: Sequence[str]) -> None:
    """Refuse options of a file that let in code which the user did not name: a file's word is not.

    Raises:
        CreditError: if it names code (`pkg.mod:obj`) in `credit`, `credit_kwargs` or `tools` that
            is not in `typed`, the command line, or if an option, or one within it, sets the
            environment, trusts code of a model's, or lets in kernels of a hub.
    """
    allowed = {name for word in typed for name in CODE.findall(word)}
    for key in ("credit", "credit_kwargs", "tools"):
        for name in CODE.findall(str(content.get(key, ""))):
            if name not in allowed:
                raise CreditError(
                    f"{file} names the code {name!r}, and a file's word imports nothing; if you "
                    f"trust that code, name it on the command line (--{key})."
                )
    if "env" in content:
        raise CreditError(f"{file} sets env, which decides what code runs; set it in your shell.")
    words = {word.replace("-", "_").lower() for word in typed}
    trusted = {f"__{_TRUST}", f"__{_TRUST}=true"} & words
    for name in _let_in(content):
        if not (name == _TRUST and trusted):
            raise CreditError(
                f"{file} sets {name}, which runs code of others; if you do trust it, say so on the "
                f"command line (--{name})."
            )


def _let_in(content: object, key: str = "") -> Iterator[str]:
    """Yield the options, at any depth, that run code of a model's or of a hub's kernels."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _let_in(value, str(name))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _let_in(value, key)
    elif key == "attn_implementation" and "/" in str(content):
        yield key
    elif key in (_TRUST, _KERNELS):
        yield from () if content in (None, False) else (key,)
    elif isinstance(content, str):  # options as JSON, or as words
        yield from (name for name in (_TRUST, _KERNELS) if name in content)
        if "attn_implementation" in content and "/" in content:
            yield "attn_implementation"


def read_source(path: Path) -> ast.Module:
    """Parse a Python file; run nothing.

    Raises:
        CreditError: if it is not there, no file, or no Python; with the line.
    """
    if path.is_dir():
        raise CreditError(f"{path} is a folder, expected a Python file.")
    if not path.is_file():
        near = [str(other) for other in path.parent.glob("*.py")]
        raise CreditError(f"there is no file {path}.{did_you_mean(str(path), near)}")
    if path.suffix != ".py":
        raise CreditError(f"{path} is no Python file, whose name ends in .py.")
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else path  # none for a null byte
        raise CreditError(f"{where} is no Python: {error.msg}.") from None


def refuse_training(path: Path, source: ast.Module) -> None:
    """Refuse a file that trains when it is imported.

    Recognised are calls of `TRAINS` outside `if __name__ == "__main__":`, also by way of the file's
    own functions. What an imported function does is not looked into.

    Raises:
        CreditError: with the line.
    """
    functions = {node.name: node for node in source.body if isinstance(node, _FUNCTIONS)}
    if (line := _training_line(source.body, functions)) is not None:
        raise CreditError(
            f"{path}:{line} would train as soon as the file is imported, so nothing of it was run; "
            "put that call below `if __name__ == '__main__':`."
        )


@contextmanager
def running(path: object) -> Generator[None]:
    """Name a user's file, and the place, in what goes wrong while it is run.

    Raises:
        CreditError: from whatever the file raised, the end of the process included.
    """
    try:
        yield
    except CreditError:
        raise
    except (Exception, SystemExit) as error:
        named = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise CreditError(f"{path} cannot be imported: {named} ({place(error)}).") from error


def _training_line(
    statements: Iterable[ast.AST], functions: dict[str, Any], seen: frozenset[str] = frozenset()
) -> int | None:
    for node in _executed(statements):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in functions and name not in seen and isinstance(node.func, ast.Name):
            if _training_line(functions[name].body, functions, seen | {name}) is not None:
                return node.lineno
        elif name in TRAINS:
            return node.lineno
    return None


def _executed(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield what runs on import: neither the bodies of functions nor what is for scripts alone."""
    for node in nodes:
        yield node
        if isinstance(node, ast.If) and "__main__" in map(_constant, ast.walk(node.test)):
            yield from _executed(node.orelse)
        elif not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            yield from _executed(ast.iter_child_nodes(node))


def _bound(source: ast.Module) -> Iterator[str]:
    """Yield the names that a module's own statements bind."""
    for node in _executed(source.body):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name


def _constant(node: ast.AST) -> object:
    return getattr(node, "value", None)
