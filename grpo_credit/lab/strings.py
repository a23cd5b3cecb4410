"""What a sum of next-token losses says about whole strings, and what it does not.

The chain rule makes token-level and sequence-level cross entropy one number. The most likely
string is another matter: it need not begin with the most likely token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.lab.enumerable import Language, by_token, going_on, log_probabilities
from grpo_credit.lab.tempering import random_policies

SAME = 1e-9  # nats: strings less apart are equally likely, but for rounding


class ChainRule(NamedTuple):
    """Expected losses of a window of n tokens, in nats.

    Args:
        tokens: n.
        joint: -log P(the n tokens | what is before them), with P summed over whole strings.
        summed: the sum of their n next-token losses.
        difference: the largest |joint - summed| of a window.
        heads: the least loss of n heads, of which each sees what is before the window alone.
    """

    tokens: int
    joint: float
    summed: float
    difference: float
    heads: float


class Estimate(NamedTuple):
    """A mean over policies, and its standard error."""

    mean: float
    error: float


class Search(NamedTuple):
    """How a way to look for the most likely string does on random policies.

    Args:
        missed: share of the policies whose most likely string it does not return.
        nats: by how much the string that it returns is less likely.
    """

    missed: Estimate
    nats: Estimate


# ---- the chain rule -----------------------------------------------------------------------------


def chain_rule(language: Language, logps: Float[Tensor, "P V"]) -> list[ChainRule]:
    """Compare the loss of n tokens at once with n next-token losses, for every n.

    Windows begin at every token of every string, each as likely as the policy makes it. A window
    ends where its string does. Heads predict the end token again after the end.
    """
    masses = begun(language, logps).log()
    steps = by_token(language, logps)
    sums = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], dim=1)
    heads = -torch.stack([_head(language, logps, ahead) for ahead in range(language.length)])
    chance = language.mask * masses[:, -1:].exp()
    found = []
    for n in range(1, language.length + 1):
        joint, summed = -_within(masses, n), -_within(sums, n)
        expected = [
            float((chance * losses).sum() / chance.sum())
            for losses in (joint, summed, heads[:n].sum(0))
        ]
        difference = (joint - summed)[language.mask].abs().max()
        found.append(ChainRule(n, expected[0], expected[1], float(difference), expected[2]))
    return found


def begun(language: Language, logps: Float[Tensor, "P V"]) -> Float[Tensor, "M T1"]:
    """Return the probability that a string begins as each does, for every number of tokens.

    Summed over whole strings: no next-token probability is used again.
    """
    chances, prefix = log_probabilities(language, logps).exp(), _prefixes(language)
    every = chances[:, None].expand(prefix.shape)
    mass = _summed(len(language.prefixes), prefix[language.mask], every[language.mask])
    return torch.cat([torch.where(language.mask, mass[prefix], every), every[:, :1]], dim=1)


def _prefixes(language: Language) -> Tensor:
    return language.events // (language.end + 1)


def _summed(size: int, places: Tensor, values: Tensor) -> Tensor:
    return values.new_zeros(size).index_add(0, places, values)


def _within(sums: Float[Tensor, "M T1"], n: int) -> Float[Tensor, "M T"]:
    """Return what running sums gain within n tokens from each."""
    last = sums[:, -1:].expand(-1, n - 1)
    return torch.cat([sums[:, n:], last], dim=1) - sums[:, :-1]


def _head(language: Language, logps: Float[Tensor, "P V"], ahead: int) -> Float[Tensor, "M T"]:
    """Return log P(token `ahead` places on | what is before this one); 0 where there is none."""
    start = language.length - ahead
    begins = begun(language, logps)
    there = language.mask[:, :start]
    seen = _prefixes(language)[:, :start] * (language.end + 1) + language.ids[:, ahead:]
    every = begins[:, -1:].expand(seen.shape)
    mass = _summed(len(language.prefixes) * (language.end + 1), seen[there], every[there])
    given = torch.where(there, mass[seen], begins[:, :start]) / begins[:, :start]
    return torch.cat([given.log(), torch.zeros_like(begins[:, :ahead])], dim=1)


# ---- the most likely string ---------------------------------------------------------------------


def beam_search(
    language: Language, logps: Float[Tensor, "R P V"], width: int
) -> Float[Tensor, " R"]:
    """Return the log-probability of the string that a beam finds for each policy, nats.

    Scores are log-probabilities, not divided by lengths. Width 1 is greedy decoding.
    """
    table, policies = going_on(logps), torch.arange(len(logps))[:, None]
    state, score = torch.zeros_like(policies), table.new_zeros(policies.shape)
    for _ in range(language.length):
        grown = (score[..., None] + table[policies, state]).flatten(1)
        score, chosen = grown.topk(min(width, grown.shape[1]), dim=1)
        state = state.gather(1, chosen // table.shape[-1])
        state = language.successors[state, chosen % table.shape[-1]]
    return score[:, 0]


@dataclass(frozen=True)
class Searching:
    """How the most likely strings of random policies are looked for.

    Args:
        widths: of the beams; 1 is greedy decoding.
        policies: how many; at least 2.
        seed: of the first, see `random_policies`.

    Raises:
        ValueError: if a number is too small.
    """

    widths: Sequence[int]
    policies: int
    seed: int

    def __post_init__(self) -> None:
        if self.policies < 2 or min(self.widths) < 1:
            raise ValueError(
                f"there are {self.policies} policies and beams of {min(self.widths)}; expected at "
                "least 2 and 1."
            )


def most_likely(language: Language, spread: float, asked: Searching) -> Mapping[str, Search]:
    """Look for the most likely strings of random policies: by beams, and by one sample.

    Args:
        language: what they may say.
        spread: standard deviation of their logits.
        asked: how.

    Returns:
        Way to search -> how it does. Those of one sample are expectations, summed over strings.
    """
    logps = random_policies(language, asked.policies, spread, asked.seed)
    strings = log_probabilities(language, logps)
    best = strings.max(dim=1).values
    lost = {_name(width): best - beam_search(language, logps, width) for width in asked.widths}
    lost = {name: nats * (nats > SAME) for name, nats in lost.items()}
    found = {name: Search(_mean((nats > 0).double()), _mean(nats)) for name, nats in lost.items()}
    entropy = -(strings.exp() * strings).sum(dim=1)
    return {**found, "one sample": Search(_mean(1 - best.exp()), _mean(best + entropy))}


def _name(width: int) -> str:
    return "greedy" if width == 1 else f"beam {width}"


def _mean(values: Float[Tensor, " R"]) -> Estimate:
    return Estimate(float(values.mean()), float(values.std() / len(values) ** 0.5))
