"""What the verbs `grpo-credit plan`, `preflight` and `attack` do."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from grpo_credit.credit.registry import import_object
from grpo_credit.credit.userfile import load_recipe
from grpo_credit.errors import TRACEBACK, CreditError
from grpo_credit.preflight.attack import brief, earned
from grpo_credit.preflight.columns import reward_name, spread
from grpo_credit.preflight.verdict import NotFit, preflight, tell
from grpo_credit.records.files import parse_object
from grpo_credit.rewards import attack
from grpo_credit.run.commandline import mistakes_in_one_line
from grpo_credit.run.data import load_split
from grpo_credit.run.recipe import prepare
from grpo_credit.run.training import run_recipe, train
from grpo_credit.terminal import console
from grpo_credit.text import in_line


def run_plan(asked: argparse.Namespace) -> int:
    """Print what a recipe's options mean."""
    return run_recipe(load_recipe(asked.recipe), [*_options(asked), "--dry_run"])


def run_preflight(asked: argparse.Namespace) -> int:
    """Sample from a recipe's model and print what was found; nothing is written or trained."""

    def look(trainer: Any) -> None:
        try:
            preflight(trainer, strict=setup.script.preflight == "strict")
        finally:
            trainer.end()

    disable_progress_bar()  # of loading weights
    recipe, options = load_recipe(asked.recipe), _options(asked)
    with mistakes_in_one_line(recipe.name, options, recipe.file):
        setup = prepare(recipe, options)
        setup.model()
    with tempfile.TemporaryDirectory() as folder:  # a trainer wants one
        setup.args.output_dir, setup.args.log_completions = folder, False
        try:
            train(recipe, setup, SimpleNamespace(callbacks=[], train=look))
        except NotFit as error:
            tell(error)
            return 2
    return 0


def _options(asked: argparse.Namespace) -> list[str]:
    return [*asked.options, *([TRACEBACK] if asked.traceback else [])]


# What is attacked with where no data are named.
SUMS = [
    {"prompt": f"What is {a} + {b}?", "answer": str(a + b), "solution": f"${a + b}$"}
    for a, b in ((17, 25), (8, 5), (120, 14), (33, 66), (250, 9), (71, 13), (40, 2), (64, 36))
]


def run_attack(asked: argparse.Namespace) -> int:
    """Print what the reward pays without the job; return 1 if it pays for anything."""
    if asked.rows < 1:
        raise CreditError(f"--rows is {asked.rows}, expected at least 1.")
    reward, rows = _reward(asked), _rows(asked)
    found = attack(reward, rows, gold=asked.gold, max_rows=asked.rows, hang=asked.hang)
    _print_attacks(reward_name(reward), found, min(asked.rows, len(rows)), console())
    return int(bool(found))


def _reward(asked: argparse.Namespace) -> Any:
    made = import_object(asked.reward, "reward")
    options = parse_object(asked.reward_kwargs, "--reward_kwargs")
    if isinstance(made, type):
        try:
            return made(**options)
        except (TypeError, ValueError, ImportError) as error:
            raise CreditError(f"{asked.reward} cannot be made: {error}") from None
    if options:
        raise CreditError(f"{asked.reward} is no class, so it takes no --reward_kwargs.")
    if not callable(made):
        raise CreditError(f"{asked.reward} is {made!r:.80}, expected a reward function.")
    return made


def _rows(asked: argparse.Namespace) -> Sequence[Mapping[str, Any]]:
    if asked.dataset_name is None:
        return SUMS
    data = load_split(asked.dataset_name, asked.dataset_config, asked.dataset_train_split)
    if rows := spread(data, asked.rows):
        return rows
    raise CreditError(f"{asked.dataset_name} has no rows.")


def _print_attacks(name: str, found: Sequence[Any], rows: int, out: Any) -> None:
    if not found:
        out.print(f"{name}: no attack was paid, in {rows} rows. A policy tries more.")
        return
    table = Table(title=Text(f"what {name} pays without the job"), title_justify="left")
    for column in ("attack", "example", "earns", "right", "rows"):
        table.add_column(column, overflow="fold", justify="left" if column in "attack example" else
                         "right")  # fmt: skip
    for paid in found:
        example = in_line(paid.error or brief(paid.completion))
        table.add_row(
            paid.attack, Text(example), "raises" if paid.error else earned(paid.score),
            earned(paid.right), f"{paid.rows}/{paid.tried}",
        )  # fmt: skip
    out.print(table)
