"""How good the policy is on held-out prompts, judged by a checker that is not the reward."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

Checker = Callable[[str, Mapping[str, Any]], Mapping[str, float]]


class Completes(Protocol):
    """What a trainer must offer; `CreditGRPOTrainer` does."""

    def complete(self, prompts: list[Any], *, greedy: bool = False) -> list[str]:
        """Complete prompts."""
        ...


def measure(
    trainer: Completes, rows: Sequence[Mapping[str, Any]], checker: Checker, samples: int = 4
) -> dict[str, float]:
    """Average what a checker says over greedy and over sampled completions.

    Args:
        trainer: completes prompts.
        rows: held-out rows with a "prompt" and whatever the checker reads.
        checker: completion, row -> named numbers, such as {"format rate": 1.0}.
        samples: completions per prompt when sampling.

    Returns:
        "<name> (greedy)" and "<name> (sampled)" -> mean over completions.
    """
    prompts = [row["prompt"] for row in rows]
    greedy = trainer.complete(prompts, greedy=True)
    sampled = trainer.complete(prompts * samples)
    return {
        **_mean(greedy, rows, checker, "greedy"),
        **_mean(sampled, list(rows) * samples, checker, "sampled"),
    }


def _mean(
    texts: list[str], rows: Sequence[Mapping[str, Any]], checker: Checker, how: str
) -> dict[str, float]:
    verdicts = [checker(text, row) for text, row in zip(texts, rows, strict=True)]
    names = verdicts[0] if verdicts else {}
    return {f"{name} ({how})": sum(v[name] for v in verdicts) / len(verdicts) for name in names}
