"""The console command `grpo-credit`."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code (2 for a user's mistake)."""
    parser = argparse.ArgumentParser(
        prog="grpo-credit", description="Credit assignment for TRL's GRPOTrainer."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="show the registered strategies")
    parser.parse_args(arguments)
    return show_strategies()


def show_strategies() -> int:
    """Print every registered rule: name, one line, formula, needs, TRL twin, paper."""
    from rich.console import Console
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
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(
        f"N completions, L_i their lengths, L_max the limit; totals are over the optimizer step.\n"
        f"Name one as AGGREGATION or ALLOCATION/AGGREGATION (without: {DEFAULT_ALLOCATION}, "
        f"{DEFAULT_AGGREGATION}); your own function as pkg.mod:obj.",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
