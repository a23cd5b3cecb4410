# /// script
# dependencies = ["grpo-credit"]
# ///
r"""GRPO where one token decides: paths through star graphs.

    accelerate launch recipes/grpo_path_star.py --credit=tree_td
    accelerate launch recipes/grpo_path_star.py --credit=seq --degree 3 --length 4 --nodes 20

Without --model_name_or_path it trains a tiny model, made on the spot by next-token training. It
walks every arm of a star to its end and guesses which one leads to the goal, except where it writes
the path from the goal to the source first, as a share of its lessons did (--plan_share).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import grpo_credit
from grpo_credit.rewards import ExactText
from grpo_credit.run.options import TinyArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

# What a model of a hundred thousand parameters on a laptop needs.
TINY_DEFAULTS = {"per_device_train_batch_size": 128, "max_completion_length": 16, "max_steps": 60}


@dataclass
class PathStarArguments(TinyArguments):
    """Options of this recipe."""

    degree: int = option(2, "Arms of the source, 2 or more.")
    length: int = option(3, "Nodes of a path, source and goal included, 2 or more.")
    nodes: int = option(12, "Labels to draw from, degree * (length - 1) + 1 or more.")
    warm_start_steps: int = option(700, "Steps of next-token training of the tiny model.")
    plan_share: float = option(
        0.25, "Share of planned answers that it learns from; 0 as in the paper."
    )


def make_task(
    script: PathStarArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any
) -> Task:
    """Reward the right path alone; test each of its tokens."""
    from grpo_credit.tiny.model import build_model
    from grpo_credit.tiny.next_token import SHAPE, next_token_model
    from grpo_credit.tiny.path_star import PathStar, dataset, problems

    star = PathStar(script.degree, script.length, script.nodes)
    if not model_args.model_name_or_path:
        check_tiny(script, star, args)
    return Task(
        dataset(star, 4096, args.seed, "train"),
        problems(star, script.test_prompts, args.seed, "test"),
        [ExactText("answers", name="path")],
        check_path,
        metric=f"mean@{script.test_samples}",
        title="held-out graphs",
        tiny=lambda: next_token_model(
            star, script.warm_start_seed, steps=script.warm_start_steps,
            plan_share=script.plan_share,
        ),
        tiny_outline=lambda: (build_model(words := star.build_tokenizer(), **SHAPE).config, words),
        live="rewards/path/mean",
    )  # fmt: skip


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


def check_tiny(script: PathStarArguments, star: Any, args: Any) -> None:
    """Refuse what the tiny model cannot do.

    Raises:
        ValueError: if it cannot be trained, or its answers do not fit.
    """
    if script.warm_start_steps < 1:
        raise ValueError(f"--warm_start_steps is {script.warm_start_steps}, expected 1 or more.")
    if not 0 <= script.plan_share <= 1:
        raise ValueError(f"--plan_share is {script.plan_share}, expected a number from 0 to 1.")
    if args.max_completion_length < star.answer_tokens:
        raise ValueError(
            f"--max_completion_length is {args.max_completion_length}, expected "
            f"{star.answer_tokens} or more: a planned path of {star.length} nodes and the end."
        )


def check_path(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Judge the path node by node, whether it follows edges at all, and whether it was planned."""
    from grpo_credit.tiny.path_star import edges_of

    plan, planned, answer = completion.rpartition("=")
    path, walked = row["path"].split(), answer.split()
    edges = set(edges_of(row["prompt"]))
    right = {
        f"token {place}": float(walked[place - 1 : place] == [node])
        for place, node in enumerate(path, 1)
    }
    steps = list(pairwise(walked))
    along = sum(step in edges for step in steps)
    return {
        "right": float(walked == path),
        **right,
        "steps along edges": along / max(len(steps), len(path) - 1),
        "planned": float(bool(planned)),
        "plan right": float(plan.split() == path[::-1]),
    }


RECIPE = Recipe(__file__, __doc__ or "", PathStarArguments, make_task, train, {}, TINY_DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
