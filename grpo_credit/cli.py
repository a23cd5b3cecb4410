"""The console command `grpo-credit`. What a verb needs is imported when it runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_credit.lab.verbs import add_to as add_lab
from grpo_credit.preflight.verbs import add_to as add_preflight

_OPTIONS = """options of the strategy, as JSON: '{"alpha": 0.75}'"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code (2 for a user's mistake)."""
    asked = _parser().parse_args(arguments)
    from grpo_credit.errors import CreditError

    try:
        return asked.verb(asked)
    except (CreditError, OSError) as error:
        print(f"grpo-credit: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grpo-credit", description="Credit assignment for TRL's GRPOTrainer."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="show the registered strategies")
    listing.set_defaults(verb=lambda _: show_strategies())

    check = verbs.add_parser("check", help="hold a strategy, yours too, to the laws")
    check.add_argument("credit", help="a registered name, a composition, or pkg.mod:obj")
    check.add_argument("--credit_kwargs", metavar="JSON", help=_OPTIONS)
    check.set_defaults(verb=check_laws)

    show = verbs.add_parser("show", help="shade the tokens of a run's completions by credit")
    show.add_argument("run", type=Path, help="directory of a run with --save_rollouts=N")
    show.add_argument("--step", type=int, help="optimizer step (default: the last one saved)")
    show.add_argument(
        "--credit", nargs="+", default=(), metavar="NAME",
        help="strategies to compare (default: the run's own and even/dapo); with options as "
        """'NAME {"alpha": 0.75}'""",
    )  # fmt: skip
    show.add_argument("--rows", type=int, default=8, help="completions to show (default: 8)")
    show.add_argument("--group", type=int, help="show this group only")
    show.add_argument(
        "--sort", choices=("credit", "reward"), default="credit",
        help="what comes first: the largest sum of |credit| by the first strategy, or the highest "
        "reward (default: credit)",
    )  # fmt: skip
    show.add_argument("--html", type=Path, metavar="FILE", help="write a page instead of printing")
    show.set_defaults(verb=show_credit)

    report = verbs.add_parser("report", help="write the page of a study again, from its data")
    report.add_argument(
        "studies", type=Path, nargs="+", metavar="DIR",
        help="directory with report.json; of several, all comparisons are counted together (Holm)",
    )  # fmt: skip
    report.set_defaults(verb=write_report)

    add_preflight(verbs)
    add_lab(verbs)
    return parser


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)


def show_strategies() -> int:
    """Print every registered rule: name, one line, formula, needs, TRL twin, paper."""
    from rich.markup import escape
    from rich.table import Table

    from grpo_credit.registry import list_credit
    from grpo_credit.resolve import DEFAULT_AGGREGATION, DEFAULT_ALLOCATION

    table = Table(title="credit = allocation x aggregation", title_justify="left", show_lines=True)
    for column in ("--credit", "what it says", "formula", "needs", "TRL loss_type", "source"):
        table.add_column(column, overflow="fold")
    for rule in list_credit():
        name = rule.name if rule.kind == "aggregation" else f"{rule.name}/…"
        cells = (name, rule.summary, rule.formula, ", ".join(sorted(rule.needs)) or "-",
                 rule.trl or "-", rule.paper or "-")  # fmt: skip
        table.add_row(*map(escape, cells))
    console = _console()
    console.print(table)
    console.print(
        f"N completions, L_i their lengths, L_max the limit; totals are over the optimizer step.\n"
        f"Name one as AGGREGATION or ALLOCATION/AGGREGATION (without: {DEFAULT_ALLOCATION}, "
        f"{DEFAULT_AGGREGATION}); your own function as pkg.mod:obj.",
        highlight=False,
    )
    return 0


def check_laws(asked: argparse.Namespace) -> int:
    """Print what came of each law; return 1 if the strategy breaks one that it is held to."""
    from rich.markup import escape
    from rich.table import Table

    from grpo_credit.conformance import examine
    from grpo_credit.resolve import parse_credit_kwargs, resolve_credit

    strategy = resolve_credit(asked.credit, **parse_credit_kwargs(asked.credit_kwargs))
    findings = list(examine(strategy))
    table = Table(title=f"the laws of {escape(strategy.name)}", title_justify="left")
    for column in ("law", "verdict", "declared", "smallest counterexample"):
        table.add_column(column, overflow="fold")
    before = ""
    for found in findings:
        repeated = found.counterexample and found.counterexample == before
        before = found.counterexample
        cells = (
            found.sentence,
            found.verdict,
            found.declaration,
            "as above" if repeated else before,
        )
        table.add_row(*map(escape, cells), style="bold red" if found.failed else None)
    console = _console()
    console.print(table)
    broken = sum(found.failed for found in findings)
    console.print(f"{broken} of {len(findings)} laws broken", highlight=False)
    return int(broken > 0)


def show_credit(asked: argparse.Namespace) -> int:
    """Print completions shaded by credit, or write them as a page."""
    from grpo_credit.show import picture
    from grpo_credit.show.html import page
    from grpo_credit.show.terminal import print_picture

    drawn = picture(
        asked.run, asked.step, asked.credit, rows=asked.rows, group=asked.group, by=asked.sort
    )
    if asked.html is None:
        print_picture(drawn, _console())
    else:
        asked.html.write_text(page(drawn), encoding="utf-8")
        print(f"wrote {asked.html}")
    return 0


def write_report(asked: argparse.Namespace) -> int:
    """Write report.html and report.md from the data beside them; needs no torch."""
    from grpo_credit.report.page import render

    for study in asked.studies:
        print(f"wrote {render(study, [each for each in asked.studies if each != study])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
