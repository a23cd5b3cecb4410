"""What `bench_step.py` trains on: completions of given lengths, and groups without variance."""

import math
import random
from dataclasses import dataclass
from itertools import compress
from typing import Any

from datasets import Dataset
from trl import GRPOTrainer

from grpo_credit.tiny.tokenizer import build_tokenizer

GROUPS, GROUP = 8, 8
TOKENIZER = build_tokenizer()
LETTERS = TOKENIZER.encode("0123456789,")


@dataclass(frozen=True)
class Workload:
    """Lengths of prompts and completions in tokens, by group, and which groups are dead."""

    prompts: list[int]
    completions: list[list[int]]
    dead: int = 0  # so many groups from the first

    @property
    def group(self) -> int:
        """Completions of a prompt."""
        return len(self.completions[0])

    @property
    def rows(self) -> int:
        """Completions of all prompts."""
        return len(self.prompts) * self.group

    @property
    def longest(self) -> int:
        """The length limit of completions."""
        return max(map(max, self.completions))

    @property
    def needed(self) -> int:
        """Tokens that any exact method must run: completions with credit, their prompts once.

        The last token of each completion predicts nothing; the last one of a prompt is run with
        every completion, where all are run together. A completion that scores the mean of its group
        has no credit.
        """
        tokens = 0
        for group in range(self.dead, len(self.prompts)):
            scores = [score(self.completion(group, member)) for member in range(self.group)]
            credited = [self.group * own != sum(scores) for own in scores]
            tokens += sum(compress(self.completions[group], credited))
            tokens += any(credited) * (self.prompts[group] - 1)
        return tokens

    @property
    def ideal(self) -> float:
        """The needed tokens over the padded tokens that TRL runs."""
        return self.needed / (self.rows * (max(self.prompts) + self.longest))

    def dataset(self) -> Dataset:
        """Make the data set: prompts are the numbers of their groups."""
        numbers = range(len(self.prompts))
        return Dataset.from_dict(
            {"prompt": [str(i) for i in numbers], "dead": [i < self.dead for i in numbers]}
        )

    def rollout(self, prompts: list[str], _: GRPOTrainer) -> dict[str, Any]:
        """Give the tokens of prompts and completions instead of sampling; a `rollout_func`."""
        groups = [int(prompt) for prompt in prompts]
        return {
            "prompt_ids": [self.prompt(g) for g in groups],
            "completion_ids": [self.completion(g, i % self.group) for i, g in enumerate(groups)],
            "logprobs": None,
        }

    def prompt(self, group: int) -> list[int]:
        """Write a prompt."""
        return random.Random(group).choices(LETTERS, k=self.prompts[group])

    def completion(self, group: int, member: int) -> list[int]:
        """Write a completion; the end token is its last, unless the length limit cuts it off."""
        length = self.completions[group][member]
        ids = random.Random(f"{group} {member}").choices(LETTERS, k=length)
        return ids if length == self.longest else [*ids[:-1], TOKENIZER.eos_token_id]


def score(ids: list[int]) -> int:
    """Score a completion by its tokens, from 0 to 6."""
    return sum(ids) % 7


def reward(completion_ids: list[list[int]], dead: list[bool], **_: Any) -> list[float]:
    """Reward a completion by its score; those of a dead group alike."""
    return [0.0 if d else score(ids) / 7 for ids, d in zip(completion_ids, dead, strict=True)]


def workload(name: str, scale: int) -> Workload:
    """Make one of `WORKLOADS`, the same every time; `scale` multiplies every length."""
    return WORKLOADS[name](random.Random(name), scale)


def reference(draw: random.Random, scale: int, dead: int = 3) -> Workload:
    """Log-normal lengths with a mean of 0.36 of the limit; 3 of 8 groups are dead."""
    limit = 256 * scale
    lengths = log_normal(draw, 0.36 * limit, limit)
    return Workload(short_prompts(draw, scale), in_groups(lengths), dead)


def mostly_dead(draw: random.Random, scale: int) -> Workload:
    """The same with 7 of 8 groups dead."""
    return reference(draw, scale, dead=7)


def equal(draw: random.Random, scale: int) -> Workload:
    """Equal lengths and no dead groups: nothing to save but the prompts."""
    return Workload([32 * scale] * GROUPS, [[128 * scale] * GROUP] * GROUPS)


def long_tail(draw: random.Random, scale: int) -> Workload:
    """One completion of eight times the mean."""
    mean = 32 * scale
    lengths = log_normal(draw, mean, 2 * mean)
    lengths[draw.randrange(len(lengths))] = 8 * mean
    return Workload(short_prompts(draw, scale), in_groups(lengths))


def long_prompt(draw: random.Random, scale: int) -> Workload:
    """Prompts of 512 tokens, completions of 64."""
    return Workload([512 * scale] * GROUPS, [[64 * scale] * GROUP] * GROUPS)


def agent(draw: random.Random, scale: int) -> Workload:
    """Groups of 16: prompts of 1,500 tokens, completions of 30 to 200."""
    lengths = [[draw.randrange(30, 201) * scale for _ in range(16)] for _ in range(4)]
    return Workload([1500 * scale] * 4, lengths)


WORKLOADS = {
    "reference": reference,
    "equal": equal,
    "long_tail": long_tail,
    "dead": mostly_dead,
    "long_prompt": long_prompt,
    "agent": agent,
}


def log_normal(draw: random.Random, mean: float, limit: int) -> list[int]:
    """Draw lengths of a mean, cut off at a limit that the longest one reaches."""
    logs = [draw.gauss(0, 0.7) for _ in range(GROUPS * GROUP)]
    shift, step = 0.0, math.log(limit)
    while step > 1e-6:  # the mean grows with the shift
        lengths = [min(limit, max(2, round(math.exp(shift + z)))) for z in logs]
        shift, step = shift + math.copysign(step, mean - sum(lengths) / len(lengths)), step / 2
    lengths[lengths.index(max(lengths))] = limit
    return lengths


def short_prompts(draw: random.Random, scale: int) -> list[int]:
    """Draw lengths of prompts from 16 to 32."""
    return [draw.randrange(16, 33) * scale for _ in range(GROUPS)]


def in_groups(lengths: list[int]) -> list[list[int]]:
    """Split a list into groups."""
    return [lengths[i : i + GROUP] for i in range(0, len(lengths), GROUP)]
