"""Which completions of a step are worth looking at, and where their reward was settled."""

from collections import Counter

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.records.shape import is_usable


def choose(rollouts: Rollouts, count: int) -> list[int]:
    """Choose completions that differ: of every group in turn, its best and then its worst.

    Groups with the largest spread of rewards come first. Completions outside the window, and those
    that no reward scored, are left out.
    """
    rewards = rollouts.rewards.tolist()
    scored = [
        row
        for row, used in enumerate((rollouts.window_count > 0).tolist())
        if used and is_usable(rewards[row])
    ]
    groups: dict[int, list[int]] = {}
    for row in sorted(scored, key=lambda row: -rewards[row]):
        groups.setdefault(int(rollouts.group[row]), []).append(row)
    taken: Counter[int] = Counter()
    order = []
    for group in sorted(groups, key=lambda g: rewards[groups[g][-1]] - rewards[groups[g][0]]):
        for row in _ends(groups[group]):
            order.append((taken[group] // 2, row))
            taken[group] += 1
    return [row for _, row in sorted(order, key=lambda entry: entry[0])][:count]


def _ends(rows: list[int]) -> list[int]:
    """Order rows from both ends: the first, the last, the second, the last but one."""
    mixed = [row for pair in zip(rows, reversed(rows), strict=True) for row in pair]
    return list(dict.fromkeys(mixed))


def settled_at(rollouts: Rollouts, row: int) -> int | None:
    """Return how many tokens settled the reward: the last of its functions; None if unknown."""
    if rollouts.decided is None:
        return None
    counts = [weight != 0 for weight in rollouts.reward_weights]
    settled = [int(at) for at, used in zip(rollouts.decided[row], counts, strict=True) if used]
    return max(settled, default=None)
