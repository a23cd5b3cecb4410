"""All strings of a few symbols up to a length, and policies over them that are tables."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from grpo_credit import Rollouts, compute_credit


class Strings:
    """The strings, each with its end where it is shorter than the longest, as rows of tokens.

    Args:
        symbols: their number; the next token is the end.
        longest: length in tokens.
    """

    def __init__(self, symbols: int, longest: int) -> None:
        self.end, self.longest = symbols, longest
        self.prefixes = [p for n in range(longest) for p in product(range(symbols), repeat=n)]
        written = [(*p, self.end) for p in self.prefixes]
        written += product(range(symbols), repeat=longest)
        number = {prefix: n for n, prefix in enumerate(self.prefixes)}
        shape = len(written), longest
        self.prefix, self.token = torch.zeros(2, *shape, dtype=torch.long)
        self.mask = torch.zeros(shape, dtype=torch.bool)
        for row, tokens in enumerate(written):
            for t, token in enumerate(tokens):
                self.prefix[row, t], self.token[row, t] = number[tokens[:t]], token
                self.mask[row, t] = True
        # of each prefix and symbol, the longer prefix; the last number where there is none
        none = len(self.prefixes)
        self.longer = torch.tensor(
            [[number.get((*p, v), none) for v in range(symbols)] + [none] for p in self.prefixes]
        )

    def logps(self, table: Tensor) -> Tensor:
        """Look up the log-probability of every token of every string, 0 after the end."""
        return table[self.prefix, self.token] * self.mask


@dataclass
class Policy:
    """A next-token table (prefixes, symbols + 1) of log-probabilities."""

    strings: Strings
    table: Tensor
    logps: Tensor = field(init=False)
    joint: Tensor = field(init=False)  # log-probability of each string

    def __post_init__(self) -> None:
        self.logps = self.strings.logps(self.table)
        self.joint = self.logps.sum(dim=1)

    @classmethod
    def drawn(cls, strings: Strings, seed: int) -> "Policy":
        """Draw logits with a standard deviation of 1.5."""
        size = len(strings.prefixes), strings.end + 1
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(size, generator=generator, dtype=torch.float64)
        return cls(strings, (1.5 * logits).log_softmax(1))

    def ahead(self, tau: float, horizon: int) -> "Policy":
        """Return q(v|s) ∝ p(v|s)^(1/τ) Z(sv), where Z sums p^(1/τ) over horizon - 1 more tokens."""
        value = torch.zeros(len(self.table) + 1, dtype=self.table.dtype)
        for _ in range(horizon - 1):
            value[:-1] = (self.table / tau + value[self.strings.longer]).logsumexp(1)
        return Policy(self.strings, (self.table / tau + value[self.strings.longer]).log_softmax(1))

    def rollouts(self, rows: Tensor, reference: "Policy", reward: Any = 0.0) -> Rollouts:
        """Return strings that this policy wrote as one group, with rewards by string."""
        rewards = (torch.zeros_like(self.joint) + reward)[rows]
        return Rollouts(
            completion_ids=self.strings.token[rows], mask=self.strings.mask[rows],
            advantages=rewards - rewards.mean(), rewards=rewards, rewards_per_func=rewards[:, None],
            reward_names=("reward",), group=torch.zeros_like(rows),
            truncated=torch.zeros_like(rows).bool(), max_completion_length=self.strings.longest,
            scale_rewards="none", old_logps=self.logps[rows], ref_logps=reference.logps[rows],
        )  # fmt: skip

    def gradient(self, tau: float) -> Tensor:
        """Return the gradient of E_q[log p / τ - log q] with respect to the table, at q = p."""
        table = self.table.clone().requires_grad_(True)
        own = self.strings.logps(table.log_softmax(1)).sum(dim=1)
        (own.exp() * (self.joint / tau - own)).sum().backward()
        assert table.grad is not None
        return table.grad.flatten()

    def updates(self, tau: float, batches: int, n: int) -> tuple[Tensor, Tensor]:
        """Return the updates of `temper` and of the total under `even`, batch by batch, at p."""
        generator, found = torch.Generator().manual_seed(0), ([], [])
        for _ in range(batches):
            rows = torch.multinomial(self.joint.exp(), n, replacement=True, generator=generator)
            rollouts = self.rollouts(rows, self, (1 / tau - 1) * self.joint)
            nothing = self.rollouts(rows, self)
            found[0].append(self._update(rows, compute_credit("temper/seq", nothing, tau=tau)))
            found[1].append(self._update(rows, compute_credit("even/seq", rollouts)))
        return torch.stack(found[0]), torch.stack(found[1])

    def _update(self, rows: Tensor, credit: Tensor) -> Tensor:
        """Sum C · ∇ log p over tokens: credit at each, less what the prefix has by p."""
        prefix, token = self.strings.prefix[rows].flatten(), self.strings.token[rows].flatten()
        landed = torch.zeros_like(self.table)
        landed.index_put_((prefix, token), credit.flatten(), accumulate=True)
        return (landed - landed.sum(dim=1, keepdim=True) * self.table.exp()).flatten()


def divergence(target: Tensor, found: Tensor) -> float:
    """Return KL(target ‖ found) of log-probabilities."""
    return float((target.exp() * (target - found)).sum())
