"""Strings written several at a time, and steered towards a sequence-level temperature.

Sequential Monte Carlo with next-token temperature as its proposal: a run has K strings at work.
Each collects Σ_v p(v | s)^{1/τ}, by which next-token temperature normalises and so forgets; where
few strings hold most of that weight, all K are drawn anew among them. With K = 1 nothing is drawn
anew, which is next-token temperature.
"""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grpo_credit.lab.enumerable import Language, going_on


class Walk(Protocol):
    """Strings at work at some temperature, each with a state from which next tokens follow."""

    def propose(self) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
        """Return log Σ_v p(v | s)^{1/τ} of each string, and the probability of each next token."""
        ...

    def write(self, tokens: Int[Tensor, " N"]) -> None:
        """Add a token to each string."""
        ...

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Go on with these strings, some twice and some not."""
        ...


class TableWalk:
    """Strings of an enumerable language; those that have ended write end tokens, at no cost.

    Args:
        language: what may be written.
        logps: the policy's table.
        tau: the temperature, above 0.
        count: strings at work.
    """

    def __init__(
        self, language: Language, logps: Float[Tensor, "P V"], tau: float, count: int
    ) -> None:
        scaled = going_on(logps) / tau
        self.successors = language.successors
        self.worth, self.chances = scaled.logsumexp(dim=1), scaled.softmax(dim=1)
        self.state = torch.zeros(count, dtype=torch.long)

    def propose(self) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
        """Look up the state of each string."""
        return self.worth[self.state], self.chances[self.state]

    def write(self, tokens: Int[Tensor, " N"]) -> None:
        """Go where the tokens lead."""
        self.state = self.successors[self.state, tokens]

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Go on from the states of these strings."""
        self.state = self.state[rows]


def steer(
    walk: Walk, particles: int, steps: int, generator: torch.Generator
) -> tuple[Int[Tensor, "N T"], Float[Tensor, "R K"]]:
    """Write strings; the runs of K particles are consecutive rows.

    Args:
        walk: R · K strings at work.
        particles: K, at least 1.
        steps: tokens to write.
        generator: of all draws.

    Returns:
        The tokens, and the log-weight of each string in its run.
    """
    written, weight = [], torch.zeros(())
    for _ in range(steps):
        worth, chances = walk.propose()
        weight = weight + worth.view(-1, particles)
        if (poor := _poor(weight)).any():
            rows = _drawn_anew(weight, poor, generator)
            walk.keep(rows)
            written, chances = [tokens[rows] for tokens in written], chances[rows]
            weight = torch.where(poor[:, None], 0.0, weight)
        written.append(draw(chances, 1, generator)[:, 0])
        walk.write(written[-1])
    return torch.stack(written, dim=1), weight


def draw(
    chances: Float[Tensor, "N V"], count: int, generator: torch.Generator
) -> Int[Tensor, "N count"]:
    """Draw from each row with replacement, ten times as fast as `torch.multinomial` does."""
    sums = chances.cumsum(dim=1)
    where = torch.rand(len(sums), count, generator=generator, dtype=sums.dtype) * sums[:, -1:]
    return torch.searchsorted(sums, where, right=True).clamp(max=sums.shape[1] - 1)


def _poor(weight: Float[Tensor, "R K"]) -> Tensor:
    """Say which runs have an effective number of particles below K/2."""
    return 1 / weight.softmax(dim=1).square().sum(dim=1) < weight.shape[1] / 2


def _drawn_anew(weight: Tensor, poor: Tensor, generator: torch.Generator) -> Int[Tensor, " N"]:
    runs, particles = weight.shape
    place = torch.arange(particles).repeat(runs, 1)
    place[poor] = draw(weight[poor].softmax(dim=1), particles, generator)
    return (place + particles * torch.arange(runs)[:, None]).flatten()


def shares(
    language: Language, written: Int[Tensor, "N T"], weight: Float[Tensor, "R K"]
) -> Float[Tensor, " M"]:
    """Return how often each string of a language came out: one per run, kept by its weight."""
    places = (language.end + 1) ** torch.arange(language.length)
    numbers, order = (language.ids @ places).sort()
    rows = order[torch.searchsorted(numbers, written @ places)]
    kept = weight.softmax(dim=1).flatten() / len(weight)
    return kept.new_zeros(len(numbers)).index_add(0, rows, kept)
