"""What the held-out tests of a run come to, before there is a trainer."""

import math
from collections.abc import Iterator
from typing import Any

from transformers import TrainerState

from grpo_credit.preflight.batches import Batches
from grpo_credit.trainer.completing import draws, rows_at_once


def held_out_rows(args: Any, script: Any, task: Any, batches: Batches) -> Iterator[tuple[str, str]]:
    """Say what the held-out tests generate, the trainer's evaluations included.

    Args:
        args: a `GRPOConfig`.
        script: a recipe's options.
        task: what is tested.
        batches: of the configuration.
    """
    prompts, samples = len(task.test), script.test_samples
    completions, rows = prompts * (1 + samples), rows_at_once(args)
    in_turn = calls(prompts, samples, rows, args.world_size)
    times = len(measured_at(args, script.test_every, batches))
    yield (
        "held-out test",
        f"{completions:,} completions of {prompts:,} prompts x (greedy + {samples} samples), in "
        f"{in_turn:,} calls of at most {rows:,} rows per device",
    )
    tokens = times * completions * args.max_completion_length
    yield "", f"{times:,} times: at most {tokens:,} tokens in all"
    yield "", f"draws: {draws(args)}"


def calls(prompts: int, samples: int, rows: int, ranks: int) -> int:
    """Return a test's calls of the generator in turn: greedy plus sampled ones.

    ⌈⌈completions / rows⌉ / ranks⌉ of either kind, `rows` completions of a rank in a call.
    """
    kinds = (prompts, prompts * samples)
    return sum(math.ceil(math.ceil(n / rows) / ranks) for n in kinds)


def measured_at(args: Any, every: int, batches: Batches) -> set[int]:
    """List the optimizer steps that are tested: the ends, every N, and at each evaluation."""
    state = TrainerState()
    state.compute_steps(args, batches.steps)
    evaluated = {"steps": state.eval_steps, "epoch": batches.steps_per_epoch}
    periods = [every, evaluated.get(args.eval_strategy)]
    between = [range(n, batches.steps + 1, n) for n in periods if n]
    return {0, batches.steps}.union(*between)
