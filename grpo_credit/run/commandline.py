"""A recipe's command line: a short help without heavy imports, and mistakes told in one line."""

import argparse
import dataclasses
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from grpo_credit.errors import TRACEBACK, in_one_line

MISTAKES = (ValueError, OSError, ImportError, SyntaxError)


def short_help(prog: str, description: str, *options: Any, host: str = "GRPOConfig") -> str:
    """Render the options of plain dataclasses, such as a recipe's own, by `metadata["help"]`.

    `host` is TRL's configuration, whose options work too.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        usage=f"{prog} [--config FILE.yaml] [options]",
        epilog=f"Every option of TRL's {host} and ModelConfig works too: --help-all lists them.",
    )
    group = parser.add_argument_group("options")
    for kind in options:
        for field in dataclasses.fields(kind):
            unsaid = (None, False, "", dataclasses.MISSING)  # the last where a factory makes it
            default = "" if field.default in unsaid else f" (default: {field.default})"
            text = (field.metadata["help"] + default).replace("%", "%%")
            group.add_argument(f"--{field.name}", help=text, metavar=field.name.upper())
    return parser.format_help()


@contextmanager
def mistakes_in_one_line(
    prog: str, arguments: Sequence[str] = (), script: str = ""
) -> Generator[None, None, None]:
    """Turn what a user got wrong into one line on stderr and exit code 2.

    To be put around parsing and checking only: in training, an error is no mistake of the command
    line and keeps its traceback. So it does with --traceback among the `arguments`. `script` is the
    file of a recipe, whose own `raise` is meant for its user.
    """
    try:
        yield
    except MISTAKES as error:
        if TRACEBACK in arguments:
            reveal(error)
            raise
        if "torch" not in sys.modules or _is_main():  # else there are no ranks yet
            print(f"{prog}: error: {in_one_line(error, script)}", file=sys.stderr)
        raise SystemExit(2) from None


def reveal(error: BaseException | None) -> None:
    """Let a traceback show what an error was made of: `raise ... from None` hides that."""
    while error is not None:
        error.__suppress_context__ = False
        error = error.__cause__ or error.__context__


def _is_main() -> bool:
    from grpo_credit.records.ranks import is_main

    return is_main()
