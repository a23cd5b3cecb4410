"""Completions outside of training: in evaluation mode, in chunks, alike on any number of ranks.

The prompts are cut into chunks of as many rows as a rank generates at once in training. Each chunk
is seeded by its own number and goes to the next rank in turn: it is completed in the same way
whichever rank has it, and no two ranks draw the same numbers. vLLM queues rows by itself and never
reads torch's random state; inside the training process each row has a seed of its own there.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from typing import Any

import numpy as np
from accelerate.utils import gather_object, set_seed
from transformers import GenerationConfig

from grpo_credit.trainer.undisturbed import in_mode, random_states_kept

DRAWS = {  # by `vllm_mode`; None without vLLM
    None: "paired: seeded by chunk of {rows} rows, the same in every run with this chunk size",
    "colocate": "paired: every prompt and sample has a seed of its own",
    "server": "not paired: a vLLM server takes one seed for all rows, so every test draws anew",
}


def rows_at_once(args: Any) -> int:
    """Return how many completions a rank generates in one call, in training and in a test."""
    return args.per_device_train_batch_size * args.steps_per_generation


def draws(args: Any) -> str:
    """Return whether two runs are tested by the same draws, so that their difference is paired.

    Args:
        args: the `GRPOConfig`.
    """
    mode = args.vllm_mode if args.use_vllm else None
    return DRAWS[mode].format(rows=rows_at_once(args))


def complete(trainer: Any, prompts: Sequence[Any], *, greedy: bool, seed: int) -> list[str]:
    """Complete prompts, one turn each; see `CreditGRPOTrainer.complete`."""
    backend = _by_vllm if trainer.use_vllm else _by_generate
    with random_states_kept():
        return backend(trainer, list(prompts), greedy, seed)


def _by_generate(trainer: Any, prompts: list[Any], greedy: bool, seed: int) -> list[str]:
    size = rows_at_once(trainer.args)
    chunks = [prompts[first : first + size] for first in range(0, len(prompts), size)]
    of_chunk = seeds(seed, len(chunks))
    ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    done = []
    with _greedy_config(trainer) if greedy else nullcontext():
        for number in range(rank, -(-len(chunks) // ranks) * ranks, ranks):
            if number < len(chunks):
                set_seed(of_chunk[number])
                done.append((number, _texts(trainer, chunks[number])))
            else:
                _texts(trainer, prompts[:1])  # of a sharded model, all ranks generate or none
    return [text for _, texts in sorted(gather_object(done)) for text in texts]


def _by_vllm(trainer: Any, prompts: list[Any], greedy: bool, seed: int) -> list[str]:
    """Hand equal shares to vLLM: TRL cuts what comes back by the number of a rank's own rows."""
    ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    rows = prompts + prompts[-1:] * (-len(prompts) % ranks)
    share = len(rows) // ranks
    changes = _greedy_vllm(trainer) if greedy else seeded_vllm(trainer, seeds(seed, len(rows)))
    trainer._last_loaded_step = -1  # same step, other weights: a best checkpoint was loaded
    with replaced(trainer.vllm_generation, changes):
        texts = _texts(trainer, rows[rank * share : (rank + 1) * share])
    return gather_object(texts)[: len(prompts)]


def seeded_vllm(trainer: Any, every: Sequence[int]) -> dict[str, Any]:
    """Return what to replace in TRL's vLLM so that each row draws by a seed of its own.

    Args:
        trainer: on a rank.
        every: seeds of the rows of all ranks, equally many of each; a server takes none.
    """
    vllm, accelerator = trainer.vllm_generation, trainer.accelerator
    changes: dict[str, Any] = {"generation_kwargs": _unseeded(vllm)}
    if vllm.mode == "colocate":
        share = len(every) // accelerator.num_processes
        size, rank = vllm.tensor_parallel_size, accelerator.process_index
        engine = rank - rank % size  # its ranks hand it their rows together
        own = every[engine * share : (engine + size) * share]
        changes["llm"] = SeededLLM(vllm.llm, own)
    return changes


