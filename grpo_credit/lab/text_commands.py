"""What `lab strings --text` does. It trains a model, and so loads what trains one."""

import argparse

from grpo_credit.lab import prose, report_prose
from grpo_credit.lab.running import bar, command, finish, mistakes, refuse_out


def run_text(args: argparse.Namespace) -> int:
    """Compare repetition at temperatures of tokens and of whole strings."""
    refuse_out(args)
    with mistakes():
        asked = prose.Asked(args.texts, args.particles, args.training_steps, args.seed)
        found, real = prose.measure(asked, bar("temperatures"))
    return finish(report_prose.findings(found, real, command(), vars(asked)), args)
