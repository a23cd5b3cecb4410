"""How much is drawn, for every instrument that draws."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """What wraps a loop to show how far it is, such as `tqdm`; `iter` shows nothing."""

    def __call__(self, items: Iterable[Item], /) -> Iterable[Item]: ...  # noqa: D102


@dataclass(frozen=True)
class Sampling:
    """How windows are drawn.

    Args:
        windows: independent optimizer steps, each with its own prompts; at least 2.
        groups: prompts per window.
        num_generations: completions per prompt; at least 2.
        scale_rewards: TRL's `"group"`, `"batch"` or `"none"`; `exact` alone scales.
        seed: of prompts and completions; the same seed gives every rule the same ones.

    Raises:
        ValueError: if a number is too small.
    """

    windows: int
    groups: int = 8
    num_generations: int = 8
    scale_rewards: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows < 2 or self.groups < 1 or self.num_generations < 2:
            raise ValueError(
                f"there are {self.windows} windows (batches) of {self.groups} groups of "
                f"{self.num_generations}; expected at least 2 of them, for standard errors, 1 "
                "group, and 2 completions in it, to compare."
            )
