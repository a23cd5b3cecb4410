"""How many groups would teach something: the chance that not all of a group's rewards are equal."""

from collections import Counter
from collections.abc import Sequence
from math import comb, inf, isnan

SAME = 6  # digits after the point up to which two rewards are the same

SIZES = (2, 4, 8, 16)  # of groups whose expected share of informative ones is told


def share_informative(rewards: Sequence[float], size: int) -> float | None:
    """Estimate without bias how often a group of `size` completions of one prompt is informative.

        1 - [C(a, G) + Σ_v (C(c_v + a, G) - C(a, G))] / C(n, G)

    over the distinct rewards v: c_v of the prompt's n completions earned v, and a were not scored
    (NaN). It is the share of the G-subsets of the completions in which two rewards differ, a
    U-statistic; rewards equal to six digits are the same.

    Args:
        rewards: of the completions of one prompt; NaN where nothing was scored.
        size: of the group, G >= 2.

    Returns:
        A number from 0 to 1; None if there are fewer completions than `size`: no unbiased estimate
        exists then.

    Example:
        >>> share_informative([1, 0, 0, 0], 2)  # 3 of the 6 pairs hold the 1
        0.5
    """
    if len(rewards) < size:
        return None
    silent = comb(sum(map(isnan, rewards)), size) / comb(len(rewards), size)
    return 1 - silent - _share_equal_above(rewards, size, -inf)


def mean_informative(groups: Sequence[Sequence[float]], size: int) -> float | None:
    """Average `share_informative` over prompts, for groups of `size`, or smaller where these are.

    A larger group is informative whenever a smaller one inside it is, so what fewer completions
    show is a lower bound. None without prompts.
    """
    shares = [share_informative(rewards, min(size, len(rewards))) for rewards in groups]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def dead_shares(groups: Sequence[Sequence[float]], size: int) -> tuple[float, float]:
    """Estimate the shares of groups that are all low and all high.

    A group whose rewards are equal is high where they exceed the middle of the range of all
    rewards, otherwise low (where all rewards of all groups are equal: where they exceed 0).

    Returns:
        (low, high); together 1 - the informative share.
    """
    scored = [reward for group in groups for reward in group if not isnan(reward)]
    middle = (min(scored) + max(scored)) / 2 if scored and min(scored) < max(scored) else 0.0
    high = [_share_equal_above(group, min(size, len(group)), middle) for group in groups]
    informative = mean_informative(groups, size) or 0.0
    above = sum(high) / len(high) if high else 0.0
    return max(0.0, 1 - informative - above), above


def _share_equal_above(rewards: Sequence[float], size: int, middle: float) -> float:
    """Return the share of the G-subsets whose scored rewards are one number above the middle."""
    counts = Counter(round(reward, SAME) for reward in rewards if not isnan(reward))
    abstained = len(rewards) - counts.total()
    silent = comb(abstained, size)
    equal = sum(comb(c + abstained, size) - silent for v, c in counts.items() if v > middle)
    return equal / comb(len(rewards), size)
