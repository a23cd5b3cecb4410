"""Small steps with the shapes that efficient batching is for: see `test_passes`."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from harness import GROUP, PROMPTS, TOKENIZER, rollouts_with

LONG = "1+2+3+4+5+6+7+8+9+1+2+3+4+5="


@dataclass(frozen=True)
class Workload:
    """Four groups of four completions.

    Args:
        lengths: of the members of each group, in tokens.
        dead: groups whose members all have the same reward.
        prompts: of the groups.
    """

    lengths: tuple[tuple[int, ...], ...]
    dead: tuple[int, ...] = ()
    prompts: tuple[str, ...] = tuple(PROMPTS[:4])

    @property
    def arguments(self) -> dict[str, Any]:
        """Give what a trainer takes for it."""
        return {
            "rollout_func": rollouts_with(False, self.completion),
            "reward_funcs": self.reward,
            "train_dataset": Dataset.from_dict({"prompt": list(self.prompts)}),
        }

    def completion(self, prompt: str, member: int) -> list[int]:
        """Return member 0 with one 1, member 1 with two, and so on, as long as it may be."""
        length = self.lengths[self.prompts.index(prompt)][member]
        text = ("1" * (member + 1) + "20394857602")[: length - 1]
        return [*TOKENIZER.encode(text), TOKENIZER.eos_token_id]

    def reward(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        """Count ones, but in dead groups."""
        return [
            0.5 if self.prompts.index(prompt) in self.dead else float(text.count("1"))
            for prompt, text in zip(prompts, completions, strict=True)
        ]


UNEVEN = ((12, 3, 5, 4), (2, 9, 4, 7), (6, 6, 10, 5), (8, 2, 3, 5))
WORKLOADS = {
    "reference": Workload(UNEVEN, dead=(1,)),
    "equal": Workload(((8,) * GROUP,) * 4),
    "long tail": Workload(((3, 4, 2, 12), *((3, 4, 2, 3),) * 3)),
    "dead": Workload(UNEVEN, dead=(0, 1, 3)),
    "long prompt": Workload(UNEVEN, prompts=(LONG, LONG[2:], LONG[4:], "3=")),
    "nothing to learn": Workload(UNEVEN, dead=(0, 1, 2, 3)),
}
