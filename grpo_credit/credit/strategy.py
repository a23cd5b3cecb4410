"""What a rule is, and how rules multiply into a credit matrix.

A rule is a function of `Rollouts` with what its decorator knows about it. A `Strategy` multiplies
an allocation (one rule, a chain of them, or a mixture of chains) by an aggregation, or calls one
function for both, and checks what they return.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.rollouts import OPTIONAL, Rollouts
from grpo_credit.errors import CreditError

Kind = Literal["aggregation", "allocation", "credit"]
Function = Callable[..., object]  # what it takes and returns is checked when it is called


@dataclass(frozen=True)
class Rule:
    """What a decorator knows about a function.

    Args:
        kind: `aggregation`, `allocation`, or `credit` for an undecorated callable.
        function: the function itself.
        name: its name in the registry.
        needs: optional fields of `Rollouts` that it reads.
        trl: TRL's `loss_type` that aggregates alike, if there is one.
        verl: verl's setting that does alike, if there is one: `loss_agg_mode=token-mean`.
        paper: where it was published.
        caution: where it was seen not to learn.
        conserves_mass: (allocation) Σ_t A[i,t] = L_i · A_i.
        linear: (allocation) A[i,t] = A_i · w[i,t] with w independent of the advantages; such a rule
            may follow others in a chain.
        keeps_sign: (allocation) no token gets the sign opposite to its completion's advantage.
        sign_free: (aggregation) does not look at the advantages.
    """

    kind: Kind
    function: Function
    name: str
    needs: frozenset[str] = frozenset()
    trl: str | None = None
    verl: str | None = None
    paper: str = ""
    caution: str = ""
    conserves_mass: bool = False
    linear: bool = True
    keeps_sign: bool = False
    sign_free: bool = True

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def formula(self) -> str:
        """The equation: the first indented line of the docstring that stands before any section."""
        prose = re.split(r"^\w+:$", inspect.getdoc(self.function) or "", flags=re.MULTILINE)[0]
        equation = re.search(r"^ {4,}(\S.*)$", prose, re.MULTILINE)
        return equation[1] if equation else ""

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword-only parameters: what `--credit_kwargs` may set."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Chain:
    """Allocations one after another: the first lands the advantage, the others weigh its tokens.

        A[i, t] = A₁[i, t] · w₂[i, t] · w₃[i, t] · …      w = allocation of the advantage 1

    Args:
        rules: the allocations; all but the first are linear.
        share: the chain's part in a mixture of chains, 0 to 1.
    """

    rules: tuple[Rule, ...]
    share: float = 1.0

    def __str__(self) -> str:
        name = "+".join(rule.name for rule in self.rules)
        return name if self.share == 1 else f"{name}@{self.share:g}"


@dataclass(frozen=True)
class Strategy:
    """A resolved strategy: `credit = allocation x aggregation`, or one function for both.

    Args:
        name: how the user named it, completed: `even/seq`.
        mixture: where the advantage lands: chains of allocations whose shares sum to 1; empty for
            a whole-credit callable.
        aggregation: the denominators; None for a whole-credit callable.
        whole: the callable that returns the credit matrix itself.
        options: the keyword arguments bound to each rule's function, by rule name.
    """

    name: str
    mixture: tuple[Chain, ...]
    aggregation: Rule | None
    whole: Rule | None
    options: dict[str, dict[str, Any]]

    @property
    def needs(self) -> frozenset[str]:
        """What must be present in `Rollouts` beyond the fields that are always there."""
        return frozenset().union(*(rule.needs for rule in self.rules))

    @property
    def allocations(self) -> list[Rule]:
        """Every allocation of every chain."""
        return [rule for chain in self.mixture for rule in chain.rules]

    @property
    def rules(self) -> list[Rule]:
        """The parts this strategy is made of."""
        return [*self.allocations, *(rule for rule in (self.aggregation, self.whole) if rule)]

    @property
    def even(self) -> bool:
        """Whether every counted token of a completion gets the same credit by construction."""
        return bool(self.mixture) and all(rule.name == "even" for rule in self.allocations)

    @property
    def keeps_sign(self) -> bool:
        """Whether no token's credit opposes the advantage of its completion, as declared."""
        return bool(self.mixture) and all(rule.keeps_sign for rule in self.allocations)

    @property
    def linear(self) -> bool:
        """Whether A[i,t] = A_i · w[i,t] with w independent of the advantages, as declared."""
        return bool(self.mixture) and all(rule.linear for rule in self.allocations)

    @property
    def conserves_mass(self) -> bool:
        """Whether Σ_t A[i,t] = L_i · A_i, as declared."""
        moving = [[r for r in chain.rules if r.name != "even"] for chain in self.mixture]
        return bool(self.mixture) and all(
            len(rules) <= 1 and all(rule.conserves_mass for rule in rules) for rules in moving
        )

    def weights(self, rollouts: Rollouts) -> Float[Tensor, "B 1"]:
        """Return the aggregation: nonnegative weight of each completion's tokens, `(B, 1)`."""
        if self.aggregation is None:
            raise CreditError(f"{self.name!r} returns the whole credit, it has no aggregation.")
        return _weights(self.aggregation.name, self._call(self.aggregation, rollouts), rollouts)

    def credit(self, rollouts: Rollouts) -> Float[Tensor, "B T"]:
        """Return the credit matrix `(B, T)`; see `compute_credit`."""
        return self.credit_and_weights(rollouts)[0]

    def credit_and_weights(
        self, rollouts: Rollouts
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B 1"] | None]:
        """Return `credit` and the `weights` in it, computed once; None without an aggregation."""
        self._require(rollouts)
        if self.whole:
            return _matrix(self.whole.name, self._call(self.whole, rollouts), rollouts), None
        weights = self.weights(rollouts)
        credit = self.allocation(rollouts) * weights
        _refuse_infinite(self.name, credit, rollouts)
        return credit, weights

    def allocation(self, rollouts: Rollouts) -> Float[Tensor, "B T"]:
        """Return where the advantages land, `(B, T)`: the mixture of the chains."""
        return sum(
            (chain.share * self._landed(chain, rollouts) for chain in self.mixture),
            torch.zeros_like(rollouts.mask, dtype=rollouts.advantages.dtype),
        )

    def _landed(self, chain: Chain, rollouts: Rollouts) -> Float[Tensor, "B T"]:
        first, *others = chain.rules
        landed = _matrix(first.name, self._call(first, rollouts), rollouts)
        if not others:
            return landed
        unit = replace(rollouts, advantages=torch.ones_like(rollouts.advantages))
        for rule in others:
            landed = landed * _matrix(rule.name, self._call(rule, unit), rollouts)
        return landed

    def _require(self, rollouts: Rollouts) -> None:
        for need in sorted(self.needs):
            if any(getattr(rollouts, name) is None for name in OPTIONAL[need]):
                raise CreditError(f"{self.name!r} needs rollouts.{need}, which is None.")

    def _call(self, rule: Rule, rollouts: Rollouts) -> object:
        return rule.function(rollouts, **self.options.get(rule.name, {}))


def _matrix(name: str, value: object, rollouts: Rollouts) -> Float[Tensor, "B T"]:
    shape = tuple(rollouts.mask.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise CreditError(
            f"{name!r} returned {got}, expected a tensor of shape {shape} like rollouts.mask: "
            "one value per completion token."
        )
    _refuse_gradient(name, value)
    value = value.to(rollouts.advantages.dtype)
    counted = torch.where(rollouts.mask, value, 0.0)
    _refuse_infinite(name, counted, rollouts)
    _refuse_uncounted(name, value, rollouts)
    return counted


def _weights(name: str, value: object, rollouts: Rollouts) -> Float[Tensor, "B 1"]:
    value = torch.as_tensor(
        value, dtype=rollouts.advantages.dtype, device=rollouts.advantages.device
    )
    rows = len(rollouts.advantages)
    if value.dim() and tuple(value.shape) != (rows, 1):
        raise CreditError(
            f"{name!r} returned shape {tuple(value.shape)}, expected ({rows}, 1): one weight per "
            "completion, or one number for all. Index a (B,) tensor with [:, None]."
        )
    _refuse_gradient(name, value)
    value = value.expand(rows, 1)
    if not torch.isfinite(value).all() or (value < 0).any():
        row = int((~(torch.isfinite(value) & (value >= 0))).nonzero()[0, 0])
        raise CreditError(
            f"{name!r} gave weight {value[row, 0].item()} to completion {row} (length "
            f"{int(rollouts.lengths[row])}); weights must be finite and >= 0. A sign belongs in "
            "the allocation."
        )
    return value


def _refuse_infinite(name: str, value: Float[Tensor, "B T"], rollouts: Rollouts) -> None:
    if not torch.isfinite(value).all():
        row, column = (~torch.isfinite(value)).nonzero()[0].tolist()
        raise CreditError(
            f"{name!r} gave {value[row, column].item()} to token {column} of completion {row} "
            f"(length {int(rollouts.lengths[row])}); credit must be finite."
        )


def _refuse_uncounted(name: str, value: Float[Tensor, "B T"], rollouts: Rollouts) -> None:
    spilt = ~rollouts.mask & (value != 0)
    if spilt.any():
        row, column = spilt.nonzero()[0].tolist()
        raise CreditError(
            f"{name!r} gave {value[row, column].item()} to token {column} of completion {row}, "
            "which is not counted; multiply by rollouts.mask."
        )


def _refuse_gradient(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise CreditError(f"{name!r} returned a tensor that carries a gradient; use .detach().")
