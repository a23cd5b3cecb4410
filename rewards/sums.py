"""A weighted sum of rewards."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .combination import (
    Combination,
    Completions,
    Prompts,
    Reward,
    decided_of,
    log_mean,
    name_of,
    no_later_than,
    place_of,
    score_range_of,
    scores_of,
    spans_of,
)
from .contract import Decided, Spans


def weighted(
    parts: Mapping[Reward, float] | Sequence[tuple[Reward, float]], *, name: str | None = None
) -> "Combination":
    r"""Add rewards, weighted.

        R = Σ_k weight_k · R_k        over the parts k that do not abstain

    Logs the mean of each part, unweighted, as `reward/<name>/<part>`.

    Args:
        parts: `{reward: weight}`, or pairs of them; weights are finite and may be negative.
        name: what TRL calls the reward; the parts' names joined by `_plus_` by default.

    Returns:
        A reward: None where all parts abstain. It reports the parts' spans as `<part>/<span>`. Its
        score is decided with the last part's; that is exact if one part alone is the last.

    Raises:
        ValueError: if there are no parts, two have the same name, or a weight is not finite.
        TypeError: if a part is a class or no callable.

    How it can be hacked: through the part that pays most per effort. A form that pays without
    regard to content is learnt alone: `gate` does not have that hole. And where a part abstains
    that would have been negative: abstaining counts as 0. Guarded parts do not (see `guard`).

    Example:
        >>> from rewards import RegexReward
        >>> digits = RegexReward(r"\d+", name="digits")
        >>> short = RegexReward(r".{1,3}", name="short")
        >>> weighted({digits: 1.0, short: 0.5})(["12", "ab", "12345"])
        [1.5, 0.5, 1.0]

    Source: TRL's `reward_weights`; here the sum is one reward, which can be gated or scheduled.
    """
    return _Weighted(parts if isinstance(parts, Sequence) else list(parts.items()), name)


class _Weighted(Combination):
    def __init__(self, pairs: Sequence[tuple[Reward, float]], name: str | None) -> None:
        names = [name_of(part) for part, _ in pairs]
        super().__init__(*(part for part, _ in pairs), name=name or "_plus_".join(names))
        self.weights = tuple(_checked_weight(name_of(part), weight) for part, weight in pairs)
        if not names:
            raise ValueError("weighted got no parts; expected {reward: weight}.")
        if again := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two parts are named {again[0]!r}, and their metrics would be merged; name one of "
                "them differently when making it."
            )

    def __call__(self, completions: Completions, **columns: Any) -> list[float | None]:
        scores = [scores_of(part, completions, columns) for part in self.parts]
        for part, column in zip(self.parts, scores, strict=True):
            log_mean(columns, f"reward/{self.__name__}/{name_of(part)}", column)
        return [self._sum(row) for row in zip(*scores, strict=True)]

    def _sum(self, row: Sequence[float | None]) -> float | None:
        pairs = zip(self.weights, row, strict=True)
        terms = [weight * score for weight, score in pairs if score is not None]
        return math.fsum(terms) if terms else None

    @property
    def score_range(self) -> tuple[float, float]:
        pairs = zip(self.weights, map(score_range_of, self.parts), strict=True)
        terms = [sorted((weight * low, weight * high)) for weight, (low, high) in pairs]
        return sum(low for low, _ in terms), sum(high for _, high in terms)

    def spans(self, completions: Completions, prompts: Prompts = None) -> list[Spans]:
        found = [spans_of(part, completions, prompts) for part in self.parts]
        return [self._prefixed(row) for row in zip(*found, strict=True)]

    def _prefixed(self, row: Sequence[Spans]) -> Spans:
        return {
            f"{name_of(part)}/{name}": places
            for part, spans in zip(self.parts, row, strict=True)
            for name, places in spans.items()
        }

    def decided(self, completions: Completions, prompts: Prompts = None) -> list[Decided]:
        parts = [decided_of(part, completions, prompts) for part in self.parts]
        return [_summed(self.weights, row) for row in zip(*parts, strict=True)]


def _summed(weights: Sequence[float], parts: Sequence[Decided]) -> Decided:
    """Return when a sum is decided: with its last part, which moves the sum if it is alone."""
    weight, last = max(zip(weights, parts, strict=True), key=lambda pair: place_of(pair[1]))
    alone = [place_of(part) for part in parts].count(place_of(last)) == 1
    return last if weight and alone else no_later_than(last.chars)


def _checked_weight(name: str, weight: float) -> float:
    if not math.isfinite(weight):
        raise ValueError(f"weight of {name!r} is {weight}, expected a finite number.")
    return float(weight)
