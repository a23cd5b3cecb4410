"""Repetition of a small language model at a temperature of tokens, and of whole strings.

The text is the language reference that comes with Python; the model is trained on it once and kept.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from grpo_credit.lab.particles import draw, steer
from grpo_credit.lab.sampling import Progress
from grpo_credit.rewards import repetition_rate
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.tokenizer import build_word_tokenizer
from grpo_credit.tiny.training import Example, Lesson, Settings, learned

VOCABULARY = 800  # words; others are one token, which is never written
HELD_OUT = 0.1  # of the text, at its end
CONTEXT, WRITTEN = 8, 32  # words
SHAPE = {"hidden_size": 96, "layers": 2, "heads": 4}
GREEDY = 0.01  # a temperature at which only ties are drawn
TOKEN = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, GREEDY)
SEQUENCE = (0.9, 0.8, 0.6)


class Prose(NamedTuple):
    """A text in words, for training and for contexts."""

    trained: Sequence[str]
    held_out: Sequence[str]


class Written(NamedTuple):
    """What came out at a temperature.

    Args:
        level: of the temperature, `token` or `sequence`.
        tau: the temperature.
        logp: log p of each continuation, nats.
        repeated: share of its 3-grams that occurred before in it.
        apart: the largest difference between log p in one pass and token by token, nats.
    """

    level: str
    tau: float
    logp: Float[Tensor, " R"]
    repeated: Float[Tensor, " R"]
    apart: float


@dataclass(frozen=True)
class Asked:
    """How much is written.

    Args:
        texts: continuations at each temperature; at least 2.
        particles: strings at work for each at a temperature of whole strings, at least 2.
        steps: of training.
        seed: of the model and of all draws.

    Raises:
        ValueError: if a number is too small.
    """

    texts: int
    particles: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        if self.texts < 2 or self.particles < 2:
            raise ValueError(
                f"there are {self.texts} texts, of {self.particles} particles each; expected at "
                "least 2 of both."
            )


def prose() -> Prose:
    """Return the words of Python's language reference, in lower case."""
    words = re.findall(r"[a-z]+", " ".join(topics[name] for name in sorted(topics)).lower())
    cut = round(len(words) * (1 - HELD_OUT))
    return Prose(words[:cut], words[cut:])


def lesson(text: Prose, asked: Asked) -> Lesson:
    """Say what the model learns: the next of 40 words, anywhere in the text."""
    known = [word for word, _ in Counter(text.trained).most_common(VOCABULARY)]
    settings = Settings(asked.seed, asked.steps, batch_size=32)
    return Lesson(
        name="tiny-prose",
        about="training the tiny model on Python's language reference (about 40 s, once)",
        settings=settings,
        tokenizer=lambda: build_word_tokenizer(known),
        model=lambda tokenizer: build_model(tokenizer, asked.seed, **SHAPE),
        batches=lambda tokenizer: _batches(tokenizer, text.trained, settings),
        task={
            **SHAPE,
            "words": len(text.trained),
            "vocabulary": known,
            "window": CONTEXT + WRITTEN,
        },
    )


def _batches(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], settings: Settings
) -> Iterator[list[Example]]:
    ids = _ids(tokenizer, words)
    rng, size = random.Random(f"prose/{settings.seed}"), CONTEXT + WRITTEN
    for _ in range(settings.steps):
        starts = [rng.randrange(len(ids) - size) for _ in range(settings.batch_size)]
        windows = [ids[start : start + size] for start in starts]
        yield [(window, window) for window in windows]


def _ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    return tokenizer(" ".join(words)).input_ids


