"""What every verb of the lab does before it measures, and after."""

import argparse
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from tqdm import tqdm

from grpo_credit.errors import CreditError
from grpo_credit.lab.output import Findings, as_json, refuse_taken, show, write
from grpo_credit.lab.sampling import Progress
from grpo_credit.text import in_line


def command() -> str:
    """Return the command line that was typed."""
    return shlex.join(["grpo-credit", *sys.argv[1:]])


def bar(label: str) -> Progress:
    """Return what shows how far a loop is."""
    seconds = 0.1 if sys.stderr.isatty() else 10  # between two lines of a log
    return lambda steps: tqdm(steps, desc=label, mininterval=seconds)


def silent(label: str) -> Progress:
    """Show nothing, where a `bar` would show how far a loop is."""
    return iter


@contextmanager
def mistakes() -> Generator[None]:
    """Say what is wrong with what was asked in one line, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise CreditError(str(error)) from None


def refuse_out(args: argparse.Namespace) -> None:
    """Refuse an `--out` that holds findings, before anything is measured.

    Raises:
        FileExistsError: naming it.
    """
    if args.out is not None:
        refuse_taken(args.out)


def finish(findings: Findings, args: argparse.Namespace) -> int:
    """Show findings, and write them where `--out` says."""
    if args.json:
        print(as_json(findings), end="")
    else:
        show(findings, Console())
    if args.out is not None:
        print(f"wrote {in_line(write(findings, args.out))}", file=sys.stderr if args.json else None)
    return 0
