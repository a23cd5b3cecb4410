"""A tiny model of path-star graphs, taught by one of several objectives."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grpo_credit.tiny.heads import Headed, loss_of
from grpo_credit.tiny.model import build_gpt
from grpo_credit.tiny.objectives import OBJECTIVES, Terms, further_heads
from grpo_credit.tiny.path_star import PathStar, Row, draws
from grpo_credit.tiny.training import Lesson, Settings, learned

SHAPE = {"hidden_size": 64, "layers": 3, "heads": 4}
STEPS = 1800


def objective_model(
    star: PathStar,
    objective: str,
    seed: int = 0,
    cache_dir: Path | None = None,
    steps: int = STEPS,
    progress: bool = True,
) -> Path:
    """Return a folder with a model that was taught paths by an objective, and its tokenizer.

    See `training.learned` for what the folder depends on and what is left as it was.

    Args:
        star: The family of graphs.
        objective: A name of `OBJECTIVES`. Its further heads, if it has any, are dropped.
        seed: Seed of the initial weights and of the graphs.
        cache_dir: Where to keep it; by default `$GRPO_CREDIT_CACHE` or the user's cache folder.
        steps: Optimizer steps.
        progress: Say on stderr when training starts and ends. A damaged folder is always reported.

    Returns:
        A folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: If there is no such objective or `steps` is less than 1.
        OSError: If the folder must be built and the cache cannot be written.
    """
    return learned(lesson(star, objective, settings(seed, steps)), cache_dir, progress)


def settings(seed: int, steps: int = STEPS) -> Settings:
    """Return how the tiny model is trained, by whatever objective.

    The learning rate stays high, by half of a cosine: what a further head has found is learned by
    the model's own late.
    """
    return Settings(seed, steps, batch_size=32, warmup_steps=100, decay=0.5)


def lesson(star: PathStar, objective: str, settings: Settings) -> Lesson:
    """Say what a model is taught: the paths of train graphs, as the objective asks for them.

    Raises:
        ValueError: If there is no such objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}, expected one of {', '.join(OBJECTIVES)}")
    further = further_heads(objective, star.length + 1)
    return Lesson(
        name=f"path-star-{star.degree}-{star.length}-{star.nodes}-{objective}",
        about=f"training the tiny model on path-star graphs by {objective} (a few minutes, once)",
        settings=settings,
        tokenizer=star.build_tokenizer,
        model=lambda tokenizer: build_gpt(tokenizer, settings.seed, **SHAPE),
        batches=lambda tokenizer: islice(
            asked(star, objective, tokenizer, settings), settings.steps
        ),
        task={**asdict(star), **SHAPE, "objective": objective},
        learner=lambda model: Headed(model, further),
        loss=loss_of,
    )


def asked(
    star: PathStar, objective: str, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> Iterator[Terms]:
    """Yield what is asked of batches of new train graphs, without end."""
    rows = draws(star, settings.seed, "train")
    while True:
        batch = list(islice(rows, settings.batch_size))
        yield OBJECTIVES[objective](*encoded(tokenizer, batch), dummy_of(tokenizer))


def encoded(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Return the token ids of prompts (B, P) and of paths with an end token (B, L)."""
    prompts = tokenizer([row["prompt"] for row in rows]).input_ids
    paths = tokenizer([f"{row['path']} {tokenizer.eos_token}" for row in rows]).input_ids
    return torch.tensor(prompts), torch.tensor(paths)


def dummy_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that holds the place of a token; no prompt and no path has it."""
    return tokenizer.unk_token_id
