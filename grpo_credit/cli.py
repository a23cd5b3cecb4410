"""The console command `grpo-credit`. What a verb needs is imported when it runs."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from grpo_credit import __version__
from grpo_credit.errors import TRACEBACK, in_one_line
from grpo_credit.lab.verbs import add_to as add_lab
from grpo_credit.run.commandline import MISTAKES, reveal
from grpo_credit.run.verbs import add_to as add_preflight
from grpo_credit.terminal import console, print_anything
from grpo_credit.text import in_line

_OPTIONS = """options of the strategy, as JSON: '{"alpha": 0.75}'"""
_LIBRARIES = ("trl", "transformers", "torch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code (2 for a user's mistake, 130 for Ctrl-C)."""
    print_anything()
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = _parser().parse_args([word for word in words if word != TRACEBACK])
    asked.traceback = TRACEBACK in words
    try:
        return _verb(asked.verb)(asked)
    except MISTAKES as error:
        if asked.traceback:
            reveal(error)
            raise
        print(f"grpo-credit: error: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ngrpo-credit: stopped", file=sys.stderr)
        return 130


def _verb(verb: str | Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Import what runs a verb, only now: a help is to answer at once."""
    if not isinstance(verb, str):
        return verb
    module, _, name = verb.partition(":")
    return getattr(import_module(module), name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grpo-credit",
        description="Credit assignment for TRL's GRPOTrainer. `grpo-credit VERB --help` shows the "
        "options of a verb and an example.",
    )
    parser.add_argument("--version", action=_Version, help="show the versions and exit")
    parser.add_argument(
        TRACEBACK, action="store_true", help="show where a mistake was found, too; with every verb"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_list(verbs)
    _add_check(verbs)
    _add_show(verbs)
    report = _add(verbs, "report", "write the page of a study again, from its data",
                  "grpo-credit report reports/regex")  # fmt: skip
    report.add_argument(
        "studies", type=Path, nargs="+", metavar="DIR",
        help="directory with report.json; of several, all comparisons are counted together (Holm)",
    )  # fmt: skip
    report.set_defaults(verb=write_report)
    run = _add(verbs, "run", "run a launcher so that Ctrl-C and mistakes end in one line",
               "grpo-credit run accelerate launch recipes/grpo_regex.py")  # fmt: skip
    run.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help="of accelerate or torchrun"
    )
    run.set_defaults(verb=run_launcher)
    add_preflight(verbs)
    add_lab(verbs)
    return parser


class _Version(argparse.Action):
    """Print the versions that a report of a mistake should name."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib.metadata import version

        found = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        print(f"grpo-credit {__version__} ({found})")
        parser.exit()


def _add(verbs: Any, name: str, about: str, example: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _add_list(verbs: Any) -> None:
    listing = _add(verbs, "list", "show the registered rules, or all about one",
                   "grpo-credit list trace")  # fmt: skip
    listing.add_argument(
        "name", nargs="*", help="rules to tell all about: a name, a composition, or pkg.mod:obj "
        "(default: every registered one in a line)",
    )  # fmt: skip
    listing.add_argument("--long", action="store_true", help="tell all about every one")
    listing.set_defaults(verb=show_rules)


def _add_check(verbs: Any) -> None:
    check = _add(verbs, "check", "hold a strategy, yours too, to the laws",
                 "grpo-credit check my_rules:half/seq")  # fmt: skip
    check.add_argument("credit", help="a registered name, a composition, or pkg.mod:obj")
    check.add_argument("--credit_kwargs", metavar="JSON", help=f"{_OPTIONS} (default: its own)")
    check.add_argument("--long", action="store_true", help="name the laws that hold, too")
    check.set_defaults(verb=check_laws)


def _add_show(verbs: Any) -> None:
    show = _add(
        verbs,
        "show",
        "shade the tokens of a run's completions by credit",
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
    show.add_argument("--group", type=int, help="show this group only (default: one of each)")
    show.add_argument(
        "--sort", choices=("credit", "reward"), default="credit",
        help="what comes first: the largest sum of |credit| by the first strategy, or the highest "
        "reward (default: credit)",
    )  # fmt: skip
    show.add_argument("--html", type=Path, metavar="FILE", help="write a page instead of printing")
    show.set_defaults(verb=show_credit)


def show_rules(asked: argparse.Namespace) -> int:
    """Print the registered rules in a line each, or all about some."""
    from grpo_credit.credit import catalogue
    from grpo_credit.credit.registry import list_credit

    if not asked.name and not asked.long:
        catalogue.print_rules(console())
        return 0
    shown = {rule.name: rule for rule in list_credit()} if not asked.name else {}
    for name in asked.name:
        shown |= catalogue.rules_in(name)
    for name, rule in shown.items():
        catalogue.print_rule(name, rule, console())
    return 0


def check_laws(asked: argparse.Namespace) -> int:
    """Print what came of the laws; return 1 if the strategy breaks one that it is held to."""
    from grpo_credit.credit.conformance import examine
    from grpo_credit.credit.conformance_report import print_findings
    from grpo_credit.credit.parse import parse_credit_kwargs, resolve_with

    strategy = resolve_with(asked.credit, parse_credit_kwargs(asked.credit_kwargs))
    findings = list(examine(strategy))
    print_findings(strategy.name, findings, console(), every=asked.long)
    return int(any(found.failed for found in findings))


def show_credit(asked: argparse.Namespace) -> int:
    """Print completions shaded by credit, or write them as a page."""
    from grpo_credit.experiments.show import picture
    from grpo_credit.experiments.show.html import page
    from grpo_credit.experiments.show.terminal import print_picture
    from grpo_credit.records.files import replace_text

    drawn = picture(
        asked.run, asked.step, asked.credit, rows=asked.rows, group=asked.group, by=asked.sort
    )
    if asked.html is None:
        print_picture(drawn, console())
    else:
        replace_text(asked.html, page(drawn))
        print(f"wrote {in_line(asked.html)}")
    return 0


def run_launcher(asked: argparse.Namespace) -> int:
    """Run a launcher; return the exit code of what it launched."""
    from grpo_credit.run.wrapper import launch

    return launch([*asked.words, *([TRACEBACK] if asked.traceback else [])])


def write_report(asked: argparse.Namespace) -> int:
    """Write report.html and report.md from the data beside them; needs no torch."""
    from grpo_credit.experiments.report.page import render

    for study in asked.studies:
        page = render(study, [each for each in asked.studies if each != study])
        print(f"wrote {in_line(page)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
