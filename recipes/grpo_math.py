# /// script
# dependencies = ["grpo-credit[math]"]
# ///
r"""GRPO for word problems with a number as their answer, shaped like GSM8K.

    accelerate launch recipes/grpo_math.py --credit=seq --use_peft --bf16 \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --max_steps 200
    accelerate launch recipes/grpo_math.py --credit=dapo --dataset_name problems.jsonl \
        --model_name_or_path my_model --question_column problem --answer_column solution \
        --judge math

Any chat model will do. The right number earns 1, in the right form alone (--no_gate: in any), and
the form earns a little by itself, so that there is something to learn before the first right
answer.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import grpo_credit
from grpo_credit.rewards import InTag, MathAnswer, NumericAnswer, TagFormat, gate, plain_latex
from grpo_credit.run.options import DataArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

GSM8K = {"dataset_name": "openai/gsm8k", "dataset_config": "main"}
DEFAULTS = {"max_completion_length": 1024}  # TRL's 512 cuts many chains of thought off
SYSTEM = (
    "Reason step by step between <think> and </think>, then give the final answer, and nothing "
    "else, between <answer> and </answer>."
)
JUDGES: dict[str, Callable[[str], Any]] = {
    "numeric": lambda column: NumericAnswer(column=column, name="right"),
    "math": lambda column: MathAnswer(column, extract=InTag(), name="right"),
}
UNREAD = {
    "numeric": ("no single number", "--judge math reads formulas."),
    "math": ("no single formula", "Write each as one formula, or as a solution that boxes it."),
}
TESTED = {"numeric": "last number", "math": "formula"}


@dataclass
class MathArguments(DataArguments):
    """Options of this recipe."""

    dataset_name: str | None = option(
        None, "Problems: hub name, folder, .parquet, .jsonl, .csv (default: GSM8K)."
    )
    question_column: str = option("question", "Column of the problems.")
    answer_column: str = option("answer", "Column of the answers; what follows #### counts.")
    system_prompt: str = option(SYSTEM, "What the model is told before each problem.")
    judge: str = option("numeric", "'numeric': one number; 'math': any formula, by math-verify.")
    gate: bool = option(True, "Whether an answer counts in the right form alone.")
    format_weight: float = option(0.2, "What the form earns by itself.")


def make_task(script: MathArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any) -> Task:
    """Reward right answers in the right form; test by a judge that is not the reward."""
    from grpo_credit.run.data import is_blank, load_prompts
    from grpo_credit.run.models import opens

    if not model_args.model_name_or_path:
        raise ValueError("--model_name_or_path is missing; any chat model will do.")
    if script.judge not in JUDGES:
        raise ValueError(f"--judge is {script.judge!r}, expected one of {', '.join(JUDGES)}.")
    if script.dataset_name is None:
        vars(script).update(GSM8K)
    columns = {
        script.question_column: is_blank,
        script.answer_column: lambda value: is_blank(value) or not gold_of(value),
    }
    train, test = load_prompts(script, columns)
    right = JUDGES[script.judge](script.answer_column)
    check_answers(right, train[script.answer_column], script.judge)
    chat = conversation({script.question_column: "?"}, script)["prompt"]
    prefilled = "think" if opens("<think>", chat, args, model_args) else None
    form = TagFormat(("think", "answer"), prefilled=prefilled, name="think_answer_format")
    if args.reward_weights is None:
        args.reward_weights = [1.0, script.format_weight]
    return Task(
        train.map(conversation, fn_kwargs={"script": script}),
        [row | conversation(row, script) for row in test],
        [gate(right, by=form, name="right") if script.gate else right, form],
        checker(script, prefilled),
        metric=f"mean@{script.test_samples}",
        title=f"held-out problems, judged by the {TESTED[script.judge]} between <answer> tags",
        live="rewards/think_answer_format/mean",
    )


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


def check_answers(right: Any, answers: Sequence[Any], judge: str) -> None:
    """Say how many answers cannot be read: there the reward abstains, which a gate hides.

    Raises:
        ValueError: if none of them can be read.
    """
    from grpo_credit.records.ranks import is_main

    unread = right.unreadable(answers) if is_main() else []
    if not unread:
        return
    what, hint = UNREAD[judge]
    reason = (
        f"{len(unread)} of {len(answers)} answers are {what}, such as "
        f"{gold_of(unread[0])!r:.60}: there the reward abstains. {hint}"
    )
    if len(unread) == len(answers):
        raise ValueError(reason)
    print(f"grpo_math.py: note: {reason}", file=sys.stderr)


def conversation(row: Mapping[str, Any], script: MathArguments) -> dict[str, Any]:
    """Return a problem as the messages that the model is given."""
    system = [{"role": "system", "content": script.system_prompt}] if script.system_prompt else []
    return {"prompt": [*system, {"role": "user", "content": str(row[script.question_column])}]}


def checker(script: MathArguments, prefilled: str | None = None) -> Any:
    """Judge by the last answer block, and the form by counting tags."""
    same = {"numeric": same_number, "math": same_formula}[script.judge]

    def check(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
        answer, closed, _ = completion.rpartition("<answer>")[2].partition("</answer>")
        right = row[script.answer_column]
        golds = [gold_of(gold) for gold in (right if isinstance(right, list) else [right])]
        given = "<answer>" in completion and bool(closed)
        return {
            "right": float(given and any(same(answer, gold) for gold in golds)),
            "format rate": float(keeps_form(completion, prefilled)),
            "characters": float(len(completion)),
        }

    return check


def gold_of(answer: Any) -> str:
    """Return what follows #### in an answer of the data, or all of it."""
    return str(answer).rpartition("####")[2].strip()


def keeps_form(completion: str, prefilled: str | None) -> bool:
    """Return whether there is one thought and one answer, and nothing around them."""
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    text = (f"<{prefilled}>" if prefilled else "") + completion.strip()
    once = all(text.count(tag) == 1 for tag in tags)
    return once and text.startswith("<think>") and text.endswith("</answer>")


def same_number(answer: str, gold: str) -> bool:
    """Return whether two texts hold the same last number."""
    return (one := last_number(answer)) is not None and one == last_number(gold)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, without thousands separators."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    try:
        return Decimal(numbers[-1].replace(",", "")) if numbers else None
    except InvalidOperation:
        return None


def same_formula(answer: str, gold: str) -> bool:
    """Return whether TRL takes two formulas for equal, written as it reads them.

    It drops units and rounds to six places, where the reward compares units and six digits.
    """
    from trl.rewards import accuracy_reward

    written, right = plain_latex(answer), plain_latex(gold)
    completion = [[{"role": "assistant", "content": rf"\boxed{{{written}}}"}]]
    solution = f"${right}$" if right else gold  # a whole solution, which TRL looks through
    return written is not None and bool(accuracy_reward(completion, [solution])[0])


RECIPE = Recipe(__file__, __doc__ or "", MathArguments, make_task, train, DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
