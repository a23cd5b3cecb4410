"""Teaching the tiny model to answer questions of a few lines, from pairs of question and answer."""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.tokenizer import build_tokenizer
from grpo_credit.tiny.training import Example, Lesson, Settings, example, learned

Pairs = Callable[[random.Random], tuple[str, str]]


def answering(pairs: Pairs, task: Mapping[str, Any], settings: Settings, about: str) -> Path:
    """Return a folder with a tiny model that was shown answers, trained on the first call.

    Args:
        pairs: Draws a question and its answer.
        task: What decides the pairs; anything that JSON can hold.
        settings: Of the training.
        about: What the user is told while it is made.
    """
    return learned(
        Lesson(
            name="tiny-answers",
            about=about,
            settings=settings,
            tokenizer=build_tokenizer,
            model=lambda tokenizer: build_model(tokenizer, settings.seed),
            batches=lambda tokenizer: _batches(tokenizer, pairs, settings),
            task=task,
        )
    )


def _batches(
    tokenizer: PreTrainedTokenizerBase, pairs: Pairs, settings: Settings
) -> Iterator[list[Example]]:
    rng = random.Random(f"answers/{settings.seed}")
    for _ in range(settings.steps):
        drawn = [pairs(rng) for _ in range(settings.batch_size)]
        yield [_example(tokenizer, *pair) for pair in drawn]


def _example(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> Example:
    ends = f"{answer}{tokenizer.eos_token}"
    return example(tokenizer(question).input_ids, tokenizer(ends).input_ids)
