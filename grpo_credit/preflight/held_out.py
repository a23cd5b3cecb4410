"""What the held-out tests of a run come to, before there is a trainer."""

import math
from dataclasses import dataclass
from typing import Any

from transformers import TrainerState

from grpo_credit.preflight.batches import Batches
from grpo_credit.trainer.completing import draws, rows_at_once


@dataclass(frozen=True)
class HeldOutTests:
    """How much the held-out tests of a run generate.

    Each completes `prompts` once greedily and `samples` times besides, `rows` completions of a rank
    in a call of the generator; there are `times` of them, the trainer's evaluations included.
    `draws` says whether the samples of two runs are paired.
    """

    prompts: int
    samples: int
    rows: int
    ranks: int
    times: int
    longest: int
    draws: str

    @classmethod
    def of(cls, args: Any, script: Any, task: Any, batches: Batches) -> "HeldOutTests":
        """Read them from a recipe's options."""
        return cls(
            prompts=len(task.test),
            samples=script.test_samples,
            rows=rows_at_once(args),
            ranks=args.world_size,
            times=len(measured_at(args, script.test_every, batches)),
            longest=args.max_completion_length,
            draws=draws(args),
        )

    @property
    def completions(self) -> int:
        """Completions of one test."""
        return self.prompts * (1 + self.samples)

    @property
    def calls(self) -> int:
        """Calls of the generator in turn: ⌈⌈completions / rows⌉ / ranks⌉, greedy plus sampled."""
        greedy, sampled = self.prompts, self.prompts * self.samples
        return sum(math.ceil(math.ceil(n / self.rows) / self.ranks) for n in (greedy, sampled))

    @property
    def all_tokens(self) -> int:
        """Tokens that all tests of the run generate at most."""
        return self.times * self.completions * self.longest


def measured_at(args: Any, every: int, batches: Batches) -> set[int]:
    """List the optimizer steps that are tested: the ends, every N, and at each evaluation."""
    state = TrainerState()
    state.compute_steps(args, batches.steps)
    evaluated = {"steps": state.eval_steps, "epoch": batches.steps_per_epoch}
    periods = [every, evaluated.get(args.eval_strategy)]
    between = [range(n, batches.steps + 1, n) for n in periods if n]
    return {0, batches.steps}.union(*between)
