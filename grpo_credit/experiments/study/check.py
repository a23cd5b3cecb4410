"""Ask a recipe whether it would run, in a process that may import torch.

    python -m grpo_credit.experiments.study.check RECIPE < command-lines.json

`ask` is the side of the study; what is below it is the side of the recipe.
"""

import contextlib
import json
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_credit.credit.userfile import load_recipe
from grpo_credit.errors import in_one_line
from grpo_credit.run.commandline import MISTAKES


def ask(recipe: str, command_lines: Sequence[Sequence[str]]) -> list[str]:
    """Let a recipe check command lines as it would before a run; nothing is written.

    Args:
        recipe: path of the script, which has a `RECIPE`.
        command_lines: options, without the program.

    Returns:
        The names of the held-out numbers that a run of the last command line would measure.

    Raises:
        ValueError: what the recipe would refuse; its traceback is a note to the error.
    """
    done = subprocess.run(
        [sys.executable, "-m", "grpo_credit.experiments.study.check", recipe],
        input=json.dumps([list(line) for line in command_lines]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"{recipe} cannot be asked about its options: {last}")
    answer = json.loads(done.stdout)
    if answer["wrong"]:
        error = ValueError(answer["wrong"])
        error.add_note(done.stderr)
        raise error
    return answer["metrics"]


def answer(recipe: str, command_lines: Sequence[list[str]]) -> dict[str, Any]:
    """Check command lines by the recipe in a file; say what is wrong, and what it measures."""
    metrics: list[str] = []
    name = ""  # what is wrong with the file itself says it
    try:
        checked = load_recipe(Path(recipe))
        name = f"{Path(recipe).name}: "
        for line in command_lines:
            metrics = checked.check(line)
    except MISTAKES as error:
        traceback.print_exc()
        return {"wrong": f"{name}{in_one_line(error, recipe)}", "metrics": []}
    return {"wrong": "", "metrics": metrics}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answered = answer(sys.argv[1], json.load(sys.stdin))
    print(json.dumps(answered))
