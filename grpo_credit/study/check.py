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

from grpo_credit.suggest import did_you_mean


def ask(recipe: str, command_lines: Sequence[Sequence[str]]) -> None:
    """Let a recipe check command lines as it would before a run; nothing is written.

    Args:
        recipe: path of the script, which has a `RECIPE`.
        command_lines: options, without the program.

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
    if wrong := json.loads(done.stdout):
        raise ValueError(wrong)


def answer(recipe: str, command_lines: Sequence[list[str]]) -> str:
    """Check command lines by the recipe in a file; return what is wrong, or nothing."""
    sys.path.insert(0, str(Path(recipe).resolve().parent))  # as if the recipe were run
    found = runpy.run_path(recipe, run_name="recipe").get("RECIPE")
    if found is None:
        return f"{recipe} has no RECIPE; see grpo_credit.run.recipe.Recipe."
    try:
        for line in command_lines:
            found.check(line)
    except (ValueError, OSError, ImportError) as error:
        return f"{Path(recipe).name}: {error}"
    return ""


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(sys.argv[1], json.load(sys.stdin))
    print(json.dumps(found))
