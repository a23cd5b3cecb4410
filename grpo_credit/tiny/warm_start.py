"""Supervised training of the tiny model on demonstrations, so that GRPO has a place to start."""

import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from grpo_credit.tiny.cache import cache_root, cached
from grpo_credit.tiny.demonstrations import demonstration
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.task import MAX_COMPLETION_TOKENS, prompts
from grpo_credit.tiny.tokenizer import build_tokenizer

STEPS = 650
IGNORED = -100  # label of a token without loss

Example = tuple[list[int], list[int]]  # token ids; the same as labels, IGNORED in the prompt


@dataclass(frozen=True)
class Settings:
    """Everything that shapes the trained weights, besides the code and the library versions."""

    seed: int
    steps: int
    batch_size: int = 8
    learning_rate: float = 3e-3
    warmup_steps: int = 20
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batches_per_window: int = 16
    threads: int = 1  # a second thread gains a third, and stalls when the cores are shared


def warm_start(
    seed: int = 0,
    cache_dir: Path | None = None,
    steps: int = STEPS,
    progress: bool = True,
) -> Path:
    """Return a folder with the warm-started model and its tokenizer, trained on the first call.

    The model then writes well-formed completions about one time in three. The result depends on
    `seed` and `steps` only (bit for bit on one machine). Global random states and the number of
    torch threads are left as they were.

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
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    settings = Settings(seed, steps)
    root = (cache_root() if cache_dir is None else Path(cache_dir)).absolute()

    def build(folder: Path) -> dict[str, Any]:
        _say(progress, f"warm-starting the tiny model (about 30 s, once; kept in {root})")
        metrics = _build(folder, settings)
        _say(progress, f"warm start took {metrics['seconds']:.0f} s")
        return metrics

    return cached(root / f"tiny-seed{seed}-{_key(settings)[:16]}", build)


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings) -> float:
    """Train `model` in place on demonstrations of train prompts.

    Returns:
        The mean loss of the last tenth of the steps, in nats per completion token.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    losses = []
    for step, batch in enumerate(_batches(tokenizer, settings)):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, settings)
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    last = losses[-math.ceil(len(losses) / 10) :]
    return sum(last) / len(last)


def _build(folder: Path, settings: Settings) -> dict[str, Any]:
    """Train from scratch, save model and tokenizer, return the metrics."""
    start = time.perf_counter()
    tokenizer = build_tokenizer()
    with _threads(settings.threads), torch.enable_grad():
        model = build_model(tokenizer, settings.seed)
        loss = train(model, tokenizer, settings)
    with _no_progress_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seconds = time.perf_counter() - start
    return {"final_loss": loss, "seconds": round(seconds, 1), "settings": asdict(settings)}


def _key(settings: Settings) -> str:
    """Return a sha256 over the settings, the source text of this package and the versions."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for library in (torch, transformers, tokenizers):
        digest.update(f"{library.__name__}={library.__version__};".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def _loss(model: PreTrainedModel, batch: list[Example]) -> torch.Tensor:
    """Return the next-token loss per completion token, in nats."""
    ids = _padded([ids for ids, _ in batch], fill=0)  # (B, T); later padding is never attended to
    labels = _padded([labels for _, labels in batch], fill=IGNORED)[:, 1:]
    logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    """Return (B, T) int64, padded on the right, on the CPU."""
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device="cpu")


def _learning_rate(step: int, settings: Settings) -> float:
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _batches(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Iterator[list[Example]]:
    """Yield batches of prompts of similar length, to compute on less padding, in random order.

    Sorting by the length of the completion instead would put those that end early into batches of
    few tokens, where each token weighs more: the model would learn to end too often.
    """
    rng = random.Random(f"batches/{settings.seed}")
    examples = _examples(tokenizer, settings)
    window = settings.batch_size * settings.batches_per_window
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
    return [_example(question, answer) for question, answer in pairs]


def _example(question: list[int], answer: list[int]) -> Example:
    answer = answer[:MAX_COMPLETION_TOKENS]
    return question + answer, [IGNORED] * len(question) + answer


@contextmanager
def _threads(number: int) -> Generator[None, None, None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_progress_bar() -> Generator[None, None, None]:
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
