"""A picture in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from grpo_credit.experiments.figures.shading import LEVELS, Token, level
from grpo_credit.experiments.show.picture import Picture
from grpo_credit.text import visible

_POSITIVE, _NEGATIVE = (0, 114, 178), (213, 94, 0)  # told apart by the colour-blind as well
_DEEPEST = 0.65  # of a colour on white, so that black text stays readable


def print_picture(picture: Picture, console: Console) -> None:
    """Print every completion once per strategy.

    Without colours (a pipe, NO_COLOR), a number follows each token that has credit: percent of the
    strategy's scale.
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
    if picture.notice:
        console.print(Text(f"\n{picture.notice}", "bold"))


def _legend(name: str, scale: float, plain: bool) -> Text:
    text = Text(f"{visible(name)}: ")
    if plain:
        return text.append(f"{{100}} is a credit of {scale:.3g}")
    text.append(f"{-scale:.3g} ")
    for shade in range(-LEVELS, LEVELS + 1):
        text.append("  ", _style(shade))
    return text.append(f" {scale:+.3g}")


def _tokens(tokens: Sequence[Token], strategy: int, scale: float, plain: bool) -> Text:
    text = Text()
    for token in tokens:
        credit = token.credit[strategy]
        text.append(visible(token.text), _style(level(credit, scale)) if token.counted else "dim")
        if plain and credit:
            text.append(f"{{{100 * credit / scale:+.0f}}}")
    return text


def _style(shade: int) -> Style:
    colour, depth = _POSITIVE if shade > 0 else _NEGATIVE, _DEEPEST * abs(shade) / LEVELS
    red, green, blue = (round(255 + depth * (part - 255)) for part in colour)
    return Style(color="black", bgcolor=f"rgb({red},{green},{blue})", underline=shade < 0)
