"""Values of prefixes as `vine` estimates them, drawn from a policy that can be enumerated."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.cuts import Cuts
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError
from grpo_credit.lab.problem import Space


@dataclass(frozen=True)
class Continued:
    """How completions are continued.

    Args:
        cuts: where.
        continuations: how often from each cut.
    """

    cuts: Cuts
    continuations: int

    def __post_init__(self) -> None:
        if self.continuations < 1:
            raise CreditError(f"vine_continuations is {self.continuations}, expected 1 or more.")


EVERY_TOKEN = Continued(Cuts("every", 1), 4)


class Prefixes:
    """Draws continuations of the prefixes of completions.

    Completions are put in the order of their tokens: those that begin alike stand together, so that
    a continuation is a draw from a stretch of them.

    Args:
        space: the completions.
        continued: where and how often.
        seed: of the draws.
    """

    def __init__(self, space: Space, continued: Continued, seed: int) -> None:
        self._space, self._continued = space, continued
        self._generator = torch.Generator().manual_seed(seed)
        language = space.problems[0].language
        self._alphabet, self._base, self._length = (
            language.alphabet, language.end + 1, language.length,
        )  # fmt: skip
        self._ordered, self._order = self._keys.sort()
        chances = space.chances[self._order]
        self._below = pad(chances.cumsum(0), (1, 0))
        self.written = self.drawn = 0  # tokens of completions, and of continuations

    @cached_property
    def _keys(self) -> Int[Tensor, " M"]:
        """Number completions by prompt and tokens, the first one foremost."""
        ids, prompt = self._space.rollouts.completion_ids, self._space.rollouts.group
        powers = self._base ** torch.arange(self._length - 1, -1, -1)
        return prompt * self._base**self._length + (ids * powers).sum(1)

    def values(self, window: Rollouts, rows: Int[Tensor, " B"]) -> Float[Tensor, "B T1"]:
        """Draw a window's values; NaN where it is not cut.

        Args:
            window: the completions.
            rows: which of the space's they are.
        """
        text_of = [*self._alphabet, "\n"].__getitem__  # the end token ends a line
        places: Bool[Tensor, "B T"] = self._continued.cuts.places(window, text_of)
        values = window.rewards.new_full((len(rows), self._length + 1), torch.nan)
        row, cut = places.nonzero().unbind(1)
        drawn = self._draw(rows[row], cut)
        values[row, cut] = self._space.rollouts.rewards[drawn].mean(1)
        self.drawn += int((self._space.rollouts.mask.sum(1)[drawn] - cut[:, None]).sum())
        self.written += int(window.mask.sum())
        return values

    @property
    def price(self) -> float:
        """Tokens of completions and continuations so far, over those of the completions."""
        return 1 + self.drawn / self.written

    def _draw(self, rows: Int[Tensor, " n"], cut: Int[Tensor, " n"]) -> Int[Tensor, "n K"]:
        """Draw completions that begin with the first `cut` tokens of those in `rows`."""
        size = self._base ** (self._length - cut)
        first = self._keys[rows] // size * size
        low, high = (torch.searchsorted(self._ordered, key) for key in (first, first + size))
        below, above = self._below[low, None], self._below[high, None]
        shape = len(rows), self._continued.continuations
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        place = torch.searchsorted(self._below[1:], below + uniform * (above - below), right=True)
        return self._order[place.clamp(low[:, None], high[:, None] - 1)]
