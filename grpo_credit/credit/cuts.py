"""Where completions are cut, to be continued from there: places that the past alone decides.

A place that was chosen by what comes after it (the least likely tokens of a whole completion,
shares of its length) tells the value at it something of the future, and the proof that credit from
such values has no bias does not hold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError
from grpo_credit.text import did_you_mean

ENDINGS = (".", "!", "?", "…", "。", "！", "？", "\n")
Found = Bool[Tensor, "B T"]
TextOf = Callable[[int], str]  # of a token


def _every(rollouts: Rollouts, number: float, _: TextOf) -> Found:
    """Tell the tokens after a multiple of `number` counted ones."""
    return rollouts.position % int(number) == 0


def _sentence(rollouts: Rollouts, _: float, text_of: TextOf) -> Found:
    """Tell the tokens after one that ends a sentence or a line, blanks aside."""
    ids = rollouts.completion_ids
    known = ids.unique()
    texts = [text_of(token).rstrip(" ") for token in known.tolist()]
    ends = torch.tensor([text.endswith(ENDINGS) for text in texts], device=ids.device)
    return _after(ends[torch.searchsorted(known, ids)] & rollouts.mask)


def _entropy(rollouts: Rollouts, number: float, _: TextOf) -> Found:
    """Tell the tokens before which the policy had an entropy of `number` nats or more."""
    return _field(rollouts.entropies) >= number


def _probability(rollouts: Rollouts, number: float, _: TextOf) -> Found:
    """Tell the tokens after one that had the probability `number` or less."""
    return _after((_field(rollouts.old_logps) <= math.log(number)) & rollouts.mask)


def _field(value: Float[Tensor, "B T"] | None) -> Float[Tensor, "B T"]:
    assert value is not None  # see `Cuts.needs`
    return value


def _after(tokens: Found) -> Found:
    return pad(tokens[:, :-1], (1, 0))


class _Kind(NamedTuple):
    find: Callable[[Rollouts, float, TextOf], Found]
    fits: Callable[[float], bool]  # whether there may be such a number
    example: str
    words: str
    needs: frozenset[str] = frozenset()


KINDS = {
    "every": _Kind(_every, lambda n: n >= 1 and n % 1 == 0, "every:64", "every {:g} tokens"),
    "sentence": _Kind(_sentence, math.isnan, "sentence", "after sentences and lines"),
    "entropy": _Kind(
        _entropy, lambda n: n > 0, "entropy:2", "at {:g} nats of entropy or more",
        frozenset({"entropies"}),
    ),
    "probability": _Kind(
        _probability, lambda n: 0 < n < 1, "probability:0.1",
        "after tokens of probability {:g} or less", frozenset({"old_logps"}),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cuts:
    """A rule for places.

    Args:
        kind: a name of `KINDS`.
        number: of tokens, nats, or a probability; NaN where the kind takes none.
    """

    kind: str
    number: float

    @classmethod
    def parse(cls, text: str) -> "Cuts":
        """Read what `--vine_cuts` says.

        Raises:
            CreditError: if it is no kind of place, or its number is out of range.

        Example:
            >>> Cuts.parse("every:64")
            Cuts(kind='every', number=64.0)
        """
        kind, _, number = str(text).partition(":")
        known = ", ".join(repr(each.example) for each in KINDS.values())
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS)
            raise CreditError(f"vine_cuts is {text!r}, expected such as {known}.{hint}")
        try:
            value = float(number or "nan")
        except ValueError:
            value = math.inf
        if not KINDS[kind].fits(value) or math.isinf(value):
            raise CreditError(
                f"vine_cuts is {text!r}, whose number {number!r} does not fit; expected such as "
                f"{known}: a whole number of tokens, nats, or a probability below 1."
            )
        return cls(kind, value)

    def __str__(self) -> str:
        return KINDS[self.kind].words.format(self.number)

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Rollouts` that are looked at."""
        return KINDS[self.kind].needs

    def places(self, rollouts: Rollouts, text_of: TextOf) -> Found:
        """Tell the columns before which a completion is cut: neither its start nor its end.

        Args:
            rollouts: with the fields that are needed.
            text_of: a token id -> its text.
        """
        found = KINDS[self.kind].find(rollouts, self.number, text_of)
        return found & rollouts.mask & (rollouts.position > 0)
