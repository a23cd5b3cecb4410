"""What the verb `grpo-credit show` does."""

import argparse

from grpo_credit.experiments.html import render
from grpo_credit.experiments.show.picture import Picture, picture
from grpo_credit.experiments.show.terminal import as_svg, print_picture
from grpo_credit.records.files import replace_text
from grpo_credit.terminal import console
from grpo_credit.text import in_line


def show_credit(args: argparse.Namespace) -> int:
    """Print completions shaded by credit, or write them as a page."""
    drawn = picture(args.run, args.step, args.credit, rows=args.rows, group=args.group)
    files = {args.html: page, args.svg: as_svg}
    for file in filter(None, files):
        replace_text(file, files[file](drawn))
        print(f"wrote {in_line(file)}")
    if not any(files):
        print_picture(drawn, console())
    return 0


def page(picture: Picture) -> str:
    """Render one HTML file, which works without JavaScript or network, in light and dark."""
    title = f"{picture.title}: credit by token"
    return render("experiments/show/page.html", title=title, picture=picture)
