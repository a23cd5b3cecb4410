"""What the verbs `grpo-credit list` and `check` do."""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from grpo_credit.credit import catalogue
from grpo_credit.credit.conformance import LawVerdict, check_with
from grpo_credit.credit.documents import serves
from grpo_credit.credit.parse import parse_credit_kwargs
from grpo_credit.credit.registry import list_credit
from grpo_credit.terminal import console


def show_rules(arguments: argparse.Namespace) -> int:
    """Print the registered rules in a line each, or all about some."""
    rules = [r for r in list_credit() if arguments.stage != "supervised" or serves(r)]
    if not arguments.name and not arguments.long and not arguments.json:
        catalogue.print_rules(rules, console())
        return 0
    shown = {rule.name: rule for rule in rules} if not arguments.name else {}
    for name in arguments.name:
        shown |= catalogue.rules_in(name)
    if arguments.json:
        described = [catalogue.described(name, rule) for name, rule in shown.items()]
        print(json.dumps(described, indent=1, ensure_ascii=False))
        return 0
    for name, rule in shown.items():
        catalogue.print_rule(name, rule, console())
    return 0


def check_laws(arguments: argparse.Namespace) -> int:
    """Print what came of the laws; return 1 if the strategy breaks one that it is held to."""
    options = parse_credit_kwargs(arguments.credit_kwargs)
    laws = check_with(arguments.credit, options, arguments.stage)
    print_findings(laws.name, laws, console(), every=arguments.long)
    return int(bool(laws.broken))


def print_findings(
    name: str, findings: Sequence[LawVerdict], console: Console, *, every: bool = False
) -> None:
    """Print which laws a strategy breaks, and in a line each what it might declare.

    Args:
        name: of the strategy.
        findings: from `conformance.check`.
        console: where to print.
        every: whether to name the laws that hold, too, and what breaks those not promised.
    """
    failed = [law for law in findings if law.failed]
    console.print(Text(f"the laws of {name}", "bold"))
    for (verdict, cause), sentences in _by_cause(findings if every else failed).items():
        for sentence in sentences:
            console.print(Text(f"{verdict}: {sentence}", "bold red" if verdict == "fails" else ""))
        if cause:
            console.print(Padding(Text(cause), (0, 0, 0, 6), expand=False))
    for line in _rest(findings):
        console.print(Text(line))
    console.print(Text(f"{len(failed)} of {len(findings)} laws broken", "bold"))


def _by_cause(findings: Iterable[LawVerdict]) -> dict[tuple[str, str], list[str]]:
    """Return the sentences of the laws by verdict and counterexample."""
    causes: dict[tuple[str, str], list[str]] = {}
    for law in findings:
        causes.setdefault((law.verdict, law.counterexample), []).append(law.sentence)
    return causes


def _rest(findings: Sequence[LawVerdict]) -> Iterator[str]:
    held = sum(law.verdict == "holds" for law in findings)
    yield f"{held} hold: of those that bind every strategy, or that it promises"
    free = [law.declaration for law in findings if law.verdict == "declared otherwise"]
    if free:
        yield f"{len(free)} not promised, and so not asked of it: {', '.join(free)}"
    spare = [law.declaration for law in findings if law.verdict == "holds, though not declared"]
    if spare:
        names = ", ".join(spare).replace("=False", "=True")
        yield f"{len(spare)} more hold and may be declared: {names}"
