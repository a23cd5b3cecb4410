# /// script
# dependencies = ["grpo-credit"]
# ///
r"""GRPO for a format: reward completions that match a regular expression.

    accelerate launch recipes/grpo_regex.py --credit=seq
    accelerate launch recipes/grpo_regex.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/DeepMath-103K --use_peft \
        --pattern '(?s)<think>[^<>]*[\p{L}\p{N}][^<>]*</think>.*'

Without --model_name_or_path it trains a tiny character model, made on the spot, on running sums.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_credit.rewards import RegexReward
from grpo_credit.run.options import DataArguments, TinyArguments
from grpo_credit.run.recipe import Recipe, Task
from grpo_credit.run.training import run_recipe

DEFAULTS = {
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 8,  # with TRL's 1 a step is one prompt
    "logging_steps": 1,
}
# What a half-million-parameter model on a laptop needs.
TINY_DEFAULTS = {
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 64,
    "max_steps": 80,
    "learning_rate": 3e-4,
}


@dataclass
class RegexArguments(DataArguments, TinyArguments):
    """Options of this recipe."""

    pattern: str = field(
        default="",
        metadata={"help": "Regular expression that the whole completion must match."},
    )


def make_task(script: RegexArguments, args: Any, model_args: Any) -> Task:
    """Reward the pattern alone; test by a judge that is not the reward."""
    own_model, own_data = model_args.model_name_or_path, script.dataset_name
    pattern = script.pattern if own_model or own_data else script.pattern or built_in_pattern()
    if not pattern:
        raise ValueError("--pattern is missing; there is no default for your own model or data.")
    if own_model and not own_data:
        raise ValueError(
            "--dataset_name is missing; the built-in prompts suit the tiny model only."
        )
    reward = RegexReward(pattern, name="format")
    train, test, check = own_prompts(script) if own_data else running_sums(script, args)
    return Task(
        train,
        test,
        [reward],
        check or checker(pattern),
        metric="format rate (sampled)",
        title="held-out prompts (the reward is the format alone)",
        tiny=lambda: warm_start(script.warm_start_seed),
        tiny_outline=outline,
        live="rewards/format/mean",
    )


def built_in_pattern() -> str:
    """Return the format that the tiny model half knows."""
    from grpo_credit.tiny.task import PATTERN

    return PATTERN


def outline() -> tuple[Any, Any]:
    """Describe the tiny model without making it."""
    from grpo_credit.tiny.model import outline

    return outline()


def warm_start(seed: int) -> Path:
    """Make the tiny model, or find it made."""
    from grpo_credit.tiny import warm_start

    return warm_start(seed)


def running_sums(script: RegexArguments, args: Any) -> tuple[Any, list[dict[str, Any]], Any]:
    """Return built-in prompts to train on, rows to test on, and their judge."""
    from grpo_credit.tiny import task

    train = task.dataset(4096, args.seed, "train")
    test = task.prompts(script.test_prompts, args.seed, "test")
    return train, test, check_sum if script.pattern in ("", task.PATTERN) else None


def own_prompts(script: RegexArguments) -> tuple[Any, list[dict[str, Any]], None]:
    """Return the user's prompts to train on and rows to test on."""
    from grpo_credit.run.data import load_prompts

    return *load_prompts(script), None


def check_sum(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Judge a running sum by a scanner that knows nothing of regular expressions."""
    from grpo_credit.tiny import task

    verdict = task.check(completion, row["answer"])
    return {
        "right": float(verdict.correct),
        "format rate": float(verdict.well_formed),
        "characters": float(len(completion)),
    }


def checker(pattern: str) -> Any:
    """Judge by Python's own regex engine, and say whether the row's answer is named at all."""
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise ValueError(
            f"--pattern works in `regex` but not in Python's `re`, which tests: {error}."
        ) from None

    def check(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
        found = {"format rate": float(matches(completion.strip()) is not None)}
        if isinstance(row.get("answer"), str):
            found["answer named"] = float(row["answer"] in completion)
        return found | {"characters": float(len(completion))}

    return check


RECIPE = Recipe(
    __file__, __doc__ or "", RegexArguments, make_task, defaults=DEFAULTS,
    tiny_defaults=TINY_DEFAULTS,
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Train, test before and after, leave a run directory; return the exit code."""
    return run_recipe(RECIPE, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
