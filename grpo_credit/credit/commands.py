"""What the verbs `grpo-credit list` and `check` do."""

import argparse

from grpo_credit.credit import catalogue
from grpo_credit.credit.conformance import examine
from grpo_credit.credit.conformance_report import print_findings
from grpo_credit.credit.parse import parse_credit_kwargs, resolve_with
from grpo_credit.credit.registry import list_credit
from grpo_credit.terminal import console


def show_rules(asked: argparse.Namespace) -> int:
    """Print the registered rules in a line each, or all about some."""
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
    strategy = resolve_with(asked.credit, parse_credit_kwargs(asked.credit_kwargs))
    findings = list(examine(strategy))
    print_findings(strategy.name, findings, console(), every=asked.long)
    return int(any(found.failed for found in findings))
