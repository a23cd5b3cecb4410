"""Chains of tokens of which a few decide: what is written, what is earned, and what is known.

A chain has T tokens. At k of them one symbol is right, the rest is filler, which earns nothing
whatever it says. What counts of completions is `ok`: whether each token is right, as filler always
is.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Chain:
    """A task to race on.

    Args:
        length: tokens of a completion, T.
        decisions: how many of them decide, k; the rest is filler.
        chance: probability of the right symbol at each decision, before training.
        graded: whether the share of right decisions is paid, not only all of them.
        early: whether the decisions are the first tokens; spread evenly otherwise.
        forced: whether filler is sure from the start; otherwise every symbol is equally likely.
        apart: whether filler has parameters of its own, which decisions do not share.
        noise: standard deviation of what is added to every observed reward.
        symbols: to choose from at each token.
        features: of a token, that the policy is linear in.
        pool: prompts there are.
        groups: prompts of one optimizer step.
        num_generations: completions per prompt.
        target: expected reward at which a race is over. Nearer to 1, runs at a fixed rate hover
            about it, and the steps to it become a matter of luck.

    Raises:
        ValueError: if a number is out of range.
    """

    length: int = 32
    decisions: int = 4
    chance: float = 0.5
    graded: bool = False
    early: bool = False
    forced: bool = False
    apart: bool = False
    noise: float = 0.0
    symbols: int = 4
    features: int = 16
    pool: int = 16
    groups: int = 4
    num_generations: int = 8
    target: float = 0.8

    def __post_init__(self) -> None:
        counts = (self.decisions <= self.length, self.groups <= self.pool, self.symbols > 1)
        if not (all(counts) and self.num_generations > 1 and 0 < self.chance < 1):
            raise ValueError(
                f"{self} is no chain; expected as many tokens as decisions or more, as many "
                "prompts in the pool as in a step, two symbols, two completions per prompt, and "
                "a chance between 0 and 1."
            )

    @cached_property
    def places(self) -> Int[Tensor, " k"]:
        """The columns of the deciding tokens."""
        number = torch.arange(self.decisions)
        return number if self.early else (2 * number + 1) * self.length // (2 * self.decisions)

    @cached_property
    def decides(self) -> Bool[Tensor, " T"]:
        """Whether a token decides."""
        return torch.zeros(self.length, dtype=torch.bool).index_fill(0, self.places, True)

    @cached_property
    def pay(self) -> "Pay":
        """What is earned."""
        return Share(self) if self.graded else AllRight(self)

    @property
    def completions(self) -> int:
        """Completions per optimizer step, N."""
        return self.groups * self.num_generations

    @property
    def tokens(self) -> int:
        """Tokens that one optimizer step generates."""
        return self.completions * self.length


class Pay(Protocol):
    """What a chain earns, and what is known of it at every prefix.

    `p` is the probability of the right symbol, 1 at filler.

    Attributes:
        chain: the task.
        tells: what a strategy may need that only some rewards tell.
    """

    chain: Chain
    tells: frozenset[str]

    def expected(self, p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S"]:
        """Return E[R]."""
        ...

    def pull(self, p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S T"]:
        """Return ∂E[R] / ∂ log p at each token."""
        ...

    def columns(self, ok: Bool[Tensor, "*S T"]) -> Float[Tensor, "*S K"]:
        """Return what each reward function pays; their mean is the reward."""
        ...

    def values(self, ok: Bool[Tensor, "*S T"], p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S T1"]:
        """Return V, the expected reward given the prefix of 0, 1, ..., T tokens."""
        ...

    def states(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S T1"]:
        """Return what an automaton remembers of every prefix."""
        ...

    def settled(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S K"]:
        """Return how many tokens were there when each reward function had made up its mind."""
        ...


class AllRight:
    """Pay 1 if every decision is right; one reward function."""

    tells = frozenset({"states", "decided"})

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def expected(self, p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S"]:  # noqa: D102
        return p.prod(-1)

    def pull(self, p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S T"]:  # noqa: D102
        return p.prod(-1, keepdim=True) * self.chain.decides

    def columns(self, ok: Bool[Tensor, "*S T"]) -> Float[Tensor, "*S K"]:  # noqa: D102
        return ok.all(-1, keepdim=True).float()

    def values(  # noqa: D102
        self, ok: Bool[Tensor, "*S T"], p: Float[Tensor, "*S T"]
    ) -> Float[Tensor, "*S T1"]:
        rest = p.flip(-1).cumprod(-1).flip(-1)
        return self._alive(ok) * pad(rest, (0, 1), value=1.0)

    def states(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S T1"]:  # noqa: D102
        return self._alive(ok) * torch.arange(1, self.chain.length + 2)

    def settled(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S K"]:  # noqa: D102
        last = int(self.chain.places[-1]) + 1
        return self._alive(ok).sum(-1, keepdim=True).clamp(max=last)

    def _alive(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S T1"]:
        return pad(ok.long().cumprod(-1), (1, 0), value=1)


class Share:
    """Pay the share of right decisions; a reward function for each, which names its token."""

    tells = frozenset({"states", "decided", "spans", "step_rewards"})

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def expected(self, p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S"]:  # noqa: D102
        return p[..., self.chain.places].mean(-1)

    def pull(self, p: Float[Tensor, "*S T"]) -> Float[Tensor, "*S T"]:  # noqa: D102
        return p * self.chain.decides / self.chain.decisions

    def columns(self, ok: Bool[Tensor, "*S T"]) -> Float[Tensor, "*S K"]:  # noqa: D102
        return ok[..., self.chain.places].float()

    def values(  # noqa: D102
        self, ok: Bool[Tensor, "*S T"], p: Float[Tensor, "*S T"]
    ) -> Float[Tensor, "*S T1"]:
        rest = (p * self.chain.decides).flip(-1).cumsum(-1).flip(-1)
        return (self._count(ok) + pad(rest, (0, 1))) / self.chain.decisions

    def states(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S T1"]:  # noqa: D102
        return self._count(ok) + torch.arange(self.chain.length + 1) * (self.chain.decisions + 1)

    def settled(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S K"]:  # noqa: D102
        return (self.chain.places + 1).expand(*ok.shape[:-1], -1)

    def _count(self, ok: Bool[Tensor, "*S T"]) -> Int[Tensor, "*S T1"]:
        return pad((ok & self.chain.decides).long().cumsum(-1), (1, 0))


TASKS = {
    "base": Chain(),
    "filler": Chain(length=64, pool=8),
    "graded": Chain(decisions=8, chance=0.3, graded=True, target=0.9),
    "early": Chain(early=True),
    "noisy": Chain(noise=0.5),
    "forced": Chain(length=6, decisions=1, chance=0.25, forced=True, target=0.9),
}
