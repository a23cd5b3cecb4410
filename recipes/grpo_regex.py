# /// script
# dependencies = ["grpo-credit"]
# ///
r"""GRPO for a format: reward completions that match a regular expression, and right answers.

    accelerate launch recipes/grpo_regex.py --credit=seq
    accelerate launch recipes/grpo_regex.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/DeepMath-103K --use_peft \
        --pattern '(?s)<think>[^<>]*[\p{L}\p{N}][^<>]*</think>.*'

Without --model_name_or_path it trains a tiny character model, made on the spot, on running sums:
there the answer earns a reward of its own. With your own data the pattern is all that is rewarded.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpo_credit
from grpo_credit.rewards import ExactAnswer, RegexReward
from grpo_credit.run.options import DataArguments, TinyArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

# What a half-million-parameter model on a laptop needs.
TINY_DEFAULTS = {"per_device_train_batch_size": 64, "max_completion_length": 64, "max_steps": 80}


@dataclass
class RegexArguments(DataArguments, TinyArguments):
    """Options of this recipe."""

    pattern: str = option("", "Regular expression that the whole completion must match.")


def make_task(
    script: RegexArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any
) -> Task:
    """Reward the pattern alone; test by a judge that is not the reward."""
    from grpo_credit import tiny
    from grpo_credit.run.data import load_prompts
    from grpo_credit.tiny.model import outline

    own_model, own_data = model_args.model_name_or_path, script.dataset_name
    pattern = script.pattern or ("" if own_model or own_data else tiny.PATTERN)
    if not pattern:
        raise ValueError("--pattern is missing; there is no default for your own model or data.")
    if own_model and not own_data:
        raise ValueError(
            "--dataset_name is missing; the built-in prompts suit the tiny model only."
        )
    rewards: list[Any] = [RegexReward(pattern, name="format")]
    if not own_data and pattern == tiny.PATTERN:
        return running_sums(script, args.seed, rewards)
    if own_data:
        train, test = load_prompts(script)
    else:
        train = tiny.dataset(4096, args.seed, "train")
        test = tiny.prompts(script.test_prompts, args.seed, "test")
    return Task(
        train,
        test,
        rewards,
        checker(pattern),
        metric="format rate (sampled)",
        title="held-out prompts (the reward is the format alone)",
        tiny=lambda: tiny.warm_start(script.warm_start_seed),
        tiny_outline=outline,
        live="rewards/format/mean",
    )


def running_sums(script: RegexArguments, seed: int, rewards: list[Any]) -> Task:
    """Reward the format and the sum, so that a model does not unlearn one for the other."""
    from grpo_credit import tiny
    from grpo_credit.experiments.show.closing import closing
    from grpo_credit.tiny.model import outline

    return Task(
        tiny.dataset(4096, seed, "train"),
        tiny.prompts(script.test_prompts, seed, "test"),
        [*rewards, ExactAnswer(name="sum")],
        check_sum,
        metric="format rate (sampled)",
        title="held-out sums (format and sum are rewarded)",
        tiny=lambda: tiny.warm_start(script.warm_start_seed),
        tiny_outline=outline,
        live="rewards/format/mean",
        numbers=(
            "format rate (sampled)", "format rate (greedy)", "pass@1",
            f"mean@{script.test_samples}", f"pass@{script.test_samples}",
        ),
        closing=lambda run: closing(run, ["spans/seq", "even/seq"]),
    )  # fmt: skip


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


def check_sum(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Judge a running sum by a scanner that knows nothing of regular expressions."""
    from grpo_credit import tiny

    verdict = tiny.check(completion, row["answer"])
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
        verdict = {"format rate": float(matches(completion.strip()) is not None)}
        if isinstance(row.get("answer"), str):
            verdict["answer named"] = float(row["answer"] in completion)
        return verdict | {"characters": float(len(completion))}

    return check


RECIPE = Recipe(__file__, __doc__ or "", RegexArguments, make_task, train, {}, TINY_DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
