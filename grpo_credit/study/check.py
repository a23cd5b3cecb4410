"""Ask a recipe whether it would run, in a process that may import torch.

    python -m grpo_credit.study.check RECIPE < command-lines.json

`ask` is the side of the study; what is below it is the side of the recipe.
"""

import contextlib
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_credit.suggest import did_you_mean


def ask(recipe: str, command_lines: Sequence[Sequence[str]]) -> list[str]:
    """Let a recipe check command lines as it would before a run; nothing is written.

    Args:
        recipe: path of the script, which has a `RECIPE`.
        command_lines: options, without the program.

    Returns:
        The names of the held-out numbers that a run of the last command line would measure.

    Raises:
        ValueError: what the recipe would refuse.
    """
    if not Path(recipe).is_file():
        near = [str(path) for path in Path(recipe).parent.glob("*.py")]
        raise ValueError(f"there is no recipe {recipe}.{did_you_mean(recipe, near)}")
    done = subprocess.run(
        [sys.executable, "-m", "grpo_credit.study.check", recipe],
        input=json.dumps([list(line) for line in command_lines]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"{recipe} cannot be asked about its options: {last}")
    answered = json.loads(done.stdout)
    if answered["wrong"]:
        raise ValueError(answered["wrong"])
    return answered["metrics"]


def answer(recipe: str, command_lines: Sequence[list[str]]) -> dict[str, Any]:
    """Check command lines by the recipe in a file; say what is wrong, and what it measures."""
    metrics: list[str] = []
    sys.path.insert(0, str(Path(recipe).resolve().parent))  # as if the recipe were run
    found = runpy.run_path(recipe, run_name="recipe").get("RECIPE")
    if found is None:
        wrong = f"{recipe} has no RECIPE; see grpo_credit.run.recipe.Recipe."
        return {"wrong": wrong, "metrics": metrics}
    try:
        for line in command_lines:
            metrics = found.check(line)
    except (ValueError, OSError, ImportError) as error:
        return {"wrong": f"{Path(recipe).name}: {error}", "metrics": []}
    return {"wrong": "", "metrics": metrics}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(sys.argv[1], json.load(sys.stdin))
    print(json.dumps(found))
