"""Next-token training on path-star graphs.

A small model for a small task; the paper trains 6 layers of width 384, and larger ones, on graphs
with more labels.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice, repeat
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.path_star import STYLES, PathStar, draws
from grpo_credit.tiny.training import Example, Lesson, Settings, example, learned

STEPS = 700
SHAPE = {"hidden_size": 64, "layers": 2, "heads": 4}
PREPARED = 0.65  # of the steps, where some answers are to be planned
Course = Sequence[tuple[float, Mapping[str, float]]]  # share of the steps, shares of the styles


def next_token_model(
    star: PathStar,
    seed: int = 0,
    cache_dir: Path | None = None,
    steps: int = STEPS,
    progress: bool = True,
    plan_share: float = 0.0,
) -> Path:
    """Return a folder with a model trained to answer path-star problems, and its tokenizer.

    It walks every arm to its end and guesses which one to take, unless it plans. See
    `training.learned` for what the folder depends on and what is left as it was.

    Args:
        star: The family of graphs.
        seed: Seed of the initial weights and of the graphs.
        cache_dir: Where to keep it; by default `$GRPO_CREDIT_CACHE` or the user's cache folder.
        steps: Optimizer steps.
        progress: Say on stderr when training starts and ends. A damaged folder is always reported.
        plan_share: Share of the answers it learns from that are planned; 0 as in the paper.

    Returns:
        A folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: If `steps` is less than 1 or `plan_share` is no share.
        OSError: If the folder must be built and the cache cannot be written.
    """
    if not 0 <= plan_share <= 1:
        raise ValueError(f"plan_share is {plan_share}, expected a number from 0 to 1")
    return learned(lesson(star, settings(seed, steps), course(plan_share)), cache_dir, progress)


def course(plan_share: float) -> Course:
    """Say in which order styles are taught.

    Planned answers come alone at first: to find a predecessor is learned in 300 to 400 steps, of a
    sudden, and lasts. In a mixture with direct answers it was not learned in 600.
    """
    if plan_share == 0:
        return [(1.0, {"direct": 1.0})]
    mixture = {"direct": 1 - plan_share, "planned": plan_share}
    return [(PREPARED, {"planned": 1.0}), (1 - PREPARED, mixture)]


def settings(seed: int, steps: int) -> Settings:
    """Return how the tiny model is trained on paths."""
    return Settings(seed, steps, batch_size=128, warmup_steps=50)


def lesson(star: PathStar, settings: Settings, course: Course) -> Lesson:
    """Say what a model is taught: the paths of train graphs, each in a style drawn by its share."""
    return Lesson(
        name=f"path-star-{star.degree}-{star.length}-{star.nodes}",
        about="training the tiny model on path-star graphs (about a minute, once)",
        settings=settings,
        tokenizer=star.build_tokenizer,
        model=lambda tokenizer: build_model(tokenizer, settings.seed, **SHAPE),
        batches=lambda tokenizer: batches(star, tokenizer, settings, course),
        task={
            **asdict(star),
            **SHAPE,
            "course": [[share, dict(styles)] for share, styles in course],
        },
    )


def batches(
    star: PathStar,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    course: Course,
) -> Iterator[list[Example]]:
    """Yield a batch of new train graphs for each step; the loss is on the answer only."""
    rng, end = random.Random(f"styles/{settings.seed}"), tokenizer.eos_token
    rows = draws(star, settings.seed, "train")
    for styles in _styles_by_step(course, settings.steps):
        batch = list(islice(rows, settings.batch_size))
        drawn = rng.choices(list(styles), weights=list(styles.values()), k=len(batch))
        answers = [
            f"{STYLES[style](row['path'].split())} {end}"
            for style, row in zip(drawn, batch, strict=True)
        ]
        questions = tokenizer([row["prompt"] for row in batch]).input_ids
        pairs = zip(questions, tokenizer(answers).input_ids, strict=True)
        yield [example(question, answer) for question, answer in pairs]


def _styles_by_step(course: Course, steps: int) -> Iterator[Mapping[str, float]]:
    done = 0.0
    for share, styles in course:
        yield from repeat(styles, round((done + share) * steps) - round(done * steps))
        done += share
