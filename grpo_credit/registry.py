"""The rules there are: plain functions marked by `@aggregation` or `@allocation`.

The registry is a convenience, never a gate: whatever can be imported as "pkg.mod:obj" or passed as
a callable is a rule too, an unmarked function being one that returns the whole credit matrix.
"""

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, overload

from grpo_credit.own_rewards import hint
from grpo_credit.rollouts import OPTIONAL
from grpo_credit.strategy import CreditError, Function, Kind, Rule
from grpo_credit.suggest import did_you_mean

ENTRY_POINTS = "grpo_credit.strategies"
_RULES: dict[str, Rule] = {}


# ---- registering ------------------------------------------------------------------------------


@overload
def aggregation(function: Function, /) -> Function: ...
@overload
def aggregation(**about: Any) -> Callable[[Function], Function]: ...
def aggregation(function: Function | None = None, /, **about: Any) -> Any:
    """Register a function of `Rollouts` that weighs completions against each other.

    The function returns a nonnegative `(B, 1)` tensor (or one number for all rows): the weight of
    each counted token of a completion. Normalise by window totals (`rollouts.num_completions`,
    `rollouts.num_tokens`, `rollouts.window_sum(...)`), never by sums over rows.

    Args:
        function: the function, when used without parentheses.
        about: `needs`, `trl`, `paper`, `sign_free`; see `Rule`.

    Returns:
        The function, unchanged.

    Example:
        >>> @aggregation
        ... def doctest_halved(rollouts):
        ...     '''Weigh every token by half of its share.'''
        ...     return 0.5 / rollouts.num_tokens
    """
    return _register("aggregation", function, about)


@overload
def allocation(function: Function, /) -> Function: ...
@overload
def allocation(**about: Any) -> Callable[[Function], Function]: ...
def allocation(function: Function | None = None, /, **about: Any) -> Any:
    """Register a function of `Rollouts` that says where in a completion its advantage lands.

    The function returns a signed `(B, T)` tensor, zero where `rollouts.mask` is False;
    `rollouts.advantages[:, None] * rollouts.mask` is `even`.

    Args:
        function: the function, when used without parentheses.
        about: `needs`, `paper`, `conserves_mass`, `linear`, `keeps_sign`; see `Rule`.

    Returns:
        The function, unchanged.

    Example:
        >>> @allocation
        ... def doctest_first(rollouts):
        ...     '''Give everything to the first token.'''
        ...     first = (rollouts.position == 0) & rollouts.mask
        ...     return rollouts.advantages[:, None] * first
    """
    return _register("allocation", function, about)


def _register(kind: Kind, function: Function | None, about: dict[str, Any]) -> Any:
    if function is None:
        return functools.partial(_register, kind, about=about)
    about = dict(about)  # a decorator may be used for several functions
    needs = about.pop("needs", ())
    needs = frozenset([needs] if isinstance(needs, str) else needs)
    if unknown := needs - set(OPTIONAL):
        raise CreditError(f"needs {sorted(unknown)}, but Rollouts can provide {sorted(OPTIONAL)}.")
    name = function.__name__
    rule = Rule(kind, function, name, needs, **about)
    known = _RULES.get(name)
    if known and _origin(known.function) != _origin(function):
        raise CreditError(
            f"{name!r} is already registered by {known.function.__module__}; choose another name."
        )
    _RULES[name] = rule
    function.__credit_rule__ = rule
    return function


def _origin(function: Function) -> tuple[str, str]:
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
    return dict(_RULES)


def _builtin() -> None:
    importlib.import_module("grpo_credit.aggregations")
    importlib.import_module("grpo_credit.allocations")


def find(name: str) -> Rule:
    """Return the rule of a name: registered, "pkg.mod:obj", or of an entry point.

    Raises:
        CreditError: if there is none, with a suggestion.
    """
    _builtin()
    if name in _RULES:
        return _RULES[name]
    if ":" in name:
        return as_rule(import_object(name), name)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return as_rule(point.load(), name)
    known = sorted(rules())
    raise CreditError(
        f"unknown strategy {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}; "
        "or your own as 'pkg.mod:obj'."
    )


def import_object(path: str, what: str = "strategy") -> Any:
    """Import `pkg.mod:obj`, from the current folder too.

    Raises:
        CreditError: if it is not there, with a suggestion; `what` names it in the message.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute or not module_name or module_name.startswith("."):
        raise CreditError(f"{path!r} is no {what}; expected 'pkg.mod:obj' with both names whole.")
    added = os.getcwd()  # `accelerate launch` puts the script's folder on the path, not this one
    sys.path.insert(0, added)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise CreditError(
            f"no module {module_name!r} for {what} {path!r}; looked in {added} and on sys.path."
            f"{hint(module_name)}"
        ) from None
    finally:
        sys.path.remove(added)
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        meant = did_you_mean(attribute, names) or hint(module_name)
        raise CreditError(f"{module.__file__} has no {attribute!r}.{meant}")
    return getattr(module, attribute)


def as_rule(thing: Any, name: str) -> Rule:
    """Return what a decorator knows about a function, or take it for a whole-credit callable."""
    known = getattr(thing, "__credit_rule__", None)
    if known is not None:
        return known
    if not callable(thing):
        raise CreditError(f"{name!r} is a {type(thing).__name__}, expected a function of Rollouts.")
    return Rule("credit", thing, name)


def list_credit() -> list[Rule]:
    """Return every registered rule, aggregations first, each kind by name."""
    return sorted(rules().values(), key=lambda rule: (rule.kind != "aggregation", rule.name))
