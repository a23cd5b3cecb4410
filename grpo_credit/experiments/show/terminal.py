"""A picture in the terminal."""

import io
import math
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from grpo_credit.experiments.figures.shading import LEVELS, Token, level
from grpo_credit.experiments.show.picture import Picture
from grpo_credit.text import visible

_POSITIVE, _NEGATIVE = (0, 114, 178), (213, 94, 0)  # told apart by the colour-blind as well
SETTLED = "│"
UNTRAINED = "×"
_DEEPEST = 0.65  # of a colour on white, so that black text stays readable

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font: {char_height}px monospace; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def print_picture(picture: Picture, console: Console) -> None:
    """Print every completion once per strategy.

    Without colours (a pipe, NO_COLOR), tokens of one credit are a run in brackets, and before it
    stands the credit in percent of the strategy's scale, or × for what is not trained on, such as
    the output of tools. A bar ends what settled the reward.
    """
    plain = console.no_color or console.color_system is None
    console.print(Text(f"{visible(picture.title)}\n", "bold"))
    for name, scale in zip(picture.strategies, picture.scales, strict=True):
        console.print(_legend(name, scale, plain))
    for completion in picture.completions:
        console.print(Text(f"\n{completion.heading}", "bold"))
        console.print(Text(visible(completion.prompt), "dim"))
        for number, name in enumerate(picture.strategies):
            console.print(Text(f"{visible(name)}:", "italic"))
            console.print(_tokens(completion.tokens, number, picture.scales[number], plain))
        if completion.left_out:
            console.print(Text(f"{completion.left_out:,} more tokens", "dim"))
    for notice in filter(None, (picture.about_dead, picture.notice)):
        console.print(Text(f"\n{notice}", "bold"))


def as_svg(picture: Picture) -> str:
    """Return the picture of a terminal 80 columns wide, on white."""
    console = Console(
        record=True, width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor",
    )  # fmt: skip
    print_picture(picture, console)
    return console.export_svg(title="", theme=DEFAULT_TERMINAL_THEME, code_format=SVG)


def _legend(name: str, scale: float, plain: bool) -> Text:
    text = Text(f"{visible(name)}: ")
    if plain:
        return text.append(
            f"+100[...] is a credit of {scale:.3g}, {UNTRAINED}[...] is not trained on"
        )
    text.append(f"{-scale:.3g} ")
    for shade in range(-LEVELS, LEVELS + 1):
        text.append("  ", _style(shade))
    return text.append(f" {scale:+.3g}")


def _tokens(tokens: Sequence[Token], strategy: int, scale: float, plain: bool) -> Text:
    text = Text()
    for mark, run in groupby(tokens, lambda token: _mark(token, strategy, scale)):
        if plain and mark:
            text.append(f"{mark}[")
        for token in run:
            shade = level(token.credit[strategy], scale)
            text.append(visible(token.text), _style(shade) if token.counted else "dim")
            if token.settled:
                text.append(SETTLED)
        if plain and mark:
            text.append("]")
    return text


def _mark(token: Token, strategy: int, scale: float) -> str:
    """Return what stands before a run of such tokens where there are no colours."""
    if not token.counted:
        return UNTRAINED
    percent = _percent(token.credit[strategy], scale)
    return f"{percent:+}" if percent else ""


def _percent(credit: float, scale: float) -> int:
    """Return the share of a scale, rounded away from 0."""
    return int(math.copysign(math.ceil(100 * (abs(credit) / scale)), credit)) if credit else 0


def _style(shade: int) -> Style:
    colour, depth = _POSITIVE if shade > 0 else _NEGATIVE, _DEEPEST * abs(shade) / LEVELS
    red, green, blue = (round(255 + depth * (part - 255)) for part in colour)
    return Style(color="black", bgcolor=f"rgb({red},{green},{blue})", underline=shade < 0)
