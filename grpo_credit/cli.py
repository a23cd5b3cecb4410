"""The console command `grpo-credit`. What a verb needs is imported when it runs."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import shtab

from grpo_credit import __version__
from grpo_credit.errors import TRACEBACK, in_one_line
from grpo_credit.lab.verbs import add_to as add_lab
from grpo_credit.run.commandline import MISTAKES, reveal
from grpo_credit.run.verbs import add_to as add_preflight
from grpo_credit.run.verbs import add_verb
from grpo_credit.terminal import print_anything

_OPTIONS = """options of the strategy, as JSON: '{"alpha": 0.75}'"""
PROGRAM = "grpo-credit"
_LIBRARIES = ("trl", "transformers", "torch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code (2 for a user's mistake, 130 for Ctrl-C)."""
    print_anything()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["ablate"]:  # whose options are its own and a recipe's
        return _runner("grpo_credit.experiments.study.ablate:main")(words[1:], [PROGRAM, *words])
    args = _parser().parse_args([word for word in words if word != TRACEBACK])
    args.traceback = TRACEBACK in words
    try:
        return _runner(args.verb)(args)
    except MISTAKES as error:
        if args.traceback:
            reveal(error)
            raise
        print(f"grpo-credit: error: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ngrpo-credit: stopped", file=sys.stderr)
        return 130


def _runner(verb: str) -> Callable[..., int]:
    """Import what runs a verb, only now: a help is to answer at once."""
    module, _, name = verb.partition(":")
    return getattr(import_module(module), name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Credit assignment for TRL's GRPOTrainer. `grpo-credit VERB --help` shows the "
        "options of a verb and an example.",
    )
    parser.add_argument("--version", action=_Version, help="show the versions and exit")
    parser.add_argument(
        TRACEBACK, action="store_true", help="show where a mistake was found, too; with every verb"
    )
    shtab.add_argument_to(parser, "--print-completion", help="print a shell's completion script")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_list(verbs)
    _add_check(verbs)
    _add_show(verbs)
    add_verb(
        verbs, "ablate", "compare strategies: strategies × seeds of a recipe, each a process",
        "grpo-credit ablate --recipe grpo_regex.py --credit seq dapo --seeds 6 --out reports/regex",
    )  # fmt: skip
    report = add_verb(
        verbs, "report", "write the page of a study again, from its data",
        "grpo-credit report reports/regex",
    )  # fmt: skip
    report.add_argument(
        "studies", type=Path, nargs="+", metavar="DIR",
        help="directory with report.json; of several, all comparisons are counted together (Holm)",
    )  # fmt: skip
    report.add_argument(
        "--format", choices=("html", "md", "tex"), default="html",
        help="html: the page, its figures and tables, as files; md, tex: print it, or its tables",
    )  # fmt: skip
    report.add_argument("--open", action="store_true", help="open the page in a browser")
    report.set_defaults(verb="grpo_credit.experiments.report.page:write_report")
    compare = add_verb(
        verbs, "compare", "show what two runs differ in, and their held-out numbers",
        "grpo-credit compare runs/seq runs/dapo",
    )  # fmt: skip
    compare.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="run directory")
    compare.add_argument("--json", action="store_true", help="print it for programs")
    compare.set_defaults(verb="grpo_credit.experiments.compare:compare_runs")
    run = add_verb(
        verbs, "run", "run a launcher so that Ctrl-C and mistakes end in one line",
        "grpo-credit run accelerate launch recipes/grpo_regex.py",
    )  # fmt: skip
    run.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help="of accelerate or torchrun"
    )
    run.set_defaults(verb="grpo_credit.run.wrapper:run_launcher")
    add_preflight(verbs)
    add_lab(verbs)
    return parser


class _Version(argparse.Action):
    """Print the versions that a report of a mistake should name."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib.metadata import version

        versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        print(f"grpo-credit {__version__} ({versions})")
        parser.exit()


def _add_list(verbs: Any) -> None:
    listing = add_verb(
        verbs, "list", "show the registered rules, or all about one",
        "grpo-credit list trace",
    )  # fmt: skip
    listing.add_argument(
        "name", nargs="*", help="rules to tell all about: a name, a composition, or pkg.mod:obj "
        "(default: every registered one in a line)",
    )  # fmt: skip
    listing.add_argument("--long", action="store_true", help="tell all about every one")
    listing.add_argument("--json", action="store_true", help="print it for programs")
    _add_stage(listing, "show the rules that serve it alone")
    listing.set_defaults(verb="grpo_credit.credit.commands:show_rules")


def _add_check(verbs: Any) -> None:
    check = add_verb(
        verbs, "check", "hold a strategy, yours too, to the laws",
        "grpo-credit check my_rules:half/seq",
    )  # fmt: skip
    check.add_argument("credit", help="a registered name, a composition, or pkg.mod:obj")
    check.add_argument("--credit_kwargs", metavar="JSON", help=f"{_OPTIONS} (default: its own)")
    check.add_argument("--long", action="store_true", help="name the laws that hold, too")
    _add_stage(check, "try it on the documents of supervised training instead of completions")
    check.set_defaults(verb="grpo_credit.credit.commands:check_laws")


def _add_stage(parser: argparse.ArgumentParser, about: str) -> None:
    stages = ("alignment", "supervised")
    parser.add_argument(
        "--stage", choices=stages, default=stages[0],
        help=f"with 'supervised': {about} (default: alignment)",
    )  # fmt: skip


def _add_show(verbs: Any) -> None:
    show = add_verb(
        verbs,
        "show",
        "shade the tokens of a run's completions, or documents, by credit",
        "grpo-credit show runs/mine --credit seq decided/seq --html credit.html",
    )
    show.add_argument("run", type=Path, help="directory of a run with --save_rollouts=N")
    show.add_argument("--step", type=int, help="optimizer step (default: the last one saved)")
    show.add_argument(
        "--credit", nargs="+", default=(), metavar="NAME",
        help="strategies to compare (default: the run's own and even/dapo); with options as "
        """'NAME {"alpha": 0.75}'""",
    )  # fmt: skip
    show.add_argument("--rows", type=int, default=8, help="completions to show (default: 8)")
    show.add_argument("--group", type=int, help="show this group only (default: all with credit)")
    show.add_argument("--html", type=Path, metavar="FILE", help="write a page instead of printing")
    show.add_argument("--svg", type=Path, metavar="FILE", help="write a figure instead of printing")
    show.set_defaults(verb="grpo_credit.experiments.show.command:show_credit")


if __name__ == "__main__":
    sys.exit(main())
