# /// script
# dependencies = ["grpo-credit[tasks]"]
# ///
r"""GRPO on reasoning-gym's generated tasks: verifiable, without end, nothing to download.

    accelerate launch recipes/grpo_tasks.py --task letter_counting --credit=seq
    accelerate launch recipes/grpo_tasks.py --task spell_backward --credit=seq
    accelerate launch recipes/grpo_tasks.py --task countdown mini_sudoku --use_peft --bf16 \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct

Without --model_name_or_path it trains a tiny character model that was shown some answers before.
"""

import json
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpo_credit
from grpo_credit.rewards import InTag, TagFormat, TaskScore, gate, guard
from grpo_credit.run.options import TinyArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

DEFAULTS = {"max_completion_length": 1024}  # TRL's 512 cuts many chains of thought off
TINY_DEFAULTS = {
    "per_device_train_batch_size": 64,
    "max_completion_length": 16,
    "max_steps": 300,
    "learning_rate": 1e-4,  # at 1e-3 the marks for a part of an answer win over whole ones
}
TINY_OPTIONS: dict[str, dict[str, Any]] = {  # sizes of the tasks that a tiny model can learn
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "letter_counting": {"min_words": 2, "max_words": 4},
    "spell_backward": {"min_word_len": 3, "max_word_len": 6},
}
JUDGED_WITHIN = 2.0  # seconds: some verifiers evaluate what the model wrote
SPARE = 16  # entries made for each one to test on: small tasks repeat themselves
SYSTEM = (
    "Reason step by step between <think> and </think>, then give the final answer, and nothing "
    "else, between <answer> and </answer>."
)


@dataclass
class TaskArguments(TinyArguments):
    """Options of this recipe."""

    task: list[str] = field(
        default_factory=lambda: ["spell_backward"],
        metadata={"help": "reasoning-gym's tasks, one or several (default: spell_backward)."},
    )
    task_options: str = option("{}", 'Their options, as JSON: \'{"chain_sum": {"max_terms": 3}}\'.')
    task_size: int = option(4096, "Entries of each task to train on.")
    warm_start_steps: int = option(450, "Steps in which the tiny model is shown answers.")


def make_task(script: TaskArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any) -> Task:
    """Reward by the tasks' verifiers; test on entries that were not trained on."""
    from datasets import Dataset

    from grpo_credit.tiny.model import outline

    tiny = not model_args.model_name_or_path
    reward = TaskScore(generators(script, args.seed, tiny), None if tiny else InTag())
    train, test = parted(reward, script, args.seed, tiny)
    judge = guard(reward, timeout=JUDGED_WITHIN, on_error="wrong")
    given = judge if tiny else gate(judge, by=form(args, model_args), name="task_score")
    return Task(
        Dataset.from_list(train).shuffle(seed=args.seed),
        test,
        [given],
        checker(judge),
        metric=f"mean@{script.test_samples}",
        title="held-out entries; right: full marks by the task's own verifier",
        tiny=lambda: warm_start(reward, script),
        tiny_outline=outline,
    )


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


def generators(script: TaskArguments, seed: int, tiny: bool) -> dict[str, dict[str, Any]]:
    """Return each task's options: what is given, and a size with room for the held-out entries."""
    try:
        given = json.loads(script.task_options)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--task_options is not JSON: {error}.") from None
    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        raise ValueError(
            f"--task_options is {script.task_options}, expected options by task, such as "
            '{"chain_sum": {"max_terms": 3}}.'
        )
    if unknown := set(given) - set(script.task):
        raise ValueError(f"--task_options names {min(unknown)!r}, which --task does not.")
    size = {"seed": seed, "size": script.task_size + SPARE * script.test_prompts}
    return {
        task: size | (TINY_OPTIONS.get(task, {}) if tiny else {}) | given.get(task, {})
        for task in script.task
    }


def parted(
    reward: TaskScore, script: TaskArguments, seed: int, tiny: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows to train on, and rows to test on whose questions are not trained on."""
    every: list[dict[str, Any]] = [
        {"prompt": prompt(entry["question"], tiny), "task": task, "index": index}
        for task in script.task
        for index, entry in enumerate(reward.entries(task))
    ]
    train = [row for row in every if row["index"] < script.task_size]
    seen = {str(row["prompt"]) for row in train}
    new = [r for r in every if r["index"] >= script.task_size and str(r["prompt"]) not in seen]
    if len(new) < script.test_prompts:
        raise ValueError(
            f"{len(new)} entries are left to test on, {script.test_prompts} are asked for; lower "
            "--task_size or --test_prompts, or make the task larger by --task_options."
        )
    return train, random.Random(seed).sample(new, script.test_prompts)


def prompt(question: str, tiny: bool) -> Any:
    """Return a question as the tiny model, or a chat model, is given it."""
    if tiny:
        return f"{question}\n"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def form(args: Any, model_args: Any) -> TagFormat:
    """Return the form of a chat model's answer, without a tag that its template opens."""
    from grpo_credit.run.models import opens

    chat = prompt("?", tiny=False)
    prefilled = "think" if opens("<think>", chat, args, model_args) else None
    return TagFormat(("think", "answer"), prefilled=prefilled, name="think_answer_format")


def checker(judge: Any) -> Any:
    """Judge by full marks alone; the reward may give some for less."""

    def check(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
        [score] = judge(completions=[completion], task=[row["task"]], index=[row["index"]])
        return {"right": float(score == 1.0), "characters": float(len(completion))}

    return check


def warm_start(reward: TaskScore, script: TaskArguments) -> Path:
    """Show the tiny model answers to entries that are trained on."""
    from grpo_credit.tiny.answers import answering
    from grpo_credit.tiny.training import Settings

    def pairs(rng: random.Random) -> tuple[str, str]:
        entry = reward.entry(rng.choice(script.task), rng.randrange(script.task_size))
        return prompt(entry["question"], tiny=True), str(entry["answer"])

    settings = Settings(script.warm_start_seed, steps=script.warm_start_steps, batch_size=16)
    about = f"showing the tiny model answers to {', '.join(script.task)} (once)"
    return answering(pairs, {"size": script.task_size} | reward.generators, settings, about)


RECIPE = Recipe(__file__, __doc__ or "", TaskArguments, make_task, train, DEFAULTS, TINY_DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
