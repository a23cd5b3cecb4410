"""From what a user names to a strategy.

    credit      =  aggregation | allocation | allocation/aggregation | pkg.mod:obj
    allocation  =  chain, or a mixture  chain@0.7,chain@0.3
    chain       =  rule, or one after another  rule+rule+rule

In Python `chain` and `mix` build the same from functions.
"""

import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.registry import as_rule, find, refuse_unsaid
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import Chain, CreditError, Function, Rule, Strategy
from grpo_credit.text import did_you_mean

DEFAULT_ALLOCATION = "even"
DEFAULT_AGGREGATION = "dapo"  # TRL's own default

Mixture = tuple[Chain, ...]
Named = str | Function | Mixture | Strategy | None  # what a user may name a strategy by


def resolve_credit(
    credit: Named = None,
    *,
    default_aggregation: str = DEFAULT_AGGREGATION,
    **options: Any,
) -> Strategy:
    """Turn what a user names into a strategy, and check its options.

    Args:
        credit: text as above (`"seq"`, `"decided+entropy_soft/dapo"`, `"even@0.5,tree_td@0.5"`),
            a function (decorated or not), what `chain` or `mix` returns, or None for `even`.
        default_aggregation: completes an allocation that comes alone.
        options: keyword arguments of the rules, each for the rules that declare it.

    Returns:
        The strategy. An undecorated callable is taken to return the whole credit matrix.

    Raises:
        CreditError: unknown name (with a suggestion), wrong kind or order, shares that do not sum
            to 1, unknown or ill-typed option.

    Example:
        >>> resolve_credit("seq").name
        'even/seq'
    """
    return resolve_with(credit, options, default_aggregation)


def resolve_with(
    credit: Named, options: Mapping[str, object], default_aggregation: str = DEFAULT_AGGREGATION
) -> Strategy:
    """Do the same with options that may have any name, such as those that a file holds."""
    if isinstance(credit, Strategy):
        if options:
            raise CreditError(f"{credit.name!r} is resolved already; give options when resolving.")
        return credit
    first, second = _sides(credit)
    if second is None and isinstance(first, Rule):
        if first.kind == "credit":
            return Strategy(first.name, (), None, first, _bind([first], options))
        if first.kind == "aggregation":
            first, second = _mixture(DEFAULT_ALLOCATION), first
    mixture = _as_mixture(first)
    aggregation = second or find(default_aggregation)
    _expect(aggregation, "aggregation", credit)
    rules = [*(rule for part in mixture for rule in part.rules), aggregation]
    name = f"{','.join(map(str, mixture))}/{aggregation.name}"
    return Strategy(name, mixture, aggregation, None, _bind(rules, options))


def resolve_text(text: str) -> Strategy:
    """Resolve a name that may have options after it, as command lines take several.

    Example:
        >>> resolve_text('trace/seq {"decay": 0.5}').options["trace"]
        {'decay': 0.5}
    """
    name, brace, options = text.partition("{")
    return resolve_with(name.strip(), parse_credit_kwargs(brace + options if brace else None))


def chain(*rules: str | Function | Rule) -> Mixture:
    """Apply allocations one after another; see `Chain` for the equation.

    Args:
        rules: names or functions. The first lands the advantage, the others weigh its tokens.

    Returns:
        What `resolve_credit`, `mix` and the trainer take as `credit`.

    Raises:
        CreditError: if one is no allocation, or one after the first is not linear.

    Example:
        >>> resolve_credit(chain("even", "even"), default_aggregation="seq").name
        'even+even/seq'
    """
    links = tuple(map(_rule_of, rules))
    for place, rule in enumerate(links):
        _expect(rule, "allocation", "+".join(r.name for r in links))
        if place and not rule.linear:
            raise CreditError(
                f"{rule.name!r} is not linear in the advantages, so it cannot weigh what "
                f"{links[place - 1].name!r} landed; put it first."
            )
    return (Chain(links),)


def mix(shares: Mapping[str | Function | Mixture, float]) -> Mixture:
    """Mix allocations: A = Σ_k share_k · A_k.

    Args:
        shares: name, function or chain -> its share; the shares are >= 0 and sum to 1.

    Returns:
        What `resolve_credit` and the trainer take as `credit`.

    Raises:
        CreditError: if a share is negative or they do not sum to 1.

    Example:
        >>> resolve_credit(mix({"even": 1.0})).name
        'even/dapo'
    """
    if not all(s >= 0 for s in shares.values()) or not abs(sum(shares.values()) - 1) <= 1e-6:
        listed = ", ".join(f"{share:g}" for share in shares.values())
        raise CreditError(f"the shares of the mixture are {listed}; expected >= 0, summing to 1.")
    return tuple(
        Chain(part.rules, part.share * share)
        for of, share in shares.items()
        for part in _as_mixture(of)
    )


# ---- reading ----------------------------------------------------------------------------------


