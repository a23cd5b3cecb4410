"""How a recipe is run: check everything, claim a run directory, let it train within a `Run`.

Importing it imports no torch: a recipe's `--help` answers at once.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_credit.run.commandline import mistakes_in_one_line, short_help
from grpo_credit.run.ending import Ending
from grpo_credit.run.launcher import fewer_than_asked
from grpo_credit.run.recipe import Recipe, Setup, explain, prepare
from grpo_credit.terminal import print_anything

if TYPE_CHECKING:
    from grpo_credit.run.lifecycle import Run

RUNS = Path("runs")


def run_recipe(recipe: Recipe, arguments: list[str]) -> int:
    """Train, test before and after, leave a run directory; return the exit code."""
    print_anything()
    if {"-h", "--help"} & set(arguments):
        stage = recipe.stage
        options = recipe.arguments, stage.options
        print(short_help(recipe.name, recipe.about, *options, host=stage.host))
        return 0
    with Ending(recipe.file) as ending:
        with mistakes_in_one_line(recipe.name, arguments, recipe.file):
            setup = prepare(recipe, arguments)
            if warning := fewer_than_asked(setup.args.world_size):
                print(warning, file=sys.stderr)
            if setup.script.dry_run:
                return explain(recipe, setup)
            ending.keep("nothing was begun")
            setup.model()  # made before the directory is claimed: it may turn out to be impossible
            run = claim(recipe, setup)
        try:
            with run:
                train(recipe, setup, run)
        except SystemExit as end:
            if not isinstance(end.code, int):
                raise
            return end.code
    return 0


def claim(recipe: Recipe, setup: Setup) -> "Run":
    """Take a run directory, or the one to resume with its last checkpoint."""
    from grpo_credit.records import directory
    from grpo_credit.run.lifecycle import Run

    script, args = setup.script, setup.args
    given = args.output_dir if "output_dir" in setup.given else None
    strategy = recipe.stage.planned(args).strategy.name.replace("/", "-").replace(":", "-")
    stem = f"{Path(recipe.file).stem}-{strategy}"
    args.output_dir = str(directory.choose(RUNS, stem, given, script.resume))
    more = asdict(setup.model_args)
    return Run(args, setup.task, script, more=more, file=recipe.file, named=given is not None)


def train(recipe: Recipe, setup: Setup, run: Any) -> None:
    """Let a recipe train within a `Run`, its model loaded as the command line says."""
    import torch

    model, args = setup.model_args, setup.args
    if model.model_name_or_path:
        given: Any = args.model_init_kwargs or {}
        args.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
            **given,
        }
    else:
        torch.set_num_threads(1)  # on shared cores a second one makes a tiny step 50 times slower
    recipe.train(setup, run)
