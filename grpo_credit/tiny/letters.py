"""Short strings of letters: few enough to list, so that what a model says of them is exact."""

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, TrainerCallback

from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.tokenizer import build_word_tokenizer
from grpo_credit.tiny.training import Example, Lesson, Settings, example, learned

PROMPT, LETTERS = ":", "abc"
LONGEST = 5  # tokens, the end included
SHAPE = {"hidden_size": 32, "layers": 2, "heads": 2}
STEPS = 300
SPREAD = 1.5  # standard deviation of the logits that letters are drawn by


def letter_model(seed: int = 0, cache_dir: Path | None = None, progress: bool = True) -> Path:
    """Return a folder with a model of random strings of letters, and its tokenizer.

    Which letter follows, or whether the string ends, hangs on all letters before it. See
    `training.learned` for what the folder depends on.
    """
    settings = Settings(seed, STEPS, batch_size=128)
    return learned(
        Lesson(
            name="letters",
            about="training the tiny model on strings of letters (a few seconds, once)",
            settings=settings,
            tokenizer=build_letter_tokenizer,
            model=lambda tokenizer: build_model(tokenizer, seed, **SHAPE),
            batches=lambda tokenizer: _batches(tokenizer, settings),
            task={**SHAPE, "spread": SPREAD, "longest": LONGEST},
        ),
        cache_dir,
        progress,
    )


def outline() -> tuple[Any, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of the model, without training it."""
    tokenizer = build_letter_tokenizer()
    return build_model(tokenizer, **SHAPE).config, tokenizer


def build_letter_tokenizer() -> PreTrainedTokenizerBase:
    """Build a tokenizer with a token for the prompt and one for each letter."""
    return build_word_tokenizer([PROMPT, *LETTERS])


def _batches(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Iterator[list[Example]]:
    rng, start = random.Random(f"letters/{settings.seed}"), tokenizer.encode(PROMPT)
    ids = [*tokenizer.encode(" ".join(LETTERS)), tokenizer.eos_token_id]
    for _ in range(settings.steps):
        strings = [_string(rng, settings.seed, ids) for _ in range(settings.batch_size)]
        yield [example(start, string) for string in strings]


def _string(rng: random.Random, seed: int, ids: list[int]) -> list[int]:
    """Draw a string; the last id ends it."""
    string: list[int] = []
    while len(string) < LONGEST and ids[-1] not in string:
        own = random.Random(f"{seed}/{string}")
        chances = [math.exp(own.gauss(0, SPREAD)) for _ in ids]
        string += rng.choices(ids, chances)
    return string


@torch.no_grad()
def string_logps(
    model: Any, prompt: list[int], longest: int, tau: float = 1.0
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """List every string that a model can write after a prompt, with its log-probability.

    A string is a row of tokens that are not the end, then the end; at the longest, without it.

    Args:
        model: with few tokens: V^longest strings are listed.
        prompt: token ids.
        longest: tokens of a string.
        tau: temperature of each next token.

    Returns:
        Log-probabilities in nats, float64, and lengths in tokens, the end included.
    """
    end, vocabulary = model.config.eos_token_id, model.config.vocab_size
    symbols = torch.tensor([v for v in range(vocabulary) if v != end])
    deepest = torch.cartesian_prod(*[symbols] * (longest - 1)).view(-1, longest - 1)
    start = torch.tensor(prompt).expand(len(deepest), -1)
    device = next(model.parameters()).device
    logits = model(input_ids=torch.cat([start, deepest], dim=1).to(device)).logits
    table = (logits[:, len(prompt) - 1 :].double().cpu() / tau).log_softmax(-1)
    so_far, listed, lengths = torch.zeros(1, dtype=torch.float64), [], []
    for length in range(1, longest + 1):
        apart = len(symbols) ** (longest - length)  # rows that share the letters before
        longer = so_far[:, None] + table[::apart, length - 1]
        listed.append(longer[:, end])
        so_far = longer[:, symbols].flatten()
        lengths.append(torch.full((len(listed[-1]),), length))
    lengths.append(torch.full((len(so_far),), longest))
    return torch.cat([*listed, so_far]), torch.cat(lengths)


class Distance(TrainerCallback):
    """Says before and after training, over all strings, how far a model is from p^(1/τ) / Z.

    Args:
        folder: of p and its tokenizer, see `letter_model`.
        tau: the temperature τ of strings.
    """

    def __init__(self, folder: str, tau: float) -> None:
        self._folder, self._tau = folder, tau

    def on_train_begin(self, *given: Any, model: Any = None, **_: Any) -> None:
        """Print the distance of the model at hand, and of a next-token temperature."""
        if given[1].is_world_process_zero:
            print(f"before: {self._said(model)}", file=sys.stderr, flush=True)

    def on_train_end(self, *given: Any, model: Any = None, **_: Any) -> None:
        """Print the distance once more."""
        if given[1].is_world_process_zero:
            print(f"after:  {self._said(model)}", file=sys.stderr, flush=True)

    def _said(self, model: Any) -> str:
        at = self.distances(model)
        return (
            f"KL(target || policy) {at['target || policy']:.3f}, KL(policy || target) "
            f"{at['policy || target']:.3f}, {at['tokens']:.2f} tokens (target "
            f"{at['tokens of the target']:.2f}; next-token temperature: KL "
            f"{at['target || next-token temperature']:.3f})"
        )

    def distances(self, model: Any) -> dict[str, float]:
        """Compute divergences in nats and mean lengths in tokens, exactly."""
        reference = AutoModelForCausalLM.from_pretrained(self._folder)
        prompt = build_letter_tokenizer().encode(PROMPT)
        p, lengths = string_logps(reference, prompt, LONGEST)
        myopic, _ = string_logps(reference, prompt, LONGEST, self._tau)
        policy, _ = string_logps(model, prompt, LONGEST)
        target = (p / self._tau).log_softmax(0)
        return {
            "target || policy": divergence(target, policy),
            "policy || target": divergence(policy, target),
            "target || next-token temperature": divergence(target, myopic),
            "tokens": float(policy.exp() @ lengths.double()),
            "tokens of the target": float(target.exp() @ lengths.double()),
        }


def divergence(p: Float[Tensor, " n"], q: Float[Tensor, " n"]) -> float:
    """Return KL(p || q) of log-probabilities, nats."""
    return float((p.exp() * (p - q)).sum())
