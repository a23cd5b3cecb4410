"""Several figures on one sheet: an SVG file of its own, to be shown as a picture."""

import re
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from grpo_credit.experiments.figures.axes import label

TITLE, GAP = 24, 16


def sheet(
    title: str,
    figures: Sequence[tuple[str, Markup]],
    size: tuple[float, float],
    columns: int,
    style: str,
) -> Markup:
    """Lay out figures in rows.

    Args:
        title: said to screen readers.
        figures: a title and an `<svg>` element each, as this package draws them.
        size: width and height that each is given; a taller one is shrunk into it.
        columns: figures in a row.
        style: CSS rules; ours, never a study's.

    Returns:
        An `<svg>` document.
    """
    wide, high = size[0] + GAP, size[1] + TITLE + GAP
    columns = min(columns, max(1, len(figures)))
    rows = -(-len(figures) // columns)
    body = [
        _placed(name, svg, GAP + wide * (n % columns), GAP + high * (n // columns), size)
        for n, (name, svg) in enumerate(figures)
    ]
    width, height = GAP + wide * columns, GAP + high * rows
    return Markup(
        f'<svg role="img" aria-label="{escape(title)}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg"><style>{style}'
        '</style><rect class="sheet" width="100%" height="100%"/>'
        f"{''.join(body)}</svg>"
    )


def _placed(name: str, svg: Markup, x: float, y: float, size: tuple[float, float]) -> str:
    place = f'x="{x:g}" y="{y + TITLE:g}" width="{size[0]:g}" height="{size[1]:g}"'
    inner = str(svg).replace("<svg ", f'<svg {place} preserveAspectRatio="xMidYMin" ', 1)
    return label("label", x, y + 14, name) + inner


def literal(css: str) -> Markup:
    """Write the colours of CSS variables into rules: what makes a PDF of an SVG knows none.

    Args:
        css: ours; a `:root` with light colours, one with dark ones, and the rules.
    """
    roots, _, rules = css.partition("} }\n")

    def written(root: str) -> str:
        colours = dict(re.findall(r"--(\w+): ([^;]+);", root))
        return re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], rules)

    light, dark = map(written, roots.split("@media"))
    return Markup(f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
