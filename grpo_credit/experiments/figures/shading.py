"""Completions whose tokens are shaded by their credit: what they are, and how deep the shades."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = 8  # shades of each sign


def level(credit: float, scale: float) -> int:
    """Choose a shade: 0 for no credit, otherwise ±1 to ±LEVELS in proportion to |credit|.

    Example:
        >>> [level(credit, 2.0) for credit in (0.0, 1e-9, 1.0, -2.0)]
        [0, 1, 4, -8]
    """
    size = math.ceil(abs(credit) / scale * LEVELS) if credit else 0
    return int(math.copysign(min(size, LEVELS), credit))


def shade(credit: float, scale: float) -> str:
    """Name the CSS class of a shade: p1 to p8, z, n1 to n8."""
    depth = level(credit, scale)
    return f"{'p' if depth > 0 else 'n'}{abs(depth)}" if depth else "z"


@dataclass(frozen=True)
class Token:
    """A token as it is shown.

    Args:
        text: as it was written.
        counted: whether it is part of what is trained on.
        credit: one number per strategy.
        settled: whether the reward was settled with it.
    """

    text: str
    counted: bool
    credit: Sequence[float]
    settled: bool = False


@dataclass(frozen=True)
class Completion:
    """A completion as it is shown: where it stands, what it got, and its tokens.

    Args:
        row: in its batch.
        group: of completions of the same prompt.
        reward: NaN for none.
        advantage: of the completion.
        prompt: as one text.
        tokens: the first ones.
        left_out: tokens that are not shown.
        notes: what else is to be known.
        step: optimizer step that it was trained on, where several are shown.
        named: what its heading says, where it is no completion that was rewarded.
    """

    row: int
    group: int
    reward: float
    advantage: float
    prompt: str
    tokens: Sequence[Token]
    left_out: int = 0
    notes: Sequence[str] = ()
    step: int | None = None
    named: str = ""

    @property
    def earned(self) -> str:
        """The reward as text."""
        return "none" if math.isnan(self.reward) else f"{self.reward:.4g}"

    @property
    def heading(self) -> str:
        """Where the completion stands, and what it got."""
        if self.named:
            return self.named
        place = [f"row {self.row}", f"group {self.group}", f"reward {self.earned}"]
        return " | ".join([*place, f"advantage {self.advantage:+.3g}", *self.notes])


@dataclass(frozen=True)
class Shaded:
    """Completions with one scale per strategy.

    Args:
        strategies: how they were named.
        scales: the largest |credit| shown, per strategy.
        completions: in the order of showing.
        left_out: how many more there are.
    """

    strategies: Sequence[str]
    scales: Sequence[float]
    completions: Sequence[Completion]
    left_out: int = 0
