# /// script
# dependencies = ["grpo-credit"]
# ///
r"""GRPO where one token decides: paths through star graphs.

    accelerate launch recipes/grpo_path_star.py --credit=tree_td
    accelerate launch recipes/grpo_path_star.py --credit=seq --degree 3 --length 4 --nodes 20
    accelerate launch recipes/grpo_path_star.py --credit=seq --length 4 --objective mtp

Without --model_name_or_path it trains a tiny model, made on the spot by next-token training. It
walks every arm of a star to its end and guesses which one leads to the goal, except where it writes
the path from the goal to the source first, as a share of its lessons did (--plan_share). Another
--objective teaches a model of its own. With --length 4, mtp (multi-token prediction) finds the arm,
and so does reversed, whose answer is the path from the goal on; docs/stages.md says what others do.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpo_credit
from grpo_credit.rewards import ExactText
from grpo_credit.run.options import TinyArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

# What a model of a hundred thousand parameters on a laptop needs.
TINY_DEFAULTS = {"per_device_train_batch_size": 128, "max_completion_length": 16, "max_steps": 60}
PLAN_SHARE = 0.25


@dataclass
class PathStarArguments(TinyArguments):
    """Options of this recipe."""

    degree: int = option(2, "Arms of the source, 2 or more.")
    length: int = option(3, "Nodes of a path, source and goal included, 2 or more.")
    nodes: int = option(12, "Labels to draw from, degree * (length - 1) + 1 or more.")
    objective: str = option(
        "next_token",
        "What the tiny model learns by: next_token, teacherless, hybrid, mtp, top or reversed.",
    )
    warm_start_steps: int | None = option(
        None, "Steps of training of the tiny model; default: 700, and 1,800 with another objective."
    )
    plan_share: float | None = option(
        None,
        "Share of planned answers that next_token learns from; 0 as in the paper; default: 0.25.",
    )


def make_task(
    script: PathStarArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any
) -> Task:
    """Reward the right path alone; test each of its tokens."""
    from grpo_credit.tiny.path_star import PathStar, dataset, problems

    star = PathStar(script.degree, script.length, script.nodes)
    check_objective(script, model_args.model_name_or_path)
    if not model_args.model_name_or_path:
        check_tiny(script, star, args)
    train = dataset(star, 4096, args.seed, "train")
    test = problems(star, script.test_prompts, args.seed, "test")
    if script.objective == "reversed":
        train, test = train.map(from_goal), list(map(from_goal, test))
    return Task(
        train, test, [ExactText("answers", name="path")], check_path,
        metric=f"mean@{script.test_samples}",
        title="held-out graphs",
        tiny=lambda: tiny_model(script, star),
        tiny_outline=lambda: outline(script, star),
        live="rewards/path/mean",
    )  # fmt: skip


def tiny_model(script: PathStarArguments, star: Any) -> Path:
    """Make the model that GRPO begins with."""
    from grpo_credit.tiny import next_token, objective_model

    seed, steps = script.warm_start_seed, script.warm_start_steps
    if script.objective != "next_token":
        steps = objective_model.STEPS if steps is None else steps
        return objective_model.objective_model(star, script.objective, seed, steps=steps)
    steps = next_token.STEPS if steps is None else steps
    share = PLAN_SHARE if script.plan_share is None else script.plan_share
    return next_token.next_token_model(star, seed, steps=steps, plan_share=share)


def outline(script: PathStarArguments, star: Any) -> tuple[Any, Any]:
    """Give the configuration and the tokenizer of that model."""
    from grpo_credit.tiny import model, next_token, objective_model

    words = star.build_tokenizer()
    if script.objective != "next_token":
        return model.build_gpt(words, **objective_model.SHAPE).config, words
    return model.build_model(words, **next_token.SHAPE).config, words


def from_goal(row: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for the path from the goal to the source."""
    path = " ".join(reversed(row["path"].split()))
    return {**row, "path": path, "answers": [path]}


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


def check_objective(script: PathStarArguments, model: str | None) -> None:
    """Refuse an objective that does not exist, or that nothing would read.

    Raises:
        ValueError: with what was expected.
    """
    from grpo_credit.tiny.objectives import OBJECTIVES

    objective = script.objective
    if objective not in OBJECTIVES:
        raise ValueError(f"--objective is {objective!r}, expected one of {', '.join(OBJECTIVES)}.")
    if model and objective != "next_token":
        raise ValueError(
            f"--objective is of the tiny model, but --model_name_or_path is {model!r}, which is "
            "already trained; leave one of them out."
        )
    if script.plan_share is not None and objective != "next_token":
        raise ValueError(
            f"--plan_share is of --objective=next_token, but the objective is {objective!r}, whose "
            "lessons are not planned; leave it out."
        )


def check_tiny(script: PathStarArguments, star: Any, args: Any) -> None:
    """Refuse what the tiny model cannot do.

    Raises:
        ValueError: if it cannot be trained, or its answers do not fit.
    """
    steps, share = script.warm_start_steps, script.plan_share
    if steps is not None and steps < 1:
        raise ValueError(f"--warm_start_steps is {steps}, expected 1 or more.")
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"--plan_share is {share}, expected a number from 0 to 1.")
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
    if not edges.issuperset(pairwise(path)):  # it is asked for from the goal on
        edges = {(end, start) for start, end in edges}
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
