"""Supervised training of a tiny model, and the folder that keeps what was trained."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from grpo_credit.tiny.cache import cache_root, cached

IGNORED = -100  # label of a token without loss

Example = tuple[list[int], list[int]]  # token ids; the same as labels, IGNORED in the prompt


@dataclass(frozen=True)
class Settings:
    """How a model is trained, besides the code and the library versions."""

    seed: int
    steps: int
    batch_size: int = 8
    learning_rate: float = 3e-3
    warmup_steps: int = 20
    decay: float = 1.0  # share of the half cosine that the steps cover; 1 ends at 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    threads: int = 1  # a second thread gains a third, and stalls when the cores are shared

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected at least 1")


def loss_of(model: PreTrainedModel, batch: list[Example]) -> Tensor:
    """Return the next-token loss per labelled token, in nats."""
    ids = padded([ids for ids, _ in batch], fill=0)  # (B, T); later padding is never attended to
    labels = padded([labels for _, labels in batch], fill=IGNORED)[:, 1:]
    logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


@dataclass(frozen=True)
class Lesson:
    """What a tiny model is taught.

    Args:
        name: Beginning of the folder's name.
        about: What the user is told while it is made, such as "warm-starting (about 30 s)".
        settings: Of the training.
        tokenizer: Builds the tokenizer.
        model: Builds the untrained model for the tokenizer.
        batches: Yields a batch for each step, such as examples.
        task: What else shapes the weights; anything that JSON can hold.
        learner: Makes what is trained out of the model, which alone is kept.
        loss: Of the learner on a batch.
    """

    name: str
    about: str
    settings: Settings
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    model: Callable[[PreTrainedTokenizerBase], PreTrainedModel]
    batches: Callable[[PreTrainedTokenizerBase], Iterator[Any]]
    task: Mapping[str, Any] = field(default_factory=dict)
    learner: Callable[[PreTrainedModel], Module] = lambda model: model
    loss: Callable[[Any, Any], Tensor] = loss_of


def learned(lesson: Lesson, cache_dir: Path | None = None, progress: bool = True) -> Path:
    """Return a folder with the trained model and its tokenizer, trained on the first call.

    The weights depend on the lesson only (bit for bit on one machine). Global random states and the
    number of torch threads are left as they were.

    Args:
        lesson: What to train.
        cache_dir: Where to keep it; by default `$GRPO_CREDIT_CACHE` or the user's cache folder.
        progress: Say on stderr when training starts and ends. A damaged folder is always reported.

    Returns:
        A folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.

    Raises:
        OSError: If the folder must be built and the cache cannot be written.
    """
    root = (cache_root() if cache_dir is None else Path(cache_dir)).absolute()

    def build(folder: Path) -> dict[str, Any]:
        _say(progress, f"{lesson.about}; kept in {root}")
        metrics = _build(folder, lesson, progress)
        _say(progress, f"training took {metrics['seconds']:.0f} s")
        if dropped := metrics["dropped_parameters"]:
            _say(progress, f"its further heads ({dropped:,} parameters) are dropped; GRPO has one")
        return metrics

    key = fingerprint(_described(lesson))[:16]
    return cached(root / f"{lesson.name}-seed{lesson.settings.seed}-{key}", build)


def train(
    model: Module,
    batches: Iterable[Any],
    settings: Settings,
    objective: Callable[[Any, Any], Tensor] = loss_of,
) -> float:
    """Train `model` in place by the objective of model and batch, one step per batch.

    Returns:
        The mean loss of the last tenth of the steps, in nats per labelled token.
    """
    optimizer = optimizer_of(model, settings)
    losses = []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        loss = objective(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    last = losses[-math.ceil(len(losses) / 10) :]
    return sum(last) / len(last)


def optimizer_of(model: Module, settings: Settings) -> torch.optim.Optimizer:
    """Return AdamW over all parameters."""
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=settings.betas,
        weight_decay=settings.weight_decay, fused=True,
    )  # fmt: skip


def example(question: list[int], answer: list[int]) -> Example:
    """Label the answer's tokens only."""
    return question + answer, [IGNORED] * len(question) + answer


def padded(rows: list[list[int]], fill: int) -> Tensor:
    """Return (B, T) int64, padded on the right, on the CPU."""
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device="cpu")


def _build(folder: Path, lesson: Lesson, progress: bool) -> dict[str, Any]:
    """Train from scratch, save model and tokenizer, return the metrics."""
    start = time.perf_counter()
    tokenizer, settings = lesson.tokenizer(), lesson.settings
    with _threads(settings.threads), torch.enable_grad():
        model = lesson.model(tokenizer)
        learner = lesson.learner(model)
        steps = tqdm(
            lesson.batches(tokenizer), total=settings.steps, leave=False,
            disable=None if progress else True,  # None: shown on a terminal alone
        )  # fmt: skip
        loss = train(learner, steps, settings, lesson.loss)
    with no_progress_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seconds = time.perf_counter() - start
    dropped = sum(map(torch.numel, learner.parameters())) - model.num_parameters()
    return {
        "final_loss": loss,
        "seconds": round(seconds, 1),
        "dropped_parameters": dropped,
        **_described(lesson),
    }


def _described(lesson: Lesson) -> dict[str, Any]:
    return {"settings": asdict(lesson.settings), "task": dict(lesson.task)}


def fingerprint(described: Mapping[str, Any]) -> str:
    """Return a sha256 over a description, the source text of this package and the versions."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for library in (torch, transformers, tokenizers):
        digest.update(f"{library.__name__}={library.__version__};".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def learning_rate(step: int, settings: Settings) -> float:
    """Return the rate of a step: a warm-up, then half a cosine or as much of it as is set."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    decayed = math.pi * settings.decay * step / settings.steps
    return settings.learning_rate * warmup * 0.5 * (1 + math.cos(decayed))


@contextmanager
def _threads(number: int) -> Generator[None, None, None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_progress_bar() -> Generator[None, None, None]:
    """Hide the bar of writing weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _say(wanted: bool, message: str) -> None:
    if wanted:
        print(f"grpo-credit: {message}", file=sys.stderr, flush=True)