def _greedy_vllm(trainer: Any) -> dict[str, Any]:
    own = _unseeded(trainer.vllm_generation)
    return {"temperature": 0.0, "generation_kwargs": {**own, "temperature": 0.0}}


def _unseeded(vllm: Any) -> dict[str, Any]:
    """Return the options of a user without the seed, which would make equal rows equal."""
    return {key: value for key, value in vllm.generation_kwargs.items() if key != "seed"}


def greedily(trainer: Any) -> AbstractContextManager[None]:
    """Let every turn be greedy while the body runs, by either backend."""
    if not trainer.use_vllm:
        return _greedy_config(trainer)
    trainer._last_loaded_step = -1  # see `_by_vllm`
    return replaced(trainer.vllm_generation, _greedy_vllm(trainer))


def by_turns(trainer: Any, seed: int) -> AbstractContextManager[None]:
    """Let vLLM draw each turn of each row by a seed of its own; torch's state rules the other."""
    if not trainer.use_vllm:
        return nullcontext()
    trainer._last_loaded_step = -1
    vllm = trainer.vllm_generation
    changes: dict[str, Any] = {"generation_kwargs": _unseeded(vllm)}
    if vllm.mode == "colocate":
        changes["llm"] = TurnSeededLLM(vllm.llm, seed)
    return replaced(vllm, changes)


def _texts(trainer: Any, prompts: list[Any]) -> list[str]:
    with in_mode(trainer.model, training=False):  # each time: TRL may leave training mode behind
        prompt_ids, images, extra = trainer._tokenize_prompts(prompts)
        ids, _ = trainer._generate_single_turn(prompt_ids, images, extra, 1)
    return trainer.processing_class.batch_decode(ids, skip_special_tokens=True)


def seeds(seed: int, count: int) -> list[int]:
    """Return independent seeds; the first ones do not depend on how many there are."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count)]


@contextmanager
def _greedy_config(trainer: Any) -> Generator[None, None, None]:
    free = dict.fromkeys(("temperature", "top_p", "top_k", "min_p"))
    greedy = {**trainer.generation_kwargs, **free, "do_sample": False}
    config = GenerationConfig(**greedy, disable_compile=True)
    with replaced(trainer, {"generation_config": config, "generation_kwargs": greedy}):
        yield


@contextmanager
def replaced(owner: Any, changes: dict[str, Any]) -> Generator[None, None, None]:
    """Give an object other attributes while the body runs."""
    kept = {name: getattr(owner, name) for name in changes}
    try:
        vars(owner).update(changes)
        yield
    finally:
        vars(owner).update(kept)


class SeededLLM:
    """vLLM's `LLM` with a seed for each prompt of a call; TRL gives all of them one setting."""

    def __init__(self, llm: Any, seeds: Sequence[int]) -> None:
        self._llm, self._seeds = llm, seeds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, prompts: Sequence[Any], sampling_params: Any, **options: Any) -> Any:
        """Generate as vLLM does, row by row under its own seed."""
        each = [copy(sampling_params) for _ in prompts]
        for settings, seed in zip(each, self._seeds, strict=True):
            settings.seed = seed
        return self._llm.generate(prompts, sampling_params=each, **options)


class TurnSeededLLM(SeededLLM):
    """vLLM's `LLM` with new seeds in each call: later turns have fewer rows than the first."""

    def __init__(self, llm: Any, seed: int) -> None:
        super().__init__(llm, [])
        self._sequence = np.random.SeedSequence(seed)

    def generate(self, prompts: Sequence[Any], sampling_params: Any, **options: Any) -> Any:
        """Generate a turn."""
        [turn] = self._sequence.spawn(1)
        self._seeds = [int(word) for word in turn.generate_state(len(prompts))]
        return super().generate(prompts, sampling_params, **options)
