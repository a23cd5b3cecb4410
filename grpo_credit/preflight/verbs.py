"""The verbs `grpo-credit plan` and `grpo-credit preflight`."""

import argparse
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from grpo_credit.errors import TRACEBACK
from grpo_credit.userfile import IN_A_SCRIPT, load_recipe


def add_to(verbs: Any) -> None:
    """Add the two verbs to a command."""
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
    from grpo_credit.run.training import build_trainer

    disable_progress_bar()  # of loading weights
    recipe = load_recipe(asked.recipe)
    options = _options(asked)
    with mistakes_in_one_line(recipe.name, options, recipe.file):
        job = prepare(recipe, options)
        job.model()
    with tempfile.TemporaryDirectory() as folder:  # a trainer wants one
        job.args.output_dir, job.args.log_completions = folder, False
        trainer = build_trainer(job, [])
        try:
            preflight(trainer, strict=job.script.preflight == "strict")
        except NotFit as error:
            error.tell()
            return 2
        finally:
            trainer.end()
    return 0


def _options(asked: argparse.Namespace) -> list[str]:
    return [*asked.options, *([TRACEBACK] if asked.traceback else [])]
