# /// script
# dependencies = ["grpo-credit"]
# ///
r"""GRPO with tools: call them, read what they say, answer.

    accelerate launch recipes/grpo_tools.py --credit=seq
    accelerate launch recipes/grpo_tools.py --credit=turns/seq
    accelerate launch recipes/grpo_tools.py --credit=gigpo/seq --dataset_name problems.jsonl \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --use_peft --tools my_tools:search

Your data have a column 'prompt' of conversations and a column 'answer' of numbers; a tool is a
function with types and a docstring, which is all that the model is told of it. Without
--model_name_or_path it trains a tiny model, made on the spot, that has to call a calculator twice.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpo_credit
from grpo_credit.rewards import AfterThought, NumericAnswer
from grpo_credit.run.options import DataArguments, TinyArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

DEFAULTS = {"max_completion_length": 1024, "max_tool_calling_iterations": 4}
TINY_DEFAULTS = {
    "per_device_train_batch_size": 64, "max_completion_length": 48, "max_steps": 60,
}  # fmt: skip
TOLD_FAILURE = "{'error':"  # how TRL tells a model that its tool raised
Conversation = Sequence[Mapping[str, Any]]


@dataclass
class ToolArguments(DataArguments, TinyArguments):
    """Options of this recipe."""

    tools: list[str] = field(
        default_factory=list,
        metadata={"help": "Functions that your model may call, as 'module:function'."},
    )
    failure_price: float = option(
        0.2, "What a call that fails costs its turn, 0 or more; credit by turns reads it."
    )


class Right(NumericAnswer):
    """Reward the number in the last message; a turn whose call failed has a price of its own."""

    def __init__(self, price: float) -> None:
        super().__init__(AfterThought(required=False), "answer", name="right")
        self.price = price

    def turn_rewards(self, completions: Sequence[Conversation]) -> list[list[tuple[int, float]]]:
        """Return (turn, -price) for each call that failed; turns count from 0."""
        return [[(turn, -self.price) for turn in failed(wrote)] for wrote in completions]


def make_task(script: ToolArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any) -> Task:
    """Reward the right number; test by playing the dialogues to their end."""
    from datasets import Dataset

    from grpo_credit.run.data import is_blank, load_prompts
    from grpo_credit.tiny import calculator

    own = model_args.model_name_or_path
    if script.failure_price < 0:
        raise ValueError(f"--failure_price is {script.failure_price:g}, expected 0 or more.")
    for name, given in (("--dataset_name", script.dataset_name), ("--tools", script.tools)):
        if own and not given:
            raise ValueError(f"{name} is missing; there is none for your own model.")
        if given and not own:
            raise ValueError(f"--model_name_or_path is missing: {name} is not for the tiny model.")
    tools_of(script)
    if own:
        columns = {"prompt": is_blank, "answer": lambda value: last_number(value) is None}
        train, test = load_prompts(script, columns)
    else:
        train = Dataset.from_list(calculator.questions(4096, args.seed, "train"))
        test = calculator.questions(script.test_prompts, args.seed, "test")
    return Task(
        train, test, [Right(script.failure_price)], check,
        metric=f"mean@{script.test_samples}",
        title="held-out questions; right: the number in the last message",
        tiny=lambda: calculator.calculator_model(script.warm_start_seed),
        tiny_outline=calculator.outline,
        live="tools/call_frequency",
        measure=lambda trainer: measure(trainer, test, script.test_samples),
    )  # fmt: skip


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, tools=tools_of(setup.script), **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


def tools_of(script: ToolArguments) -> list[Any]:
    """Import the tools that were named, or the tiny model's."""
    from grpo_credit.credit.registry import import_object
    from grpo_credit.tiny.calculator import calculate

    return [import_object(name, "tool") for name in script.tools] or [calculate]


def failed(conversation: Conversation) -> Iterator[int]:
    """Yield the turn of each call that TRL says has failed."""
    turn = -1
    for message in conversation:
        turn += message["role"] == "assistant"
        if message["role"] == "tool" and str(message["content"]).startswith(TOLD_FAILURE):
            yield turn


def check(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Judge a dialogue that is written as JSON."""
    return judge(json.loads(completion or "[]"), row)


def judge(messages: Conversation, row: Mapping[str, Any]) -> dict[str, float]:
    """Judge a dialogue by the last number of its last message."""
    calls = sum(len(message.get("tool_calls") or []) for message in messages)
    said = str(messages[-1]["content"]) if messages else ""
    right = last_number(said) == last_number(row["answer"])
    verdict = {"right": float(right), "call rate": float(calls > 0), "calls": float(calls)}
    return verdict | {"failure rate": len([*failed(messages)]) / max(1, calls)}


def last_number(text: Any) -> float | None:
    """Return the last number of a text, or None."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", str(text).replace(",", ""))
    return float(numbers[-1]) if numbers else None


def measure(trainer: Any, rows: list[dict[str, Any]], samples: int) -> dict[str, float]:
    """Return the held-out numbers of dialogues that TRL's own loop played."""
    from grpo_credit.run.evaluation import measure_dialogues

    return measure_dialogues(trainer, rows, lambda wrote, row, _: judge(wrote, row), samples)


RECIPE = Recipe(__file__, __doc__ or "", ToolArguments, make_task, train, DEFAULTS, TINY_DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
