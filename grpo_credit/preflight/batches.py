"""Batch arithmetic: what batch sizes come to, as TRL and `Trainer` count."""

import math
from dataclasses import dataclass
from typing import Any

from grpo_credit.preflight.findings import Finding


@dataclass(frozen=True)
class Batches:
    """The batch sizes of a configuration, and what follows from them.

    Args:
        ranks: processes.
        micro: completions of one rank in one forward pass (`per_device_train_batch_size`).
        accumulation: micro-batches of one rank in an optimizer step.
        slices: micro-batches that one generation is cut into (`steps_per_generation`).
        passes: times that a generation is trained on (`num_iterations`).
        group: completions of a prompt (`num_generations`).
        longest: tokens of a completion at most (`max_completion_length`).
        asked_steps: `max_steps`; -1 where epochs decide.
        asked_epochs: `num_train_epochs`.
        prompts: rows of the data; None for a stream.
    """

    ranks: int
    micro: int
    accumulation: int
    slices: int
    passes: int
    group: int
    longest: int
    asked_steps: int = -1
    asked_epochs: float = 1.0
    prompts: int | None = None

    @classmethod
    def of(cls, args: Any, train: Any) -> "Batches":
        """Read them from a `GRPOConfig` and a data set."""
        return cls(
            ranks=args.world_size,
            micro=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            slices=args.steps_per_generation,
            passes=args.num_iterations,
            group=args.num_generations,
            longest=args.max_completion_length,
            asked_steps=args.max_steps,
            asked_epochs=args.num_train_epochs,
            prompts=len(train) if hasattr(train, "__len__") else None,
        )

    @property
    def completions(self) -> int:
        """Completions of an optimizer step (the window), over all ranks."""
        return self.ranks * self.micro * self.accumulation

    @property
    def generated(self) -> int:
        """Completions of a generation, over all ranks (`generation_batch_size`)."""
        return self.ranks * self.micro * self.slices

    @property
    def generated_prompts(self) -> int:
        """Prompts of a generation."""
        return self.generated // self.group

    @property
    def uses(self) -> int:
        """Micro-batches that one generation serves."""
        return self.slices * self.passes

    @property
    def lag(self) -> int:
        """Optimizer steps by which the policy has moved on when a generation is used last.

        max_g ⌊(g·u + u - 1) / A⌋ - ⌊g·u / A⌋, the g-th generation serving u micro-batches.
        """
        first = range(0, math.lcm(self.uses, self.accumulation), self.uses)
        steps = ((f + self.uses - 1) // self.accumulation - f // self.accumulation for f in first)
        return max(steps)

    @property
    def on_policy(self) -> bool:
        """Whether every step trains only on what the policy of that step sampled."""
        return self.lag == 0

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps in a pass over the data; None for a stream."""
        if self.prompts is None:
            return None
        micro_batches = self.prompts // self.generated_prompts * self.uses
        return max(1, math.ceil(micro_batches / self.accumulation))

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        if self.asked_steps > 0:
            return self.asked_steps
        return math.ceil(self.asked_epochs * (self.steps_per_epoch or 0))

    @property
    def epochs(self) -> float | None:
        """Passes over the data; None for a stream."""
        return None if self.steps_per_epoch is None else self.steps / self.steps_per_epoch

    @property
    def generations(self) -> int:
        """Generations of the run."""
        return math.ceil(self.steps * self.accumulation / self.uses)

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step's completions at most."""
        return self.completions * self.longest

    @property
    def all_tokens(self) -> int:
        """Tokens that the run generates at most."""
        return self.generations * self.generated * self.longest


def check_batches(batches: Batches) -> list[Finding]:
    """Find batch sizes that train on nothing, or on less than they seem to."""
    checks = (_too_few_prompts(batches), _broken_groups(batches), _small_group(batches))
    return [finding for finding in checks if finding is not None]


def _too_few_prompts(batches: Batches) -> Finding | None:
    if batches.prompts is None or batches.prompts >= batches.generated_prompts:
        return None
    return Finding(
        "error",
        "data",
        f"the data have {batches.prompts} prompts and one generation takes "
        f"{batches.generated_prompts}: incomplete generations are dropped, so nothing is trained.",
        "Use more prompts, or lower per_device_train_batch_size, gradient_accumulation_steps or "
        "steps_per_generation.",
    )


def _broken_groups(batches: Batches) -> Finding | None:
    if batches.completions % batches.group == 0:
        return None
    return Finding(
        "note",
        "batches",
        f"an optimizer step trains on {batches.completions} completions, which is no whole number "
        f"of groups of {batches.group}: members of one group fall into different steps.",
        f"Make per_device_train_batch_size x gradient_accumulation_steps x processes a multiple of "
        f"num_generations ({batches.group}).",
    )


def _small_group(batches: Batches) -> Finding | None:
    if batches.group > 3:
        return None
    return Finding(
        "note",
        "batches",
        f"num_generations={batches.group}: a group teaches only where its rewards differ, which is "
        f"rare in a group of {batches.group} when the policy is mostly wrong or mostly right.",
        "Use num_generations=8 or 16 unless the expected share of informative groups is high.",
    )
