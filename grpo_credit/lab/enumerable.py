"""Policies small enough to list everything they may say.

A completion is a string over a few symbols that ends with the end token, or is cut off at the
longest length. A policy's log-probabilities are a table over *events* (prefix, next token): the
completions are then rows of event numbers, and every expectation is a finite sum.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from grpo_credit.tiny.model import build_model

LIMIT = 50_000  # completions
END = "<end>"
START = "<start>"


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
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer with one token a symbol, an end token, and one to start from."""
        return character_tokenizer(self.alphabet)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for each character, then one to end and one to start with."""
    vocabulary = {c: i for i, c in enumerate([*alphabet, END, START])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, bos_token=START
    )


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


class TransformerPolicy(nn.Module):
    """A real Llama-shaped transformer over the same symbols.

    Args:
        language: what it may say.
        seed: of the initial weights.
        hidden_size: width.
        layers: number of blocks.
    """

    def __init__(
        self, language: Language, seed: int = 0, hidden_size: int = 8, layers: int = 1
    ) -> None:
        super().__init__()
        self.language = language
        model = build_model(language.tokenizer, seed, hidden_size, layers, heads=2)
        self.model = model.double().requires_grad_(True)

    def forward(self) -> Float[Tensor, "P V"]:
        """Return the log-probability of every token after every prefix, nats."""
        language, start = self.language, self.language.end + 1
        deepest = [p for p in language.prefixes if len(p) == language.length - 1]
        ids = torch.tensor([[start, *prefix] for prefix in deepest])
        logits = self.model(ids).logits[..., :start]  # the start token is never drawn
        by_prefix = {
            prefix[:n]: logits[row, n]
            for row, prefix in reversed(list(enumerate(deepest)))
            for n in range(language.length)
        }
        return torch.stack([by_prefix[p] for p in language.prefixes]).log_softmax(dim=1)


def probabilities(language: Language, logps: Float[Tensor, "P V"]) -> Float[Tensor, " M"]:
    """Return the probability of every completion; they sum to 1."""
    by_token = torch.where(language.mask, logps.flatten()[language.events], 0.0)
    return by_token.sum(dim=1).exp()


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
