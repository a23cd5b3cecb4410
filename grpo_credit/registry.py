"""From what a user names to a strategy: name | "pkg.mod:obj" | callable.

A rule is a plain function marked by `@aggregation` or `@allocation`; a strategy multiplies one of
each, or is a callable that returns the whole credit matrix. The registry is a convenience, never a
gate: whatever can be imported or passed as a callable is a strategy.
"""

import functools
import importlib
import os
import sys
import types
import typing
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, Literal, overload

from jaxtyping import Float
from torch import Tensor

from grpo_credit.rollouts import Rollouts
from grpo_credit.strategy import CreditError, Function, Kind, Rule, Strategy
from grpo_credit.suggest import did_you_mean

ENTRY_POINTS = "grpo_credit.strategies"
DEFAULT_ALLOCATION = "even"
DEFAULT_AGGREGATION = "dapo"  # TRL's own default
PROVIDED = frozenset({"old_logps", "entropies"})  # optional fields of Rollouts a rule may need


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

    The function returns a signed `(B, T)` tensor; `rollouts.advantages[:, None]` everywhere is
    `even`. Values under masked tokens are ignored.

    Args:
        function: the function, when used without parentheses.
        about: `needs`, `paper`, `conserves_mass`, `linear`, `keeps_sign`; see `Rule`.

    Returns:
        The function, unchanged.

    Example:
        >>> @allocation
        ... def doctest_first(rollouts):
        ...     '''Give everything to the first token.'''
        ...     return rollouts.advantages[:, None] * (rollouts.position == 0)
    """
    return _register("allocation", function, about)


def _register(kind: Kind, function: Function | None, about: dict[str, Any]) -> Any:
    if function is None:
        return functools.partial(_register, kind, about=about)
    about = dict(about)  # a decorator may be used for several functions
    needs = about.pop("needs", ())
    needs = frozenset([needs] if isinstance(needs, str) else needs)
    if unknown := needs - PROVIDED:
        raise CreditError(f"needs {sorted(unknown)}, but Rollouts can provide {sorted(PROVIDED)}.")
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
                _RULES[point.name] = _as_rule(point.load(), point.name)
            except Exception as error:
                warnings.warn(f"strategy {point.name!r} ({point.value}): {error!r}", stacklevel=2)
    return dict(_RULES)


def _builtin() -> None:
    importlib.import_module("grpo_credit.aggregations")
    importlib.import_module("grpo_credit.allocations")


def _find(name: str) -> Rule:
    _builtin()
    if name in _RULES:
        return _RULES[name]
    if ":" in name:
        return _as_rule(_import(name), name)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _as_rule(point.load(), name)
    known = sorted(rules())
    raise CreditError(
        f"unknown strategy {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}; "
        "or your own as 'pkg.mod:obj'."
    )


def _import(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if not attribute or not module_name or module_name.startswith("."):
        raise CreditError(f"{path!r} is no strategy; expected 'pkg.mod:obj' with both names whole.")
    added = os.getcwd()  # `accelerate launch` puts the script's folder on the path, not this one
    sys.path.insert(0, added)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise CreditError(
            f"no module {module_name!r} for strategy {path!r}; looked in {added} and on sys.path."
        ) from None
    finally:
        sys.path.remove(added)
    if not hasattr(module, attribute):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        hint = did_you_mean(attribute, names)
        raise CreditError(f"{module.__file__} has no {attribute!r}.{hint}")
    return getattr(module, attribute)


def _as_rule(thing: Any, name: str) -> Rule:
    known = getattr(thing, "__credit_rule__", None)
    if known is not None:
        return known
    if not callable(thing):
        raise CreditError(f"{name!r} is a {type(thing).__name__}, expected a function of Rollouts.")
    return Rule("credit", thing, name)


# ---- resolving --------------------------------------------------------------------------------


def resolve_credit(
    credit: str | Function | Strategy | None = None,
    *,
    default_aggregation: str = DEFAULT_AGGREGATION,
    **options: Any,
) -> Strategy:
    """Turn what a user names into a strategy, and check its options.

    Args:
        credit: `"aggregation"`, `"allocation"`, `"allocation/aggregation"`, `"pkg.mod:obj"` (also
            as either part), a function (decorated or not), or None for `even`.
        default_aggregation: completes an allocation that comes alone.
        options: keyword arguments of the rules, each for the rule that declares it.

    Returns:
        The strategy. An undecorated callable is taken to return the whole credit matrix.

    Raises:
        CreditError: unknown name (with a suggestion), wrong kind, unknown or ill-typed option.

    Example:
        >>> resolve_credit("seq").name
        'even/seq'
    """
    if isinstance(credit, Strategy):
        if options:
            raise CreditError(f"{credit.name!r} is resolved already; give options when resolving.")
        return credit
    parts = _parts(credit)
    chosen: dict[str, Rule] = {}
    for part in parts:
        rule = _find(part) if isinstance(part, str) else _callable_rule(part)
        if rule.kind in chosen:
            raise CreditError(
                f"{credit!r} names two {rule.kind}s, expected allocation/aggregation."
            )
        chosen[rule.kind] = rule
    if "credit" in chosen and len(chosen) > 1:
        raise CreditError(
            f"{chosen['credit'].name!r} returns the whole credit; decorate it with @allocation or "
            "@aggregation to combine it with another rule."
        )
    if len(parts) == 2 and getattr(_find(parts[0]), "kind", None) == "aggregation":
        raise CreditError(f"{credit!r} is the wrong way round, expected allocation/aggregation.")
    if "credit" not in chosen:
        chosen.setdefault("allocation", _find(DEFAULT_ALLOCATION))
        chosen.setdefault("aggregation", _find(default_aggregation))
    ordered = [chosen[k] for k in ("allocation", "aggregation", "credit") if k in chosen]
    return Strategy(
        name="/".join(rule.name for rule in ordered),
        allocation=chosen.get("allocation"),
        aggregation=chosen.get("aggregation"),
        whole=chosen.get("credit"),
        options=_bind(ordered, options),
    )


def _parts(credit: str | Function | None) -> list[Any]:
    if credit is None:
        return []
    if not isinstance(credit, str):
        return [credit]
    parts = [part.strip() for part in credit.split("/")]
    if not all(parts) or len(parts) > 2:
        raise CreditError(f"{credit!r} is no strategy; expected allocation/aggregation, or one.")
    return parts


def _callable_rule(function: Any) -> Rule:
    if isinstance(function, functools.partial):
        inner = _callable_rule(function.func)
        return replace(inner, function=function)
    name = getattr(function, "__name__", type(function).__name__)
    return _as_rule(function, name)


# ---- options ----------------------------------------------------------------------------------


def _bind(parts: list[Rule], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    bound: dict[str, dict[str, Any]] = {rule.name: {} for rule in parts}
    for key, value in options.items():
        takers = [rule for rule in parts if key in rule.options]
        if not takers:
            known = sorted({name for rule in parts for name in rule.options})
            listed = f"options: {', '.join(known)}" if known else "it takes no options"
            names = "/".join(rule.name for rule in parts)
            hint = did_you_mean(key, known)
            raise CreditError(f"{names!r} has no option {key!r}; {listed}.{hint}")
        for rule in takers:
            _check_type(rule, key, value)
            bound[rule.name][key] = value
    for rule in parts:
        for key, parameter in rule.options.items():
            if parameter.default is parameter.empty and key not in bound[rule.name]:
                raise CreditError(f"{rule.name!r} needs the option {key!r} (credit_kwargs).")
    return bound


def _check_type(rule: Rule, key: str, value: Any) -> None:
    function = rule.function.func if isinstance(rule.function, functools.partial) else rule.function
    wanted = typing.get_type_hints(function).get(key, Any) if hasattr(function, "__name__") else Any
    if not _fits(value, wanted):
        said = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
        raise CreditError(
            f"option {key!r} of {rule.name!r} is {value!r} ({type(value).__name__}), "
            f"expected {said}."
        )


def _fits(value: Any, wanted: Any) -> bool:
    origin = typing.get_origin(wanted)
    if wanted is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(wanted))
    if origin is Literal:
        return value in typing.get_args(wanted)
    kind = origin or wanted
    if isinstance(value, bool) and kind in (int, float):
        return False  # bool is an int to Python, not to a user
    if kind is float:
        return isinstance(value, int | float)
    return not isinstance(kind, type) or isinstance(value, kind)


# ---- the two verbs ----------------------------------------------------------------------------


def compute_credit(
    credit: str | Function | Strategy | None, rollouts: Rollouts, **options: Any
) -> Float[Tensor, "B T"]:
    """Compute the credit matrix of a strategy on rollouts.

        C[i, t] = allocation[i, t] · aggregation[i] · mask[i, t]

    Args:
        credit: whatever `resolve_credit` takes.
        rollouts: whole groups and the totals of their window.
        options: the strategy's keyword arguments.

    Returns:
        Credit `(B, T)`, dimensionless, loss weight included: the on-policy gradient is
        Σ C[i, t] ∇ log π(o[i, t]). Zero where the mask is False, whatever the rule says there.

    Raises:
        CreditError: see `resolve_credit`; and if a rule returns the wrong shape, a value that is
            not finite, a negative weight, or a tensor that carries a gradient.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> compute_credit("seq", two)
        tensor([[ 0.5000,  0.0000,  0.0000],
                [-0.5000, -0.5000, -0.5000]])
    """
    return resolve_credit(credit, **options).credit(rollouts)


def list_credit() -> list[Rule]:
    """Return every registered rule, aggregations first, each kind by name."""
    return sorted(rules().values(), key=lambda rule: (rule.kind != "aggregation", rule.name))
