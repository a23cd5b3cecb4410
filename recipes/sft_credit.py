# /// script
# dependencies = ["grpo-credit"]
# ///
r"""Supervised training by credit: what the denominator of cross entropy makes of short documents.

    accelerate launch recipes/sft_credit.py --credit=seq
    accelerate launch recipes/sft_credit.py --credit=dapo --per_device_train_batch_size=1
    accelerate launch recipes/sft_credit.py --model_name_or_path Qwen/Qwen2.5-0.5B \
        --dataset_name trl-lib/Capybara --use_peft --credit=seq

Without --dataset_name it trains a tiny model on short and long documents, made on the spot, whose
share is known.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpo_credit
from grpo_credit.run.options import SupervisedArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.stages import SUPERVISED
from grpo_credit.run.training import run_recipe

DEFAULTS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 8}
TINY_DEFAULTS = {
    "per_device_train_batch_size": 4,  # a window in which the denominator shows
    "num_train_epochs": 1,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "linear",  # to 0, so that the last windows do not decide
    "max_grad_norm": 0.0,  # windows of short documents have large gradients, which clipping cuts
    "save_steps": 200,
    "save_rollouts": 200,
}
WINDOWS = (1, 4, 16, 64, 256)


@dataclass
class SftArguments(SupervisedArguments):
    """Options of this recipe."""

    documents: int = option(6400, "Documents of the mixture.")
    share: float = option(0.5, "Share of short documents in the mixture.")
    short: int = option(2, "Predicted tokens of a short document.")
    long: int = option(20, "Predicted tokens of a long one.")


def make_task(script: SftArguments, args: "grpo_credit.CreditSFTConfig", model_args: Any) -> Task:
    """Take the user's documents, or a mixture."""
    if model_args.model_name_or_path and not script.dataset_name:
        raise ValueError("--dataset_name is missing; the mixture suits the tiny model only.")
    if script.dataset_name and not model_args.model_name_or_path:
        raise ValueError("--model_name_or_path is missing; the tiny model knows the mixture alone.")
    return own_task(script, args) if script.dataset_name else mixture_task(script, args)


def own_task(script: SftArguments, args: Any) -> Task:
    """Train on the user's documents; test on some that are held out."""
    from grpo_credit.run.data import load_documents
    from grpo_credit.run.evaluation import measure_documents

    train, test = load_documents(script)
    if args.eval_packing is None:
        args.eval_packing = False  # packed, documents may be cut, and "per document" means another
    if "nats" in (args.metric_for_best_model or ""):
        args.greater_is_better = False
    return Task(
        train,
        test,
        metric="nats per document",
        title="held-out documents",
        live="loss",
        measure=measure_documents,
    )


def mixture_task(script: SftArguments, args: Any) -> Task:
    """Train on a mixture whose share of short documents is known; test by the model's own."""
    from datasets import Dataset

    from grpo_credit.tiny.mixture import Mixture, is_short, outline, untrained

    rows = Mixture(script.share, script.short, script.long).documents(script.documents, args.seed)
    SUPERVISED.check_columns(args, Dataset.from_list(rows))
    share = sum(is_short(row["text"]) for row in rows) / len(rows)
    known = {"the data": share} | theory(share, script, args)
    values = ", ".join(f"{of} {value:.3f}" for of, value in known.items())
    return Task(
        Dataset.from_list(rows),
        metric="P(short)",
        title=f"the model's P(short), beside {values}",
        tiny=lambda: untrained(args.seed),
        tiny_outline=lambda: (outline(args.seed)[0].config, outline(args.seed)[1]),
        live="loss",
        measure=partial(measure_share, known=known),
    )


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    from datasets import Dataset

    from grpo_credit.tiny.mixture import is_short

    trainer = grpo_credit.CreditSFTTrainer(
        model=setup.model(), args=setup.args, train_dataset=setup.task.train,
        eval_dataset=Dataset.from_list(setup.task.test) if setup.task.test else None,
        callbacks=run.callbacks, **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)
    if not setup.task.test:
        share = sum(map(is_short, setup.task.train["text"])) / len(setup.task.train)
        trainer.accelerator.print(vanishing(share, setup.script, setup.args))


def measure_share(trainer: Any, known: dict[str, float]) -> dict[str, float]:
    """Read P(short) off the model, and how far that is from what is known of it."""
    from grpo_credit.tiny.mixture import share_of_short

    model = trainer.accelerator.unwrap_model(trainer.model)
    share = share_of_short(model, trainer.processing_class)
    return {"P(short)": share} | {f"P(short) - {of}": share - value for of, value in known.items()}


def window_of(args: Any) -> int:
    """Return how many documents, or packed rows, an optimizer step has."""
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return int(rows * args.world_size)


def theory(share: float, script: SftArguments, args: Any) -> dict[str, float]:
    """Return what training converges to in theory; nothing where rows are packed."""
    return {} if args.packing else {"theory": learned(window_of(args), share, script, args)}


def learned(window: int, share: float, script: SftArguments, args: Any) -> float:
    """Return P(short) in theory for windows of a size."""
    from grpo_credit.credit.documents import learned_share

    strategy = SUPERVISED.planned(args).strategy
    return learned_share(strategy, share, script.short, script.long, window)


def vanishing(share: float, script: SftArguments, args: Any) -> str:
    """Say where the denominator makes no difference."""
    name = SUPERVISED.planned(args).strategy.name
    sizes = (f"{size} {learned(size, share, script, args):.3f}" for size in WINDOWS)
    return (
        f"P(short) of {name} in theory, by documents in a window: {', '.join(sizes)}. It nears the "
        f"data's {share:.3f} as windows grow; packed rows, of nearly the same number of tokens, "
        "lessen what is left."
    )


RECIPE = Recipe(
    __file__, __doc__ or "", SftArguments, make_task, train, DEFAULTS, TINY_DEFAULTS, SUPERVISED
)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
