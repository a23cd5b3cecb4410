"""What the numbers say, in words.

A strategy is called better or worse when three things hold:

1. there are enough seeds: the exact sign-flip test of n pairs can reach α = 1 - level
   (6 at 95 %);
2. Holm's procedure rejects by the paired t test; which is to say that the paired t interval at
   the level 1 - α/h of its step excludes zero. Where all differences are equal there is no
   interval, and the p of `paired_t_p` for that case decides;
3. the sign-flip test agrees: Holm's procedure rejects by its p values, too; or, where n pairs
   cannot reach that, its p is the smallest that they can reach. Without this, t makes too many
   false claims on lattices, such as shares of right answers.

Both tests ask whether swapping the two strategies of a pair changes nothing: differences that are
symmetric around zero, which is more than equal means. docs/statistics.md has the simulated rate of
false claims of this rule, and of others, where that holds and where only the means are equal.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grpo_credit.experiments.report.difference import Difference
from grpo_credit.experiments.report.intervals import Interval, Settings
from grpo_credit.experiments.report.paired import smallest_p

Outcome = Literal["better", "worse", "no difference shown", "too few seeds to tell"]
_OPEN: Outcome = "no difference shown"
_TOO_FEW: Outcome = "too few seeds to tell"
_MORE_DECIMALS = 3


@dataclass(frozen=True)
class Verdict:
    """What is said of a strategy against the baseline.

    Attributes:
        outcome: In a word or two.
        sentence: With the numbers.
    """

    outcome: Outcome
    sentence: str


def decide(difference: Difference, settings: Settings) -> Verdict:
    """Return whether a strategy is better than the baseline, worse, or neither can be said.

    Args:
        difference: Strategy minus baseline.
        settings: The direction of the metric and the level.

    Returns:
        The verdict. A size behind "better by" and "worse by" is positive; behind "no difference
        shown" it is strategy minus baseline, with its sign.
    """
    mean, interval = difference.mean, difference.holm_interval
    if difference.smallest_p > settings.alpha or mean is None or interval is None:
        return _too_few(difference, settings)
    called: Outcome = "better" if (mean > 0) == settings.higher_is_better else "worse"
    if interval.degenerate:
        return _all_alike(difference, mean, called, settings)
    enough = max(settings.alpha / difference.flip_step, difference.smallest_p)
    agrees = difference.sign_flip_p <= enough
    if interval.excludes(0) and agrees:
        return Verdict(called, f"{called} by {_size(mean, interval)}, {count(difference.n)}")
    numbers = f"{_size(mean, interval, signed=True)}, {count(difference.n)}"
    p = probability(difference.sign_flip_p)
    doubt = f", but p = {p} by sign flips" if interval.excludes(0) else ""
    return Verdict(_OPEN, f"{_OPEN}: {numbers}{doubt}")


def summarise(baseline: str, verdicts: Mapping[str, Verdict]) -> str:
    """Put the verdicts of all strategies into one sentence.

    Example:
        >>> print(summarise("seq", {"dapo": Verdict("worse", "worse by 0.2 [0.1, 0.3], ...")}))
        Against seq: dapo is worse by 0.2 [0.1, 0.3], ....
    """
    if not verdicts:
        return f"Only {baseline} was run: nothing to compare it with."
    called = [
        f"{name} is {verdict.sentence}"
        for outcome in ("better", "worse")
        for name, verdict in verdicts.items()
        if verdict.outcome == outcome
    ]
    uncalled = [_together(outcome, verdicts) for outcome in (_OPEN, _TOO_FEW)]
    return f"Against {baseline}: {'; '.join([*called, *filter(None, uncalled)])}."


def _together(outcome: Outcome, verdicts: Mapping[str, Verdict]) -> str:
    """Write "no difference shown for seq, dapo", with the numbers if it is one strategy."""
    names = [name for name, verdict in verdicts.items() if verdict.outcome == outcome]
    if len(names) != 1:
        return f"{outcome} for {', '.join(names)}" if names else ""
    return f"{outcome} for {names[0]} ({verdicts[names[0]].sentence.removeprefix(f'{outcome}: ')})"


def limits(
    differences: Mapping[str, Difference],
    settings: Settings,
    others: Mapping[str, Iterable[Difference]],
) -> tuple[str, ...]:
    """Return what the comparisons cannot tell, one sentence each, to be printed beside them.

    Args:
        differences: Strategy to its difference to the baseline.
        settings: How they were compared.
        others: Study to its comparisons, made together with these.

    Returns:
        Sentences; none without a comparison.
    """
    if not differences:
        return ()
    pairs = sorted({each.n for each in differences.values()} - {0})
    together = max(each.comparisons for each in differences.values())
    return (
        *(_floor(n, together, settings) for n in pairs),
        *_widened(together, settings, others),
        "Student's t assumes nearly normal differences, the sign-flip test symmetric ones. Both "
        "ask whether swapping the two strategies of a pair changes nothing, which is more than "
        "equal means.",
        *_hidden(pairs, settings),
        "Percentile bootstrap intervals are too narrow with few seeds and decide nothing here.",
        "No difference shown does not mean equal: the interval says what is still possible.",
    )


def _floor(pairs: int, together: int, settings: Settings) -> str:
    """Return how small the p of a number of pairs can get, and whether that is enough."""
    floor = smallest_p(pairs)
    adjusted = min(1, floor * together)
    sentence = (
        f"With {count(pairs)}, the exact sign-flip test cannot go below p = {probability(floor)}"
    )
    if floor > settings.alpha:
        return f"{sentence}: too few for a verdict."
    if adjusted > settings.alpha:
        return f"{sentence}, {probability(adjusted)} after Holm: Student's t decides among those."
    return f"{sentence}."


def _widened(
    together: int, settings: Settings, others: Mapping[str, Iterable[Difference]]
) -> list[str]:
    """Say over how many comparisons intervals were widened, if they were."""
    if together < 2:
        return []
    widest = 100 * (1 - settings.alpha / together)
    among = f", those of {' and '.join(others)} among them" if others else ""
    return [
        f"{together} comparisons are made{among}: the interval in a verdict is at the level of its "
        f"step in Holm's procedure, {100 * settings.level:.3g} to {widest:.3g} %, to keep the "
        f"chance of one or more false claims at {100 * settings.alpha:.2g} %. Whatever else was "
        "compared or looked at is not counted."
    ]


def _hidden(pairs: Sequence[int], settings: Settings) -> list[str]:
    """Return how often something may happen to a run that was not seen in any.

        (1 - rate)^n ≥ α    ⇔    rate ≤ 1 - α^(1/n)

    Args:
        pairs: Numbers of pairs, ascending.
        settings: With α = 1 - level.
    """
    if not pairs:
        return []
    rate = 100 * (1 - settings.alpha ** (1 / pairs[-1]))
    return [
        f"Rare failures hide: {pairs[-1]} runs without one do not rule out that up to {rate:.0f} % "
        "fail. Where one strategy fails in 15 % of its runs and another never, at equal means, 20 "
        "to 39 % of studies with 6 to 10 seeds claim a difference (docs/statistics.md)."
    ]


def _too_few(difference: Difference, settings: Settings) -> Verdict:
    """Return what is seen, that so few pairs cannot decide, and how many can."""
    mean, share, interval = difference.mean, difference.win_rate, difference.holm_interval
    if mean is None or share is None:
        return Verdict(_TOO_FEW, "no seed has a value for both")
    won = (mean > 0) == settings.higher_is_better
    seeds = f"{(share if won else 1 - share) * difference.n:g} of {count(difference.n)}"
    size = f"{abs(mean):.3g}" if interval is None or interval.degenerate else _size(mean, interval)
    return Verdict(
        _TOO_FEW,
        f"{'won' if won else 'lost'} {seeds}, by {size} in the mean; "
        f"{smallest_number(settings)} seeds can settle it",
    )


def smallest_number(settings: Settings) -> int:
    """Return how many pairs it takes that the exact sign-flip test can reach α, 2 / 2^n <= α."""
    return math.ceil(math.log2(2 / settings.alpha))


def _all_alike(difference: Difference, mean: float, called: Outcome, settings: Settings) -> Verdict:
    """Judge differences that are all equal: there is no spread to compare them with."""
    every = f"in every one of {count(difference.n)}"
    if mean == 0:
        return Verdict(_OPEN, f"{_OPEN}: equal {every}")
    if difference.p_holm > settings.alpha:
        many = f"{mean:+.3g} {every}, but in one of {difference.comparisons} comparisons"
        return Verdict(_TOO_FEW, many)
    p = probability(difference.sign_flip_p)
    return Verdict(called, f"{called} by {abs(mean):.3g} {every} (p = {p})")


def _size(mean: float, interval: Interval, signed: bool = False) -> str:
    """Write "0.08 [0.01, 0.15]" with positive numbers first, or "+0.01 [-0.04, 0.06]" as it is."""
    flip = -1 if mean < 0 and not signed else 1
    low, high = sorted((flip * interval.low, flip * interval.high))
    places = decimals(low, high)
    middle = f"{flip * mean:{'+' if signed else ''}.{places}f}"
    return f"{middle} [{low:.{places}f}, {high:.{places}f}]"


def decimals(low: float, high: float) -> int:
    """Choose decimals: two digits of the width, or some more where an end would be zero.

    Example:
        >>> decimals(0.01, 0.15), decimals(0.0004, 0.15), decimals(-20.0, 30.0)
        (2, 4, 0)
    """
    if not high > low:
        return 2
    places = 1 - math.floor(math.log10(high - low))
    first = [-math.floor(math.log10(abs(end))) for end in (low, high) if end]
    return max(0, min(max(places, *first), places + _MORE_DECIMALS))


def count(pairs: int) -> str:
    """Write "1 paired seed", "6 paired seeds"."""
    return f"{pairs} paired seed{'' if pairs == 1 else 's'}"


def probability(p: float) -> str:
    """Write a probability with two digits.

    Example:
        >>> probability(0.03125), probability(0.25), probability(2e-7)
        ('0.031', '0.25', '2e-07')
    """
    return f"{p:.2g}"
