"""What a rule is, and how rules multiply into a credit matrix.

A rule is a function of `Rollouts` with what its decorator knows about it. A `Strategy` multiplies
an allocation by an aggregation, or calls one function for both, and checks what they return.
"""

import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.rollouts import Rollouts

Kind = Literal["aggregation", "allocation", "credit"]
Function = Any  # a callable; what it takes and returns is checked when it is called


class CreditError(ValueError):
    """A strategy cannot be found, built or used as asked."""


@dataclass(frozen=True)
class Rule:
    """What a decorator knows about a function.

    Args:
        kind: `aggregation`, `allocation`, or `credit` for an undecorated callable.
        function: the function itself.
        name: its name in the registry.
        needs: optional fields of `Rollouts` that it reads.
        trl: TRL's `loss_type` that aggregates alike, if there is one.
        paper: where it was published.
        conserves_mass: (allocation) Σ_t A[i,t] = L_i · A_i.
        linear: (allocation) linear in the advantages.
        keeps_sign: (allocation) no token gets the sign opposite to its completion's advantage.
        sign_free: (aggregation) does not look at the advantages.
    """

    kind: Kind
    function: Function
    name: str
    needs: frozenset[str] = frozenset()
    trl: str | None = None
    paper: str = ""
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
        found = re.search(r"^ {4,}(\S.*)$", prose, re.MULTILINE)
        return found[1] if found else ""

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword-only parameters: what `--credit_kwargs` may set."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Strategy:
    """A resolved strategy: `credit = allocation x aggregation`, or one function for both.

    Args:
        name: how the user named it, completed: `even/seq`.
        allocation: where the advantage lands; None for a whole-credit callable.
        aggregation: the denominators; None for a whole-credit callable.
        whole: the callable that returns the credit matrix itself.
        options: the keyword arguments bound to each rule's function, by rule name.
    """

    name: str
    allocation: Rule | None
    aggregation: Rule | None
    whole: Rule | None
    options: dict[str, dict[str, Any]]

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Rollouts` that must be present."""
        return frozenset().union(*(rule.needs for rule in self.rules))

    @property
    def rules(self) -> list[Rule]:
        """The parts this strategy is made of."""
        return [rule for rule in (self.allocation, self.aggregation, self.whole) if rule]

    @property
    def even(self) -> bool:
        """Whether every counted token of a completion gets the same credit by construction."""
        return self.allocation is not None and self.allocation.name == "even"

    @property
    def keeps_sign(self) -> bool:
        """Whether no token's credit opposes the advantage of its completion, as declared."""
        return self.allocation is not None and self.allocation.keeps_sign

    def weights(self, rollouts: Rollouts) -> Float[Tensor, "B 1"]:
        """Return the aggregation: nonnegative weight of each completion's tokens, `(B, 1)`."""
        if self.aggregation is None:
            raise CreditError(f"{self.name!r} returns the whole credit, it has no aggregation.")
        return _weights(self.aggregation.name, self._call(self.aggregation, rollouts), rollouts)

    def credit(self, rollouts: Rollouts) -> Float[Tensor, "B T"]:
        """Return the credit matrix `(B, T)`; see `compute_credit`."""
        if missing := sorted(n for n in self.needs if getattr(rollouts, n) is None):
            raise CreditError(f"{self.name!r} needs rollouts.{missing[0]}, which is None.")
        if self.whole:
            return _matrix(self.whole.name, self._call(self.whole, rollouts), rollouts)
        assert self.allocation is not None
        landed = _matrix(self.allocation.name, self._call(self.allocation, rollouts), rollouts)
        return landed * self.weights(rollouts)

    def _call(self, rule: Rule, rollouts: Rollouts) -> Any:
        return rule.function(rollouts, **self.options.get(rule.name, {}))


def _matrix(name: str, value: Any, rollouts: Rollouts) -> Float[Tensor, "B T"]:
    shape = tuple(rollouts.mask.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise CreditError(
            f"{name!r} returned {got}, expected a tensor of shape {shape} like rollouts.mask: "
            "one value per completion token."
        )
    _refuse_gradient(name, value)
    value = torch.where(rollouts.mask, value.to(rollouts.advantages.dtype), 0.0)
    if not torch.isfinite(value).all():
        row, column = (~torch.isfinite(value)).nonzero()[0].tolist()
        raise CreditError(
            f"{name!r} gave {value[row, column].item()} to token {column} of completion {row} "
            f"(length {int(rollouts.lengths[row])}); credit must be finite."
        )
    return value


def _weights(name: str, value: Any, rollouts: Rollouts) -> Float[Tensor, "B 1"]:
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


def _refuse_gradient(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise CreditError(f"{name!r} returned a tensor that carries a gradient; use .detach().")
