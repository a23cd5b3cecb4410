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
from grpo_credit.preflight.report import print_json, print_report
from grpo_credit.preflight.verdict import NotFit, preflight, tell
from grpo_credit.records.files import parse_object
from grpo_credit.rewards import attack
from grpo_credit.run.closing import end_training
from grpo_credit.run.commandline import mistakes_in_one_line
from grpo_credit.run.data import load_split
from grpo_credit.run.recipe import prepare
from grpo_credit.run.training import run_recipe, train
from grpo_credit.terminal import console
from grpo_credit.text import in_line

JSON = "--json"


def run_plan(args: argparse.Namespace) -> int:
    """Print what a recipe's options mean."""
    recipe, options = load_recipe(args.recipe), [*_options(args), "--dry_run"]
    if not _json(args):
        return run_recipe(recipe, options)
    with mistakes_in_one_line(recipe.name, options, recipe.file):
        print(recipe.stage.explain(prepare(recipe, options)).as_json())
    return 0


def run_preflight(args: argparse.Namespace) -> int:
    """Sample from a recipe's model and print what was found; nothing is written or trained."""

    def look(trainer: Any) -> None:
        try:
            report = print_json if _json(args) else print_report
            preflight(trainer, strict=setup.script.preflight == "strict", report=report)
        finally:
            end_training(trainer)

    disable_progress_bar()  # of loading weights
    recipe, options = load_recipe(args.recipe), _options(args)
    if not recipe.stage.samples:
        raise CreditError(
            f"{args.recipe} trains on documents and samples nothing, so there is nothing to look "
            "at before; `grpo-credit plan` says what its options mean."
        )
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


def _options(args: argparse.Namespace) -> list[str]:
    own = [word for word in args.options if word != JSON]
    return [*own, *([TRACEBACK] if args.traceback else [])]


def _json(args: argparse.Namespace) -> bool:
    """Return whether a program reads it; the option may stand among those of the recipe."""
    return args.json or JSON in args.options


# What is attacked with where no data are named.
SUMS = [
    {"prompt": f"What is {a} + {b}?", "answer": str(a + b), "solution": f"${a + b}$"}
    for a, b in ((17, 25), (8, 5), (120, 14), (33, 66), (250, 9), (71, 13), (40, 2), (64, 36))
]


def run_attack(args: argparse.Namespace) -> int:
    """Print what the reward pays without the job; return 1 if it pays for anything."""
    if args.rows < 1:
        raise CreditError(f"--rows is {args.rows}, expected at least 1.")
    reward, rows = _reward(args), _rows(args)
    paid = attack(reward, rows, gold=args.gold, max_rows=args.rows, hang=args.hang)
    _print_attacks(reward_name(reward), paid, min(args.rows, len(rows)), console())
    return int(bool(paid))


def _reward(args: argparse.Namespace) -> Any:
    made = import_object(args.reward, "reward")
    options = parse_object(args.reward_kwargs, "--reward_kwargs")
    if isinstance(made, type):
        try:
            return made(**options)
        except (TypeError, ValueError, ImportError) as error:
            raise CreditError(f"{args.reward} cannot be made: {error}") from None
    if options:
        raise CreditError(f"{args.reward} is no class, so it takes no --reward_kwargs.")
    if not callable(made):
        raise CreditError(f"{args.reward} is {made!r:.80}, expected a reward function.")
    return made


def _rows(args: argparse.Namespace) -> Sequence[Mapping[str, Any]]:
    if args.dataset_name is None:
        return SUMS
    data = load_split(args.dataset_name, args.dataset_config, args.dataset_train_split)
    if rows := spread(data, args.rows):
        return rows
    raise CreditError(f"{args.dataset_name} has no rows.")


def _print_attacks(name: str, attacks: Sequence[Any], rows: int, out: Any) -> None:
    if not attacks:
        out.print(f"{name}: no attack was paid, in {rows} rows. A policy tries more.")
        return
    table = Table(title=Text(f"what {name} pays without the job"), title_justify="left")
    for column in ("attack", "example", "earns", "right", "rows"):
        table.add_column(column, overflow="fold", justify="left" if column in "attack example" else
                         "right")  # fmt: skip
    for paid in attacks:
        example = in_line(paid.error or brief(paid.completion))
        table.add_row(
            paid.attack, Text(example), "raises" if paid.error else earned(paid.score),
            earned(paid.right), f"{paid.rows}/{paid.tried}",
        )  # fmt: skip
    out.print(table)
