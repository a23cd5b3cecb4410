"""The rules there are: plain functions marked by `@aggregation` or `@allocation`.

The registry is a convenience, never a gate: whatever can be imported as "pkg.mod:obj" or passed as
a callable is a rule too, an unmarked function being one that returns the whole credit matrix.
"""

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar, overload

from grpo_credit.credit.rollouts import OPTIONAL
from grpo_credit.credit.strategy import CreditError, Function, Kind, Rule
from grpo_credit.credit.userfile import CODE, read_source, refuse_training, running
from grpo_credit.own_rewards import hint
from grpo_credit.text import did_you_mean

ENTRY_POINTS = "grpo_credit.strategies"
F = TypeVar("F", bound=Function)
_RULES: dict[str, Rule] = {}
_BROKEN: dict[str, CreditError] = {}  # rules whose decorator says what cannot be


# ---- registering ------------------------------------------------------------------------------


@overload
def aggregation(function: F, /) -> F: ...
@overload
def aggregation(**about: Any) -> Callable[[F], F]: ...
def aggregation(function: Function | None = None, /, **about: Any) -> Any:
    """Register a function of `Rollouts` that weighs completions against each other.

    The function returns a nonnegative `(B, 1)` tensor (or one number for all rows): the weight of
    each counted token of a completion. Normalise by window totals (`rollouts.num_completions`,
    `rollouts.num_tokens`, `rollouts.window_sum(...)`), never by sums over rows.

    Args:
        function: the function, when used without parentheses.
        about: `needs`, `trl`, `verl`, `paper`, `caution`, `sign_free`; see `Rule`.

    Returns:
        The function, unchanged. A mistake in `about` is raised when the rule is used, so that the
        other rules of its module work.

    Example:
        >>> @aggregation
        ... def doctest_halved(rollouts):
        ...     '''Weigh every token by half of its share.'''
        ...     return 0.5 / rollouts.num_tokens
    """
    return _register("aggregation", function, about)


@overload
def allocation(function: F, /) -> F: ...
@overload
def allocation(**about: Any) -> Callable[[F], F]: ...
def allocation(function: Function | None = None, /, **about: Any) -> Any:
    """Register a function of `Rollouts` that says where in a completion its advantage lands.

    The function returns a signed `(B, T)` tensor, zero where `rollouts.mask` is False;
    `rollouts.advantages[:, None] * rollouts.mask` is `even`.

    Args:
        function: the function, when used without parentheses.
        about: `needs`, `verl`, `paper`, `caution`, `conserves_mass`, `linear`, `keeps_sign`; see
            `Rule`.

    Returns:
        The function, unchanged; see `aggregation`.

    Example:
        >>> @allocation
        ... def doctest_first(rollouts):
        ...     '''Give everything to the first token.'''
        ...     first = (rollouts.position == 0) & rollouts.mask
        ...     return rollouts.advantages[:, None] * first
    """
    return _register("allocation", function, about)


def _register(kind: Kind, function: Any, about: dict[str, Any]) -> Any:
    if function is None:
        return functools.partial(_register, kind, about=about)
    name = function.__name__
    _BROKEN.pop(name, None)  # a notebook's cell, mended and run again
    try:
        _RULES[name] = function.__credit_rule__ = _declared(kind, function, about)
    except CreditError as error:
        _BROKEN[name] = function.__credit_rule__ = error
    return function


def _declared(kind: Kind, function: FunctionType, about: dict[str, Any]) -> Rule:
    """Make the rule of a decorated function, or say what its decorator has wrong."""
    name, module = function.__name__, function.__module__
    needs = about.get("needs", ())
    needs = tuple(needs) if isinstance(needs, list | tuple | set | frozenset) else (needs,)
    _refuse_unknown(f"{name!r} in {module}: needs", needs, list(OPTIONAL), "Rollouts can provide")
    known = [field.name for field in fields(Rule) if field.name not in ("kind", "function", "name")]
    _refuse_unknown(f"{name!r} in {module}: @{kind} got", about, known, "it takes")
    taken = _RULES.get(name)
    if taken and _origin(taken.function) != _origin(function):
        raise CreditError(
            f"{name!r} in {module} is already registered by {taken.function.__module__}; choose "
            "another name."
        )
    declared: dict[str, Any] = {**about, "needs": frozenset(needs)}
    return Rule(kind, function, name, **declared)


def _refuse_unknown(what: str, given: Iterable[object], known: Collection[str], may: str) -> None:
    for word in given:
        if word not in known:
            hint = did_you_mean(str(word), known)
            raise CreditError(f"{what} {word!r}, but {may} {', '.join(sorted(known))}.{hint}")


def _origin(function: Any) -> tuple[str, str]:
    return function.__module__, function.__qualname__


# ---- finding ----------------------------------------------------------------------------------


def rules() -> dict[str, Rule]:
    """Return all registered rules by name, those of entry points included.

    A broken plug-in is reported by name and left out; it does not take the others down.
    """
    _builtin()
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in _RULES:
            try:
                _RULES[point.name] = as_rule(point.load(), point.name)
            except Exception as error:
                warnings.warn(f"strategy {point.name!r} ({point.value}): {error!r}", stacklevel=2)
    for error in _BROKEN.values():
        warnings.warn(f"left out: {error}", stacklevel=2)
    return dict(_RULES)


