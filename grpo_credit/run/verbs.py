"""The verbs about runs: `grpo-credit plan`, `preflight`, `attack`, `recipes`, `recipe`, `new`."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

from grpo_credit.credit.userfile import IN_A_SCRIPT


def add_verb(verbs: Any, name: str, about: str, example: str) -> argparse.ArgumentParser:
    """Add a verb to a command, described by what it does and an example."""
    return verbs.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def add_to(verbs: Any) -> None:
    """Add the verbs to a command."""
    no_recipe = textwrap.fill(
        f"A script that trains is no recipe and is not run. {IN_A_SCRIPT}", 78
    )
    for name, about in (
        ("plan", "say what a recipe's options mean, without training"),
        ("preflight", "sample a few groups and say why a recipe would not learn"),
    ):
        example = f"grpo-credit {name} recipes/grpo_regex.py --credit=seq"
        parser = add_verb(verbs, name, about, f"{example}\n\n{textwrap.fill(no_recipe, 78)}")
        parser.add_argument("--json", action="store_true", help="print it for programs")
        parser.add_argument("recipe", type=Path, help="a recipe, such as recipes/grpo_regex.py")
        parser.add_argument(
            "options", nargs=argparse.REMAINDER,
            help="the options that it is to be started with (default: its own)",
        )  # fmt: skip
        parser.set_defaults(verb=f"grpo_credit.run.commands:run_{name}")
    _add_attack(verbs)
    _add_shipped(verbs)


def _add_shipped(verbs: Any) -> None:
    listing = add_verb(
        verbs, "recipes", "show the recipes and configurations that come with the package",
        "grpo-credit recipes",
    )  # fmt: skip
    listing.set_defaults(verb="grpo_credit.run.shipped:show_recipes")
    recipe = add_verb(
        verbs, "recipe", "print one of them, or copy it here", "grpo-credit recipe grpo_math --copy"
    )
    recipe.add_argument("name", help="as `grpo-credit recipes` shows it")
    recipe.add_argument("--copy", action="store_true", help="write it into this folder instead")
    recipe.set_defaults(verb="grpo_credit.run.shipped:show_recipe")
    new = add_verb(
        verbs, "new", "write a commented start of a rule or a recipe of your own",
        "grpo-credit new rule my_rules.py",
    )  # fmt: skip
    new.add_argument("kind", choices=("rule", "recipe"))
    new.add_argument("file", type=Path, help="to write; one that is there is left alone")
    new.set_defaults(verb="grpo_credit.run.shipped:write_start")


def _add_attack(verbs: Any) -> None:
    parser = add_verb(
        verbs, "attack", "find what a reward pays without the job being done",
        "grpo-credit attack my_rewards:right --dataset_name train.jsonl\n"
        """  grpo-credit attack rewards:RegexReward --reward_kwargs '{"pattern": "<a>.+</a>"}'"""
        "\n\nThe exit code is 1 if it pays for anything of that kind, else 0.",
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
    parser.set_defaults(verb="grpo_credit.run.commands:run_attack")
