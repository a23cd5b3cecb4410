"""Short and long documents in a known mixture, and a model that can learn any mixture of them."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo_credit.tiny.cache import cache_root, cached
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.tokenizer import build_word_tokenizer
from grpo_credit.tiny.training import fingerprint, no_progress_bar

START, SHORT, LONG, MORE = "<start>", "short", "long", "more"
SHAPE = {"hidden_size": 16, "layers": 1, "heads": 2}


@dataclass(frozen=True)
class Mixture:
    """Documents of two lengths; the first predicted token says which.

    Args:
        share: of short documents, more than 0 and less than 1.
        short: predicted tokens of a short document, the end token included; 2 or more.
        long: of a long one.
    """

    share: float = 0.5
    short: int = 2
    long: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}, expected a number between 0 and 1")
        if min(self.short, self.long) < 2:
            raise ValueError(
                f"documents have {self.short} and {self.long} tokens, expected 2 or more: one that "
                "says which kind they are, and the end"
            )

    def documents(self, count: int, seed: int) -> list[dict[str, str]]:
        """Draw documents, each "<start>", its kind, and what fills it up, as a column "text"."""
        rng = random.Random(f"mixture/{seed}")
        kinds = ((SHORT, self.short), (LONG, self.long))
        drawn = (kinds[rng.random() >= self.share] for _ in range(count))
        return [{"text": " ".join([START, kind, *[MORE] * (n - 2)])} for kind, n in drawn]


def is_short(document: str) -> bool:
    """Return whether a document is of the short kind."""
    return document.split()[1:2] == [SHORT]


def untrained(seed: int = 0) -> Path:
    """Return a folder with the untrained model and its tokenizer, made on the first call."""

    def build(folder: Path) -> dict[str, Any]:
        model, tokenizer = outline(seed)
        with no_progress_bar():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {}

    key = fingerprint(SHAPE | {"seed": seed})[:16]
    return cached(cache_root() / f"tiny-mixture-seed{seed}-{key}", build)


def outline(seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an untrained model of 3,000 parameters, and its tokenizer."""
    tokenizer = build_word_tokenizer((START, SHORT, LONG, MORE))
    return build_model(tokenizer, seed, **SHAPE), tokenizer


def share_of_short(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return P(short) / (P(short) + P(long)) of a model, read off one forward pass; in its mode."""
    start, *kinds = map(tokenizer.convert_tokens_to_ids, (START, SHORT, LONG))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[start]], device=model.device)).logits[0, -1]
    return float(logits[kinds].double().softmax(-1)[0])
