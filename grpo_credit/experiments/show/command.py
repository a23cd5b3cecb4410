"""What the verb `grpo-credit show` does."""

import argparse

from grpo_credit.experiments.show.html import page
from grpo_credit.experiments.show.picture import picture
from grpo_credit.experiments.show.terminal import print_picture
from grpo_credit.records.files import replace_text
from grpo_credit.terminal import console
from grpo_credit.text import in_line


def show_credit(asked: argparse.Namespace) -> int:
    """Print completions shaded by credit, or write them as a page."""
    drawn = picture(
        asked.run, asked.step, asked.credit, rows=asked.rows, group=asked.group, by=asked.sort
    )
    if asked.html is None:
        print_picture(drawn, console())
    else:
        replace_text(asked.html, page(drawn))
        print(f"wrote {in_line(asked.html)}")
    return 0
