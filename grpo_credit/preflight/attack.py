"""Rewards attacked before they are trusted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpo_credit.preflight.findings import Finding
from grpo_credit.preflight.watch import SLOW, is_async
from grpo_credit.rewards import attack

TRIED = 4  # rows that the preflight attacks with
EXAMPLE = 100  # characters of a completion that are shown


def attacked(
    name: str, reward: Any, rows: Iterable[Mapping[str, Any]], calls: Sequence[tuple[int, float]]
) -> list[Finding]:
    """Attack a reward of a run with some rows of its data.

    Slow and asynchronous rewards are left alone, as the `calls` (completions, seconds) of the
    sample tell, and so is a reward model, which has none.
    """
    if not calls or is_async(reward) or max(seconds for _, seconds in calls) > SLOW:
        return []
    paid_attacks = [paid for paid in attack(reward, rows, max_rows=TRIED) if not paid.error]
    if not paid_attacks:
        return []
    shown = "; ".join(
        f"{paid.attack} ({brief(paid.completion)!r} earns {earned(paid.score)})"
        for paid in paid_attacks[:3]
    )
    more = f"; and {len(paid_attacks) - 3} more" if len(paid_attacks) > 3 else ""
    return [
        Finding(
            "warning",
            f"reward {name}: attack",
            f"it pays without the job being done: {shown}{more}.",
            "Demand the form (rewards.gate), judge what stands in it alone, and see all of it with "
            "`grpo-credit attack`.",
        )
    ]


def earned(score: float | None) -> str:
    """Return a score in three digits."""
    return "None" if score is None else f"{score:.3g}"


def brief(text: str) -> str:
    """Return the beginning of a completion."""
    return text if len(text) <= EXAMPLE else f"{text[:EXAMPLE]}…"
