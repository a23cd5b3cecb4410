"""Policies small enough to list everything they may say.

A completion is a string over a few symbols that ends with the end token, or is cut off at the
longest length. A policy's log-probabilities are a table over *events* (prefix, next token): the
completions are then rows of event numbers, and every expectation is a finite sum.
"""

import random
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from grpo_credit.credit.turns import Turn
from grpo_credit.lab.process import END, Task

LIMIT = 50_000  # completions


@dataclass(frozen=True)
class Language:
    """All completions over an alphabet up to a length.

    Args:
        alphabet: distinct characters, each one token.
        length: longest completion in tokens, the end token included.

    Raises:
        ValueError: if there are more than `LIMIT` completions, with their number; or if the
            alphabet has fewer than one character or one of them twice.

    Example:
        >>> Language("ab", 2).texts  # the last four are cut off before the end token
        ('', 'a', 'b', 'aa', 'ab', 'ba', 'bb')
    """

    alphabet: str
    length: int

    def __post_init__(self) -> None:
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet) or self.length < 1:
            raise ValueError(
                f"alphabet is {self.alphabet!r} and length {self.length}; expected different "
                "characters and at least one token."
            )
        count = sum(len(self.alphabet) ** n for n in range(self.length + 1))
        if count > LIMIT:
            raise ValueError(
                f"{len(self.alphabet)} symbols and length {self.length} make {count:,} "
                f"completions, more than the {LIMIT:,} that can be listed; take fewer symbols or "
                "a shorter length."
            )

    @property
    def others(self) -> str:
        """Characters that somebody else writes: none."""
        return ""

    @property
    def turns(self) -> list[list[Turn]] | None:
        """The turns of each completion; None where each is one."""
        return None

    @property
    def luck(self) -> Float[Tensor, " M"]:
        """The probability of what others write in each completion, who write nothing here."""
        return torch.ones(len(self.texts), dtype=torch.float64)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion, the end included."""
        return self.mask.sum(1).tolist()

    @property
    def end(self) -> int:
        """The end token; symbols are 0, 1, ... before it."""
        return len(self.alphabet)

    @cached_property
    def prefixes(self) -> tuple[tuple[int, ...], ...]:
        """Every prefix after which a token is drawn, the empty one first."""
        symbols = range(len(self.alphabet))
        return tuple(p for n in range(self.length) for p in product(symbols, repeat=n))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every completion: those that end, then those that are cut off."""
        symbols = range(len(self.alphabet))
        every = [*self.prefixes, *product(symbols, repeat=self.length)]
        return tuple("".join(self.alphabet[i] for i in ids) for ids in every)

    @cached_property
    def truncated(self) -> Bool[Tensor, " M"]:
        """Whether a completion is cut off."""
        return torch.tensor([len(text) == self.length for text in self.texts])

    @cached_property
    def ids(self) -> Int[Tensor, "M T"]:
        """Token ids, the end token wherever a completion has ended."""
        ids = torch.full((len(self.texts), self.length), self.end)
        for row, text in enumerate(self.texts):
            ids[row, : len(text)] = torch.tensor([self.alphabet.index(c) for c in text])
        return ids

    @cached_property
    def mask(self) -> Bool[Tensor, "M T"]:
        """Counted tokens: the symbols and one end token."""
        lengths = torch.tensor([min(len(text) + 1, self.length) for text in self.texts])
        return torch.arange(self.length) < lengths[:, None]

    @cached_property
    def events(self) -> Int[Tensor, "M T"]:
        """Numbers of the (prefix, token) pairs that a completion consists of; 0 after its end."""
        number = {prefix: i for i, prefix in enumerate(self.prefixes)}
        rows = [
            [number[tuple(ids[:t])] * (self.end + 1) + ids[t] if own[t] else 0
             for t in range(self.length)]
            for ids, own in zip(self.ids.tolist(), self.mask.tolist(), strict=True)
        ]  # fmt: skip
        return torch.tensor(rows)

    @cached_property
    def successors(self) -> Int[Tensor, "P1 V"]:
        """The prefix after each event; P where nothing follows, where the last row stays, too."""
        count, symbols = len(self.prefixes), len(self.alphabet)
        longer = symbols * torch.arange(count + 1)[:, None] + 1 + torch.arange(symbols + 1)
        longer[:, self.end] = count
        return longer.clamp(max=count)