class PassWalk:
    """Continuations that a causal language model writes, a pass for each token.

    Args:
        model: what writes.
        contexts: what stands before.
        unwritten: tokens that are never written; the others share their probability.
        tau: the temperature, above 0.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        contexts: Int[Tensor, "N C"],
        unwritten: Sequence[int],
        tau: float,
    ) -> None:
        self.model, self.unwritten, self.tau = model, list(unwritten), tau
        self.total = torch.zeros(len(contexts))
        self.cache: Any = None
        self._read(contexts)

    def _read(self, ids: Int[Tensor, "N C"]) -> None:
        read = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True)
        self.cache, self.logps = read.past_key_values, among(read.logits[:, -1], self.unwritten)

    def propose(self) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
        """Return the weight and the probability of next tokens at the temperature."""
        scaled = self.logps / self.tau
        return scaled.logsumexp(dim=1), scaled.softmax(dim=1)

    def write(self, tokens: Int[Tensor, " N"]) -> None:
        """Read the tokens, and count their log-probability in `total`."""
        self.total = self.total + self.logps.gather(1, tokens[:, None])[:, 0]
        self._read(tokens[:, None])

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Go on from these strings."""
        self.total, self.logps = self.total[rows], self.logps[rows]
        self.cache.reorder_cache(rows)


def among(logits: Float[Tensor, "... V"], unwritten: Sequence[int]) -> Float[Tensor, "... V"]:
    """Return the log-probability of the tokens that may be written."""
    barred = logits.clone()
    barred[..., list(unwritten)] = -torch.inf
    return barred.log_softmax(dim=-1)


@torch.no_grad()
def measure(asked: Asked, progress: Progress = iter) -> tuple[list[Written], Float[Tensor, " R"]]:
    """Write at every temperature; return that, and the repetition of the text itself."""
    text = prose()
    course = lesson(text, asked)
    model = AutoModelForCausalLM.from_pretrained(learned(course), dtype="float32").eval()
    tokenizer, size = course.tokenizer(), CONTEXT + WRITTEN
    rng = random.Random(f"contexts/{asked.seed}")
    starts = [rng.randrange(len(text.held_out) - size) for _ in range(asked.texts)]
    real = [" ".join(text.held_out[start + CONTEXT : start + size]) for start in starts]
    before = [text.held_out[start : start + CONTEXT] for start in starts]
    contexts = torch.tensor([_ids(tokenizer, words) for words in before])
    wanted = [("token", tau, 1) for tau in TOKEN]
    wanted += [("sequence", tau, asked.particles) for tau in SEQUENCE]
    found = [
        _written(model, tokenizer, contexts, level, tau, particles, asked.seed)
        for level, tau, particles in progress(wanted)
    ]
    return found, _repeated(real)


def _written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Int[Tensor, "R C"],
    level: str,
    tau: float,
    particles: int,
    seed: int,
) -> Written:
    generator = torch.Generator().manual_seed(seed)
    unwritten = tokenizer.all_special_ids
    before = contexts.repeat_interleave(particles, dim=0)
    walk = PassWalk(model, before, unwritten, tau)
    ids, weight = steer(walk, particles, WRITTEN, generator)
    kept = draw(weight.softmax(dim=1), 1, generator)[:, 0] + particles * torch.arange(len(weight))
    whole = torch.cat([contexts, ids[kept]], dim=1)
    logps = among(model(input_ids=whole).logits[:, CONTEXT - 1 : -1], unwritten)
    logp = logps.gather(2, ids[kept][..., None]).sum(dim=(1, 2))
    apart = float((logp - walk.total[kept]).abs().max())
    return Written(level, tau, logp, _repeated(tokenizer.batch_decode(ids[kept])), apart)


def _repeated(texts: Sequence[str]) -> Float[Tensor, " R"]:
    return torch.tensor([repetition_rate(text, n=3) for text in texts])


def token_level_at(found: Sequence[Written], logp: float) -> float | None:
    """Return the repetition at a temperature of tokens where texts are as likely, in between."""
    line = sorted(
        (float(w.logp.mean()), float(w.repeated.mean())) for w in found if w.level == "token"
    )
    for (low, first), (high, second) in pairwise(line):
        if low <= logp <= high:
            return first + (second - first) * (logp - low) / (high - low)
    return None
