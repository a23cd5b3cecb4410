"""The end of a run for a newcomer: a question before and after, a wrong answer by two rules."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from grpo_credit.credit.saved import find_rollouts, load_rollouts
from grpo_credit.credit.userfile import CODE
from grpo_credit.experiments.report.limits import cut
from grpo_credit.experiments.show.picture import picture
from grpo_credit.experiments.show.terminal import print_picture
from grpo_credit.records.files import ANSWERS, read_lines
from grpo_credit.text import in_line, prompt_text, visible

SHOWN = 240  # characters of an answer


def closing(run: Path, rules: Sequence[str], console: Console | None = None) -> None:
    """Print what a run changed in words, and what two rules credit in a wrong completion.

    The question is the first one that is answered right after training and was not before, or else
    the first. The completion is the worst one of the group with the largest spread of rewards,
    among the rollouts that were saved last; where rewards are equal, nothing is shown of it.

    Args:
        run: the run directory.
        rules: the first of them that is not the run's own stands beside that.
        console: where to print; stdout by default.
    """
    console = console or Console()
    if lines := read_lines(run / ANSWERS) if (run / ANSWERS).exists() else []:
        _print_question(lines, console)
    if any((run / "rollouts").glob("*.parquet")):
        path = find_rollouts(run)
        own = load_rollouts(path).credit
        own = rules[-1] if CODE.search(own) else own  # a file's word imports nothing
        other = next(rule for rule in rules if rule != own)
        drawn = picture(run, credit=[own, other], rows=2)
        best, *others = sorted(drawn.completions, key=lambda each: -each.reward)
        if others and others[-1].reward < best.reward:  # else nobody was wrong
            title = f"A wrong answer of {drawn.title.rpartition(', ')[2]}, as two rules see it"
            print_picture(replace(drawn, title=title, completions=others[-1:], dead=0), console)
    console.print(Text(f"\nnext: grpo-credit show {in_line(run)}"), soft_wrap=True)


def _print_question(lines: Sequence[dict[str, Any]], console: Console) -> None:
    first, last = lines[0]["step"], lines[-1]["step"]
    before, after = (
        {str(line["prompt"]): line for line in lines if line["step"] == step}
        for step in (first, last)
    )
    better = [asked for asked, line in after.items()
              if line["right"] and asked in before and not before[asked]["right"]]  # fmt: skip
    asked = next(iter([*better, *after]))
    shown = {"asked": prompt_text(after[asked]["prompt"])}
    if first != last and asked in before:
        shown[f"step {first}"] = before[asked]["completion"]
    shown[f"step {last}"] = after[asked]["completion"]
    console.print(Text("A held-out question", "bold"))
    for name, text in shown.items():
        console.print(Text(f"{name:>9}: {visible(cut(text, SHOWN))}"))
    console.print()
