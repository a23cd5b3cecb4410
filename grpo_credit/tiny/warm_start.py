"""Supervised training of the tiny model on demonstrations, so that GRPO has a place to start."""

import random
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from grpo_credit.tiny.demonstrations import demonstration
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.task import MAX_COMPLETION_TOKENS, prompts
from grpo_credit.tiny.tokenizer import build_tokenizer
from grpo_credit.tiny.training import IGNORED, Example, Lesson, Settings, example, learned

STEPS = 650
BATCHES_PER_WINDOW = 16


def warm_start(
    seed: int = 0,
    cache_dir: Path | None = None,
    steps: int = STEPS,
    progress: bool = True,
) -> Path:
    """Return a folder with the warm-started model and its tokenizer, trained on the first call.

    The model then writes well-formed completions about one time in three. See `training.learned`
    for what the folder depends on and what is left as it was.

    Args:
        seed: Seed of the initial weights and of the demonstrations.
        cache_dir: Where to keep it; by default `$GRPO_CREDIT_CACHE` or the user's cache folder.
        steps: Optimizer steps.
        progress: Say on stderr when training starts and ends. A damaged folder is always reported.

    Returns:
        A folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: If `steps` is less than 1.
        OSError: If the folder must be built and the cache cannot be written.
    """
    return learned(lesson(Settings(seed, steps)), cache_dir, progress)


def lesson(settings: Settings) -> Lesson:
    """Say what the tiny model is taught: demonstrations of train prompts."""
    return Lesson(
        name="tiny",
        about="warm-starting the tiny model (about 30 s, once)",
        settings=settings,
        tokenizer=build_tokenizer,
        model=lambda tokenizer: build_model(tokenizer, settings.seed),
        batches=lambda tokenizer: batches(tokenizer, settings),
    )


def batches(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Iterator[list[Example]]:
    """Yield batches of prompts of similar length, to compute on less padding, in random order.

    Sorting by the length of the completion instead would put those that end early into batches of
    few tokens, where each token weighs more: the model would learn to end too often.
    """
    rng = random.Random(f"batches/{settings.seed}")
    examples = _examples(tokenizer, settings)
    window = settings.batch_size * BATCHES_PER_WINDOW
    for start in range(0, len(examples), window):
        ordered = sorted(examples[start : start + window], key=_prompt_length)
        starts = list(range(0, len(ordered), settings.batch_size))
        rng.shuffle(starts)
        yield from (ordered[i : i + settings.batch_size] for i in starts)


def _prompt_length(example: Example) -> int:
    return example[1].count(IGNORED)


def _examples(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> list[Example]:
    rng = random.Random(f"demonstrations/{settings.seed}")
    drawn = prompts(settings.steps * settings.batch_size, settings.seed, "train")
    questions = [row["prompt"] for row in drawn]
    answers = [demonstration(question, rng) for question in questions]
    end = tokenizer.eos_token
    texts = [text + end if ends else text for text, ends in answers]
    pairs = zip(tokenizer(questions).input_ids, tokenizer(texts).input_ids, strict=True)
    return [example(question, answer[:MAX_COMPLETION_TOKENS]) for question, answer in pairs]
