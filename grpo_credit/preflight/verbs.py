"""The verbs `grpo-credit plan` and `grpo-credit preflight`."""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any


def add_to(verbs: Any) -> None:
    """Add the two verbs to a command."""
    plan = verbs.add_parser("plan", help="say what a recipe's options mean, without training")
    preflight = verbs.add_parser(
        "preflight", help="sample a few groups and say why a recipe would not learn"
    )
    for parser, verb in ((plan, run_plan), (preflight, run_preflight)):
        parser.add_argument("recipe", type=Path, help="a recipe, such as recipes/grpo_regex.py")
        parser.add_argument(
            "options", nargs=argparse.REMAINDER, help="the options that it is to be started with"
        )
        parser.set_defaults(verb=verb)


def run_plan(asked: argparse.Namespace) -> int:
    """Print what a recipe's options mean."""
    from grpo_credit.run.training import run_recipe

    return run_recipe(load_recipe(asked.recipe), [*asked.options, "--dry_run"])


def run_preflight(asked: argparse.Namespace) -> int:
    """Sample from a recipe's model and print what was found; nothing is written or trained."""
    from transformers.utils.logging import disable_progress_bar

    from grpo_credit.preflight.verdict import NotFit, preflight
    from grpo_credit.run.commandline import mistakes_in_one_line
    from grpo_credit.run.recipe import prepare
    from grpo_credit.run.training import build_trainer

    disable_progress_bar()  # of loading weights
    recipe = load_recipe(asked.recipe)
    with mistakes_in_one_line(recipe.name):
        job = prepare(recipe, asked.options)
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


def load_recipe(path: Path) -> Any:
    """Import a recipe's file and return its `RECIPE`.

    Raises:
        CreditError: if the file is not there, or defines none.
    """
    from grpo_credit.strategy import CreditError

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CreditError(f"{path} is no recipe; expected a Python file such as grpo_regex.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))  # as when it is run as a script
    spec.loader.exec_module(module)
    if not hasattr(module, "RECIPE"):
        raise CreditError(
            f"{path} defines no RECIPE; expected `RECIPE = Recipe(...)` of grpo_credit.run.recipe."
        )
    return module.RECIPE