class TabularPolicy(nn.Module):
    """A policy with a row of logits for every prefix.

    Args:
        language: what it may say.
        seed: of the logits, which are drawn from a normal distribution.
        spread: its standard deviation; 0 makes every token equally likely.
        stop: added to the end token's logits; below 0 for longer completions.
    """

    def __init__(
        self, language: Language, seed: int = 0, spread: float = 1.0, stop: float = 0.0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = len(language.prefixes), language.end + 1
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        logits *= spread
        logits[:, language.end] += stop
        self.logits = nn.Parameter(logits)

    def forward(self) -> Float[Tensor, "P V"]:
        """Return the log-probability of every token after every prefix, nats."""
        return self.logits.log_softmax(dim=1)


def policy_of(task: Task) -> TabularPolicy:
    """Make the table of a task with one prompt, which may write anything in every state.

    Raises:
        ValueError: if some token is never written in a state, as its logit would be infinite.
    """
    language = Language(task.alphabet, task.length)
    start, rows = task.start(random.Random(0)), []
    for prefix in language.prefixes:
        moves = task.moves(reduce(lambda at, i: task.moves(at)[task.alphabet[i]][1], prefix, start))
        if len(moves) <= language.end:
            raise ValueError(
                f"{task.name} may not write everything after {prefix}; expected it to."
            )
        rows.append([moves[token][0] for token in (*task.alphabet, END)])
    policy = TabularPolicy(language, spread=0.0)
    policy.logits.data = torch.tensor(rows, dtype=torch.float64).log()
    return policy


def probabilities(language: Language, logps: Float[Tensor, "P V"]) -> Float[Tensor, " M"]:
    """Return the probability of every completion; they sum to 1."""
    return log_probabilities(language, logps).exp() * language.luck


def log_probabilities(
    language: Language, logps: Float[Tensor, "... P V"]
) -> Float[Tensor, "... M"]:
    """Return the log-probability of every completion by each policy, nats; without others' luck."""
    return by_token(language, logps).sum(dim=-1)


def by_token(language: Language, logps: Float[Tensor, "... P V"]) -> Float[Tensor, "... M T"]:
    """Return the log-probability of every completion's tokens, nats; 0 after its end."""
    return torch.where(language.mask, logps.flatten(-2)[..., language.events], 0.0)


def going_on(logps: Float[Tensor, "... P V"]) -> Float[Tensor, "... P1 V"]:
    """Add a row for completions that have ended: they go on with the end token, at no cost."""
    ended = torch.full_like(logps[..., :1, :], -torch.inf)
    ended[..., -1] = 0.0
    return torch.cat([logps, ended], dim=-2)


def exact_gradient(
    language: Language, policy: nn.Module, rewards: Float[Tensor, " M"]
) -> Float[Tensor, " D"]:
    """Return ∇E[R] by enumeration.

        ∇E[R] = Σ_o π(o) R(o) Σ_t ∇ log π(o_t | o_<t)

    The rewards are one per completion of the language; the gradient is flat over all parameters.
    """
    weights = probabilities(language, policy().detach()) * rewards
    return event_weights(language, weights[:, None] * language.mask) @ jacobian(policy)


def event_weights(language: Language, credit: Float[Tensor, "M T"]) -> Float[Tensor, " E"]:
    """Sum the credit of every completion's tokens by event."""
    events = len(language.prefixes) * (language.end + 1)
    counted = torch.where(language.mask, credit, 0.0)
    return counted.new_zeros(events).index_add(0, language.events.flatten(), counted.flatten())


def jacobian(policy: nn.Module) -> Float[Tensor, "E D"]:
    """Return ∇ log π(e) for every event e."""
    logps = policy().flatten()
    basis = torch.eye(len(logps), dtype=logps.dtype)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    grads = torch.autograd.grad(logps, parameters, grad_outputs=basis, is_grads_batched=True)
    return torch.cat([g.flatten(1) for g in grads], dim=1)
