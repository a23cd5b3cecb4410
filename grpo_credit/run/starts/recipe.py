r"""Train a model of yours on prompts and answers of yours, by any credit rule.

    accelerate launch my_recipe.py --credit=seq --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name problems.jsonl --max_steps 200
    grpo-credit plan my_recipe.py --model_name_or_path … --dataset_name problems.jsonl
    grpo-credit ablate --recipe my_recipe.py --credit seq dapo --seeds 6 --out reports/mine …

The data have the columns `prompt`, which asks for the answer in \boxed{}, and `answer`, a number.
"""

import sys
from dataclasses import dataclass

from grpo_credit import CreditGRPOTrainer
from grpo_credit.rewards import InBox, NumericAnswer
from grpo_credit.run.data import PROMPT, is_blank, load_prompts
from grpo_credit.run.options import DataArguments, option
from grpo_credit.run.recipe import Recipe, Task
from grpo_credit.run.training import run_recipe

DEFAULTS = {"max_completion_length": 512}  # of this task; each option can be given all the same


@dataclass
class Arguments(DataArguments):
    """Options of this recipe, beside those of TRL's GRPOConfig and ModelConfig."""

    tolerance: float = option(0.0, "How far from the answer a right number may be.")


def make_task(script, args, model_args):
    """Return the data, the rewards and the judge of held-out completions."""
    if not (script.dataset_name and model_args.model_name_or_path):
        raise ValueError("--dataset_name and --model_name_or_path are needed.")
    right = NumericAnswer(extract=InBox(), column="answer", abs_tol=script.tolerance, name="right")

    def check(completion, row):  # judges held-out completions; it need not be the reward
        return {"right": right([completion], answer=[row["answer"]])[0] or 0.0}

    train_rows, test_rows = load_prompts(script, {**PROMPT, "answer": is_blank})
    return Task(  # rewards: any functions, as in TRL
        train_rows, test_rows, [right], check,
        metric=f"mean@{script.test_samples}", title="held-out questions",
    )  # fmt: skip


def train(setup, run):
    """Train as TRL does; `run` adds what is around it: directory, preflight, tests, resuming."""
    trainer = CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)


RECIPE = Recipe(__file__, __doc__, Arguments, make_task, train, DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
