"""A picture as one HTML file: no scripts, nothing from the network, completions as text only."""

from grpo_credit.experiments.html import render
from grpo_credit.experiments.show.picture import Picture


def page(picture: Picture) -> str:
    """Render a picture; works from a file, without JavaScript, in light and dark."""
    title = f"{picture.title}: credit by token"
    return render("experiments/show/page.html", title=title, picture=picture)
