"""What the verb `grpo-credit show` does."""

import argparse

from grpo_credit.experiments.html import render
from grpo_credit.experiments.show.picture import Picture, picture
from grpo_credit.experiments.show.terminal import print_picture
from grpo_credit.records.files import replace_text
from grpo_credit.terminal import console
from grpo_credit.text import in_line


def show_credit(args: argparse.Namespace) -> int:
    """Print completions shaded by credit, or write them as a page."""
    drawn = picture(
        args.run, args.step, args.credit, rows=args.rows, group=args.group, by=args.sort
    )
    if args.html is None:
        print_picture(drawn, console())
    else:
        replace_text(args.html, page(drawn))
        print(f"wrote {in_line(args.html)}")
    return 0


def page(picture: Picture) -> str:
    """Render one HTML file, which works without JavaScript or network, in light and dark."""
    title = f"{picture.title}: credit by token"
    return render("experiments/show/page.html", title=title, picture=picture)