def _builtin() -> None:
    importlib.import_module("grpo_credit.credit.aggregations")
    importlib.import_module("grpo_credit.credit.allocations")


def find(name: str) -> Rule:
    """Return the rule of a name: registered, "pkg.mod:obj", or of an entry point.

    Raises:
        CreditError: if there is none, with a suggestion.
    """
    _builtin()
    if name in _RULES:
        return _RULES[name]
    if name in _BROKEN:
        raise _BROKEN[name]
    if ":" in name:
        return as_rule(import_object(name), name)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            with running(point.value):
                return as_rule(point.load(), name)
    known = sorted({*_RULES, *(point.name for point in entry_points(group=ENTRY_POINTS))})
    raise CreditError(
        f"unknown strategy {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}; "
        "or your own as 'pkg.mod:obj'."
    )


# ---- importing --------------------------------------------------------------------------------


_ASKED_BY: ContextVar[tuple[object, frozenset[str]] | None] = ContextVar("file", default=None)


@contextmanager
def named_by(file: object, typed: Iterable[str] = ()) -> Generator[None]:
    """Resolve what a file names: registered rules only, unless the user named the same.

    A file may be anybody's, so that its word imports nothing.

    Args:
        file: names it in messages.
        typed: what the user typed or wrote; each `pkg.mod:obj` in it may be imported.
    """
    allowed = frozenset(name for text in typed for name in CODE.findall(text))
    token = _ASKED_BY.set((file, allowed))
    try:
        yield
    finally:
        _ASKED_BY.reset(token)


def refuse_unsaid(path: str, what: str) -> None:
    """Refuse to import what a file names and the user does not; see `named_by`.

    Raises:
        CreditError: with what is named, and how to allow it.
    """
    file, allowed = _ASKED_BY.get() or (None, frozenset())
    if file and path not in allowed and not _is_registered(path):
        raise CreditError(
            f"{file} names the {what} {path!r}, and a file's word imports nothing; if you "
            "trust that code, name it on the command line (--credit)."
        )


def _is_registered(path: str) -> bool:
    """Whether a path is a rule of a module that somebody imported before."""
    module, _, name = path.partition(":")
    thing = getattr(sys.modules.get(module), "__dict__", {}).get(name)
    return any(rule.function is thing for rule in _RULES.values())


def import_object(path: str, what: str = "strategy") -> object:
    """Import `pkg.mod:obj`, from the current folder too, which stays on `sys.path` where it has it.

    Raises:
        CreditError: if it is not there, with a suggestion, cannot be imported, would train, or is
            named by a file alone (`named_by`); `what` names it in the message.
    """
    if not CODE.fullmatch(path):  # by which `refuse_code_of` finds what files name
        raise CreditError(f"{path!r} is no {what}; expected 'pkg.mod:obj' with both names whole.")
    refuse_unsaid(path, what)
    module_name, _, attribute = path.partition(":")
    module = sys.modules.get(module_name) or _import(module_name, f"{what} {path!r}")
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        meant = did_you_mean(attribute, names) or hint(module_name)
        raise CreditError(f"{module.__file__ or module_name} has no {attribute!r}.{meant}")
    return getattr(module, attribute)


def _import(name: str, what: str) -> ModuleType:
    """Import a module by name after a look at its source."""
    here = os.getcwd()  # `accelerate launch` puts the script's folder on the path, not this one
    added = [] if here in sys.path else [here]
    sys.path[:0] = added
    origin = ""
    try:
        for end in range(1, name.count(".") + 2):  # the packages around it run first
            part = ".".join(name.split(".")[:end])
            with running(part):
                spec = _spec(part)
            if spec is None:
                raise CreditError(
                    f"no module {part!r} for {what}; looked in {here} and on sys.path.{hint(part)}"
                )
            origin = str(spec.origin)
            if origin.endswith(".py") and part not in sys.modules:
                refuse_training(Path(origin), read_source(Path(origin)))
            with running(origin):
                module = importlib.import_module(part)
        return module
    finally:
        if added and not origin.startswith(os.path.join(here, "")):
            sys.path.remove(here)  # otherwise a rule may import from its own folder when it is used


def _spec(name: str) -> ModuleSpec | None:
    """Find a module whose package is imported already; None if there is none."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # what should be its package is none
        return None


def as_rule(thing: object, name: str) -> Rule:
    """Return what a decorator knows about a function, or take it for a whole-credit callable."""
    known = getattr(thing, "__credit_rule__", None)
    if isinstance(known, CreditError):
        raise known
    if known is not None:
        return known
    if not callable(thing):
        raise CreditError(f"{name!r} is a {type(thing).__name__}, expected a function of Rollouts.")
    return Rule("credit", thing, name)


def list_credit() -> list[Rule]:
    """Return every registered rule, aggregations first, each kind by name.

    Example:
        >>> {rule.kind for rule in list_credit()} == {"aggregation", "allocation"}
        True
    """
    return sorted(rules().values(), key=lambda rule: (rule.kind != "aggregation", rule.name))
