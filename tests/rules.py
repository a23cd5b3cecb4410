"""Every shipped rule, with what it needs to run: options, a reward that tells, a second prompt."""

from typing import Any, NamedTuple

import torch
from datasets import Dataset
from harness import OPTIONS, PROMPTS, Trace, ours, reward, shipped

# The completions of the harness are made up by a `rollout_func`, which `vine` cannot continue.
RULES = [rule.name for rule in shipped() if "prefix_values" not in rule.needs]


class Verdict(NamedTuple):
    chars: int | None


class Parity:
    """Remember the parity of the digits seen."""

    table = ((0, 1), (1, 0))

    def trace(self, text: str) -> list[int]:
        states = [0]
        for character in text:
            states.append(states[-1] ^ character.isdigit())
        return states


class Teller:
    """Reward as the harness does, and say all that a reward may say."""

    __name__ = "teller"
    automaton = Parity()

    def __call__(self, completions: list[str], **columns: Any) -> list[float | None]:
        return reward(completions, **columns)

    def spans(self, completions: list[str]) -> list[dict[str, list[tuple[int, int]]]]:
        return [{"start": [(0, 2)]} if len(c) > 3 else {} for c in completions]

    def decided(self, completions: list[str]) -> list[Verdict]:
        return [Verdict(len(c) // 2 if len(c) > 4 else None) for c in completions]

    def steps(self, completions: list[str]) -> list[list[tuple[int, float]]]:
        return [[(p + 1, 0.1 * p) for p, x in enumerate(c) if x == ","] for c in completions]


def digits_so_far(rollouts: Any) -> torch.Tensor:
    """Count even token ids before each place: a potential that knows the prefix alone."""
    even = (rollouts.completion_ids % 2 == 0) & rollouts.mask
    count = torch.nn.functional.pad(even.cumsum(1), (1, 0))
    return count.to(rollouts.advantages.dtype) / 10


def train(name: str, **options: Any) -> Trace:
    """Train with a rule, an allocation under `seq` and an aggregation under `even`."""
    prompts = options.pop("prompts", 4)
    data = {"prompt": PROMPTS[:prompts], "privileged_prompt": ["9:" + p for p in PROMPTS[:prompts]]}
    data["answer"] = [p[::-1] for p in PROMPTS[:prompts]]
    settings = {
        "credit": name if name in AGGREGATIONS else f"{name}/seq",
        "credit_kwargs": OPTIONS.get(name),
        "tools": True,
        "learning_rate": 0.01,
        "arguments": {"reward_funcs": Teller(), "train_dataset": Dataset.from_dict(data)},
    }
    return ours(**settings | options)


AGGREGATIONS = [rule.name for rule in shipped() if rule.kind == "aggregation"]
