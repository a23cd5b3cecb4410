"""Next-token training on path-star graphs, and how right each token of the answer is.

A small model for a small task; the paper trains 6 layers of width 384, and larger ones, on graphs
with more labels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.path_star import PathStar, draws
from grpo_credit.tiny.training import Example, Lesson, Settings, example, learned

STEPS = 400
SHAPE = {"hidden_size": 64, "layers": 2, "heads": 4}
# The order in which an answer names the nodes of a path.
DIRECTIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "forward": lambda path: path,
    "reversed": lambda path: path[::-1],
}
Rows = Sequence[Mapping[str, str]]


def next_token_model(
    star: PathStar,
    seed: int = 0,
    cache_dir: Path | None = None,
    steps: int = STEPS,
    progress: bool = True,
) -> Path:
    """Return a folder with a model trained to answer path-star problems, and its tokenizer.

    It walks every arm to its end and guesses which one to take. See `training.learned` for what the
    folder depends on and what is left as it was.

    Args:
        star: The family of graphs.
        seed: Seed of the initial weights and of the graphs.
        cache_dir: Where to keep it; by default `$GRPO_CREDIT_CACHE` or the user's cache folder.
        steps: Optimizer steps.
        progress: Say on stderr when training starts and ends. A damaged folder is always reported.

    Returns:
        A folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: If `steps` is less than 1.
        OSError: If the folder must be built and the cache cannot be written.
    """
    return learned(lesson(star, settings(seed, steps)), cache_dir, progress)


def settings(seed: int, steps: int) -> Settings:
    """Return how the tiny model is trained on paths."""
    return Settings(seed, steps, batch_size=64, warmup_steps=50)


def lesson(star: PathStar, settings: Settings, direction: str = "forward") -> Lesson:
    """Say what a model is taught: the paths of train graphs, forward or reversed."""
    return Lesson(
        name=f"path-star-{star.degree}-{star.length}-{star.nodes}",
        about="training the tiny model on path-star graphs (under a minute, once)",
        settings=settings,
        tokenizer=star.build_tokenizer,
        model=lambda tokenizer: build_model(tokenizer, settings.seed, **SHAPE),
        batches=lambda tokenizer: batches(star, tokenizer, settings, direction),
        task={**asdict(star), **SHAPE, "direction": direction},
    )


def batches(
    star: PathStar, tokenizer: PreTrainedTokenizerBase, settings: Settings, direction: str
) -> Iterator[list[Example]]:
    """Yield a batch of new train graphs for each step; the loss is on the answer only."""
    rows, end = draws(star, settings.seed, "train"), _end(tokenizer)
    for _ in range(settings.steps):
        batch = list(islice(rows, settings.batch_size))
        pairs = zip(*_encoded(tokenizer, batch, direction), strict=True)
        yield [example(question, [*answer, end]) for question, answer in pairs]


@torch.no_grad()
def teacher_forced_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    direction: str = "forward",
) -> list[float]:
    """Return for each token of the path how often it is the likeliest after the right ones.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Problems of one family, with "prompt" and "path".
        direction: "forward" or "reversed".
    """
    questions, answers = map(torch.tensor, _encoded(tokenizer, rows, direction))
    ids = torch.cat([questions, answers], dim=1).to(model.device)
    likeliest = model(input_ids=ids).logits[:, questions.shape[1] - 1 : -1].argmax(-1)
    return (likeliest.cpu() == answers).float().mean(0).tolist()


@torch.no_grad()
def free_running_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    direction: str = "forward",
) -> list[float]:
    """Return for each token of the path how often greedy generation gets it right.

    The arguments are those of `teacher_forced_accuracy`.
    """
    questions, answers = map(torch.tensor, _encoded(tokenizer, rows, direction))
    generator: Any = model  # which models can generate is not in their types
    written = generator.generate(
        questions.to(model.device),
        attention_mask=torch.ones_like(questions),
        max_new_tokens=answers.shape[1],
        min_new_tokens=answers.shape[1],
        do_sample=False,
    )
    return (written[:, questions.shape[1] :].cpu() == answers).float().mean(0).tolist()


def _encoded(
    tokenizer: PreTrainedTokenizerBase, rows: Rows, direction: str
) -> tuple[list[list[int]], list[list[int]]]:
    answers = [" ".join(DIRECTIONS[direction](row["path"].split())) for row in rows]
    return tokenizer([row["prompt"] for row in rows]).input_ids, tokenizer(answers).input_ids


def _end(tokenizer: PreTrainedTokenizerBase) -> Any:
    return tokenizer.eos_token_id
