"""The verbs `grpo-credit plan`, `preflight` and `attack`: what one asks before a run."""

import argparse
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpo_credit.credit.userfile import IN_A_SCRIPT, load_recipe
from grpo_credit.errors import TRACEBACK, CreditError
from grpo_credit.records.files import parse_object
from grpo_credit.text import in_line


def add_to(verbs: Any) -> None:
    """Add the verbs to a command."""
    for name, verb, about in (
        ("plan", run_plan, "say what a recipe's options mean, without training"),
        ("preflight", run_preflight, "sample a few groups and say why a recipe would not learn"),
    ):
        parser = verbs.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n  grpo-credit {name} recipes/grpo_regex.py --credit=seq\n\n"
            + textwrap.fill(f"A script that trains is no recipe and is not run. {IN_A_SCRIPT}", 78),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        parser.add_argument("recipe", type=Path, help="a recipe, such as recipes/grpo_regex.py")
        parser.add_argument(
            "options", nargs=argparse.REMAINDER,
            help="the options that it is to be started with (default: its own)",
        )  # fmt: skip
        parser.set_defaults(verb=verb)
    _add_attack(verbs)


def run_plan(asked: argparse.Namespace) -> int:
    """Print what a recipe's options mean."""
    from grpo_credit.run.training import run_recipe

    return run_recipe(load_recipe(asked.recipe), [*_options(asked), "--dry_run"])


def run_preflight(asked: argparse.Namespace) -> int:
    """Sample from a recipe's model and print what was found; nothing is written or trained."""
    from transformers.utils.logging import disable_progress_bar

    from grpo_credit.preflight.verdict import NotFit, preflight
    from grpo_credit.run.commandline import mistakes_in_one_line
    from grpo_credit.run.recipe import prepare
    from grpo_credit.run.training import train

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
            error.tell()
            return 2
    return 0


def _options(asked: argparse.Namespace) -> list[str]:
    return [*asked.options, *([TRACEBACK] if asked.traceback else [])]


# ---- attack -------------------------------------------------------------------------------------

# What is attacked with where no data are named.
SUMS = [
    {"prompt": f"What is {a} + {b}?", "answer": str(a + b), "solution": f"${a + b}$"}
    for a, b in ((17, 25), (8, 5), (120, 14), (33, 66), (250, 9), (71, 13), (40, 2), (64, 36))
]


def _add_attack(verbs: Any) -> None:
    parser = verbs.add_parser(
        "attack", help="find what a reward pays without the job being done",
        description="Find what a reward pays without the job being done. The exit code is 1 if it "
        "pays for anything of that kind, else 0.",
        epilog="example:\n  grpo-credit attack my_rewards:right --dataset_name train.jsonl\n"
        """  grpo-credit attack rewards:RegexReward --reward_kwargs '{"pattern": "<a>.+</a>"}'""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("reward", help="pkg.mod:obj, called as by TRL; or a class that makes one")
    parser.add_argument(
        "--reward_kwargs", metavar="JSON", default="{}",
        help="arguments of a class, as JSON (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--dataset_name", help="a folder, a file or a name, as for a recipe (default: eight sums "
        "with the columns prompt, answer and solution)",
    )  # fmt: skip
    parser.add_argument("--dataset_config", help="its configuration, if it has several")
    parser.add_argument("--dataset_train_split", default="train", metavar="SPLIT")
    parser.add_argument(
        "--gold", metavar="COLUMN",
        help="the column with the right answer (default: what the reward names)",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=16, help="to attack with (default: 16)")
    parser.add_argument(
        "--hang", action="store_true",
        help="try expressions that take forever, too; for a guarded reward",
    )  # fmt: skip
    parser.set_defaults(verb=run_attack)


def run_attack(asked: argparse.Namespace) -> int:
    """Print what the reward pays without the job; return 1 if it pays for anything."""
    from grpo_credit.preflight.columns import reward_name
    from grpo_credit.rewards import attack
    from grpo_credit.terminal import console

    if asked.rows < 1:
        raise CreditError(f"--rows is {asked.rows}, expected at least 1.")
    reward, rows = _reward(asked), _rows(asked)
    found = attack(reward, rows, gold=asked.gold, max_rows=asked.rows, hang=asked.hang)
    _print_attacks(reward_name(reward), found, min(asked.rows, len(rows)), console())
    return int(bool(found))


def _reward(asked: argparse.Namespace) -> Any:
    from grpo_credit.credit.registry import import_object

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
    from grpo_credit.preflight.columns import spread
    from grpo_credit.run.data import load_split

    data = load_split(asked.dataset_name, asked.dataset_config, asked.dataset_train_split)
    if rows := spread(data, asked.rows):
        return rows
    raise CreditError(f"{asked.dataset_name} has no rows.")


def _print_attacks(name: str, found: Sequence[Any], rows: int, out: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from grpo_credit.preflight.attack import brief, earned

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
