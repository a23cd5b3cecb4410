"""What a rule may aim at: the expected reward, or a function of the chance to be right.

Of one prompt all of them have the gradient of that chance, longer or shorter. They differ in how
much a hard prompt counts against an easy one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.errors import CreditError
from grpo_credit.text import did_you_mean

RIGHT = 0.5  # a completion is right if its reward exceeds this, as in `omega`
Chance = Float[Tensor, ""]


def _passk(p: Chance, k: int) -> Chance:
    """Return the chance that one of k completions is right."""
    return 1 - (1 - p) ** k


def _maxrl(p: Chance, n: int) -> Chance:
    """Return log p as far as groups of n tell it: -Σ_{j<n} (1 - p)^j / j."""
    powers = torch.arange(1, n)
    return -((1 - p) ** powers / powers).sum()


class _Kind(NamedTuple):
    objective: Callable[[Chance, int], Chance]
    least: int | None  # number that may stand after the name; None: none may
    example: str


KINDS = {
    "mean": _Kind(lambda p, _: p, None, "mean"),
    "passk": _Kind(_passk, 1, "passk:4"),
    "loglik": _Kind(lambda p, _: p.log(), None, "loglik"),
    "maxrl": _Kind(_maxrl, 2, "maxrl:8"),
}


@dataclass(frozen=True)
class Target:
    """An objective: the mean over prompts of a function of what is earned there.

    Args:
        kind: a name of `KINDS`.
        number: k of pass@k, n of MaxRL's sum; 0 where there is none.
    """

    kind: str = "mean"
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read what `--target` says.

        Raises:
            CreditError: if there is no such target, or its number does not fit.

        Example:
            >>> Target.parse("passk:4")
            Target(kind='passk', number=4)
        """
        kind, colon, number = text.partition(":")
        known = ", ".join(each.example for each in KINDS.values())
        if kind not in KINDS:
            raise CreditError(
                f"target is {text!r}, expected such as {known}.{did_you_mean(kind, KINDS)}"
            )
        least = KINDS[kind].least
        fits = not colon if least is None else number.isdecimal() and int(number) >= least
        if not fits:
            wanted = "no number" if least is None else f"a number of {least} or more"
            raise CreditError(f"target is {text!r}, expected {wanted}, as in {known}.")
        return cls(kind, int(number or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}" if self.number else self.kind

    def earned(self, rewards: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        """Return what counts of rewards: themselves for the mean, otherwise 1 if right, else 0."""
        return rewards if self.kind == "mean" else (rewards > RIGHT).to(rewards)

    def slope(self, chance: float) -> float:
        """Return the derivative of the objective where a prompt's chance to be right is this.

        Raises:
            CreditError: if there is none, as where no completion is right.

        Example:
            >>> Target("passk", 2).slope(0.25)  # 2 (1 - p)
            1.5
        """
        p = torch.tensor(chance, dtype=torch.float64, requires_grad=True)
        [found] = torch.autograd.grad(KINDS[self.kind].objective(p, self.number), p)
        if not math.isfinite(found):
            raise CreditError(f"{self} has no gradient where the chance to be right is {chance:g}.")
        return float(found)