def _sides(credit: str | Function | Mixture | None) -> tuple[Rule | Mixture | None, Rule | None]:
    """Split at the slash; a rule that stands alone may be of any kind."""
    if not isinstance(credit, str):
        return (_rule_of(credit) if callable(credit) else credit), None
    parts = [part.strip() for part in credit.split("/")]
    if not all(parts) or len(parts) > 2:
        raise CreditError(f"{credit!r} is no strategy; expected allocation/aggregation, or one.")
    if len(parts) == 1:
        alone = not set(credit) & set("+,@")
        return (find(parts[0]) if alone else _mixture(credit)), None
    aggregation = find(parts[1])
    if aggregation.kind == "allocation":
        raise CreditError(f"{credit!r} is the wrong way round, expected allocation/aggregation.")
    return _mixture(parts[0]), aggregation


def _mixture(text: str) -> Mixture:
    members = [member.strip() for member in text.split(",")]
    if len(members) == 1 and "@" not in text:
        return _chain(text)
    shares: dict[str | Function | Mixture, float] = {}
    for member in members:
        names, _, share = member.partition("@")
        try:
            shares[_chain(names)] = float(share)
        except ValueError as error:
            if isinstance(error, CreditError):
                raise
            raise CreditError(
                f"{member!r} has no share of the mixture; expected e.g. {names.strip()}@0.5."
            ) from None
    if len(shares) < len(members):
        raise CreditError(f"{text!r} names a member of the mixture twice.")
    return mix(shares)


def _chain(text: str) -> Mixture:
    names = [name.strip() for name in text.split("+")]
    if not all(names):
        raise CreditError(f"{text!r} is no chain of allocations; expected rule+rule.")
    return chain(*names)


def _as_mixture(given: str | Function | Rule | Mixture | None) -> Mixture:
    if given is None:
        return chain(DEFAULT_ALLOCATION)
    if isinstance(given, tuple):
        return given
    return _mixture(given) if isinstance(given, str) else chain(given)


def _expect(rule: Rule, kind: str, among: Named) -> None:
    if rule.kind == "credit":
        raise CreditError(
            f"{rule.name!r} returns the whole credit; decorate it with @allocation or "
            "@aggregation to combine it with another rule."
        )
    if rule.kind != kind:
        raise CreditError(f"{among!r}: {rule.name!r} is an {rule.kind}, expected an {kind} there.")


def _rule_of(given: str | Function | Rule) -> Rule:
    """Return the rule of a name or function; a partial is the rule with other defaults."""
    if isinstance(given, Rule):
        return given
    if isinstance(given, str):
        return find(given)
    if isinstance(given, functools.partial):
        return replace(_rule_of(given.func), function=given)
    return as_rule(given, getattr(given, "__name__", type(given).__name__))


# ---- options ----------------------------------------------------------------------------------


def parse_credit_kwargs(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Read `credit_kwargs`, which the command line passes as JSON text.

    Raises:
        CreditError: if it is no JSON object; with the place in the text.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            why = f"{getattr(error, 'msg', error)} at character {getattr(error, 'pos', '?')}"
            raise CreditError(
                f"credit_kwargs is not JSON: {why} of {value!r:.200}; "
                """write it like --credit_kwargs '{"alpha": 0.75}'."""
            ) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CreditError(f"credit_kwargs is {value!r}, expected a JSON object of option names.")
    return value


def _bind(parts: list[Rule], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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


def _check_type(rule: Rule, key: str, value: object) -> None:
    wanted = option_type(rule, key)
    takes_code = any(typing.get_origin(kind) is Callable for kind in typing.get_args(wanted))
    if isinstance(value, str) and takes_code:  # which the text names
        refuse_unsaid(value, key)
    if not _fits(value, wanted):
        name = wanted.__name__ if isinstance(wanted, type) else str(wanted)
        raise CreditError(
            f"option {key!r} of {rule.name!r} is {value!r} ({type(value).__name__}), "
            f"expected {name.replace('typing.', '')}."
        )


def option_type(rule: Rule, key: str) -> Any:
    """Return the annotated type of an option; Any where there is none that can be read."""
    function = rule.function.func if isinstance(rule.function, functools.partial) else rule.function
    try:
        return typing.get_type_hints(function).get(key, Any)
    except (NameError, TypeError):  # a name for type checkers alone, or an object that is called
        return Any


def _fits(value: object, wanted: Any) -> bool:
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


# ---- computing --------------------------------------------------------------------------------


def compute_credit(credit: Named, rollouts: Rollouts, **options: Any) -> Float[Tensor, "B T"]:
    """Compute the credit matrix of a strategy on rollouts.

        C[i, t] = allocation[i, t] · aggregation[i]

    Args:
        credit: whatever `resolve_credit` takes.
        rollouts: whole groups and the totals of their window.
        options: the strategy's keyword arguments.

    Returns:
        Credit `(B, T)`, dimensionless, loss weight included: the on-policy gradient is
        Σ C[i, t] ∇ log π(o[i, t]). Zero where the mask is False.

    Raises:
        CreditError: see `resolve_credit`; and if a rule returns the wrong shape, a value that is
            not finite, credit on a token that is not counted, a negative weight, or a tensor that
            carries a gradient.

    Example:
        >>> two = Rollouts.from_lists([1, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> compute_credit("seq", two)
        tensor([[ 0.5000,  0.0000,  0.0000],
                [-0.5000, -0.5000, -0.5000]])
    """
    return resolve_credit(credit, **options).credit(rollouts)
