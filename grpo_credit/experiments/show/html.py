"""A picture as one HTML file: no scripts, nothing from the network, completions as text only."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from grpo_credit.experiments.figures.shading import LEVELS, number, shade
from grpo_credit.experiments.show.picture import Picture, heading


def page(picture: Picture) -> str:
    """Render a picture; works from a file, without JavaScript, in light and dark."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(
        picture=picture, levels=LEVELS, heading=heading, number=number, shade=shade
    )
