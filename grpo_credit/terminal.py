"""How wide a command prints."""

import os
import sys
from typing import Any

PIPED = 140  # columns of a file or a pipe, where nobody has named a width


def console(*, stderr: bool = False) -> Any:
    """Return a console as wide as the terminal, or as COLUMNS says.

    Rich takes both by itself; without either it would cut a table in a file to 80 columns.

    Args:
        stderr: whether it prints to stderr.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    named = os.environ.get("COLUMNS", "").isdigit()
    return Console(stderr=stderr, width=None if named or stream.isatty() else PIPED)
