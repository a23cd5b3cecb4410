"""From plots to pages and files; every colour and font of a plot is set here."""

import io
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from xml.etree import ElementTree

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grpo_credit.experiments.figures.palette import PALETTE
from grpo_credit.records.files import aside
from grpo_credit.text import visible

COLUMNS = 4  # of a sheet
POINT = 1 / 72  # inch; sizes are in points, which are the units of an SVG's view box
_ANONYMOUS: dict[str, dict[str, Any]] = {  # no date and no version: equal plots are equal files
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "png": {"Software": None},
}
_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
_VARIABLES = {light: f"var(--{name})" for name, light in LIGHT.items()}
_STYLE: dict[Any, Any] = {
    "figure.facecolor": LIGHT["page"], "axes.facecolor": LIGHT["page"],
    "text.color": LIGHT["text"], "axes.labelcolor": LIGHT["dim"], "axes.edgecolor": LIGHT["dim"],
    "xtick.color": LIGHT["dim"], "ytick.color": LIGHT["dim"], "grid.color": LIGHT["line"],
    "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.7, "axes.linewidth": 0.8,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False,
    "xtick.bottom": False, "ytick.left": False, "xtick.labelsize": 11, "ytick.labelsize": 11,
    "axes.labelsize": 11, "axes.titlesize": 12, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 11,
    "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 11, "savefig.dpi": 200,
    "text.parse_math": False,  # a strategy's name is no formula
    "svg.fonttype": "none", "svg.hashsalt": "grpo-credit", "pdf.fonttype": 42,  # texts stay texts
}  # fmt: skip


class Frame(NamedTuple):
    """The size of a plot in a page and the room around its axes, points."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    top: float


class Plot(Protocol):
    """What can be drawn.

    Attributes:
        title: Above it; said to screen readers.
        frame: How much room it takes.
    """

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def frame(self) -> Frame: ...  # noqa: D102

    def draw(self, axes: Axes) -> None:
        """Draw it on axes that have nothing on them yet."""
        ...

    def points(self) -> pd.DataFrame:
        """Return the numbers that are drawn."""
        ...


class Sheet(tuple[Plot, ...]):
    """Plots that belong together, as a notebook shows them."""

    def _repr_html_(self) -> str:
        return "\n".join(map(alone, self))


def inline(plot: Plot) -> Markup:
    """Draw a plot as an `<svg>` element of a page, whose CSS variables are its colours."""
    frame, file = plot.frame, io.BytesIO()
    across = (frame.width - frame.left - frame.right) / frame.width
    up = (frame.height - frame.bottom - frame.top) / frame.height
    with _style():
        figure = Figure(figsize=(frame.width * POINT, frame.height * POINT))
        plot.draw(
            figure.add_axes((frame.left / frame.width, frame.bottom / frame.height, across, up))
        )
        figure.savefig(file, format="svg", transparent=True, metadata=_ANONYMOUS["svg"])
    return _themed(file.getvalue(), plot.title)


def alone(plot: Plot) -> Markup:
    """Draw a plot for a notebook, which has none of the page's variables: by day, with a title."""
    variables = "".join(f"--{name}:{colour};" for name, colour in LIGHT.items())
    return Markup(
        '<figure style="{}background:{};color:{};display:inline-block;margin:.5em;padding:.5em">'
        "<b>{}</b><br>{}</figure>"
    ).format(variables, LIGHT["page"], LIGHT["text"], visible(plot.title), inline(plot))


def save(path: Path, plots: Sequence[Plot]) -> None:
    """Write plots onto one sheet, side by side, with one legend below.

    Args:
        path: The file; its suffix, one of `FORMATS`, says what is written. Equal plots give equal
            bytes.
        plots: One at least.
    """
    frame, columns = plots[0].frame, min(COLUMNS, len(plots))
    rows = -(-len(plots) // columns)
    size = columns * (frame.width + 10) * POINT, (rows * (frame.height + 24) + 20) * POINT
    with _style(), aside(path) as temporary:
        figure = Figure(figsize=size, layout="constrained")
        entries = {}
        for place, plot in enumerate(plots, 1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(visible(plot.title))
            plot.draw(axes)
            handles, labels = axes.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        if entries:
            figure.legend(entries.values(), entries, loc="outside lower left", ncols=len(entries))
        kind = path.suffix[1:]
        figure.savefig(temporary, format=kind, metadata=_ANONYMOUS[kind])


@contextmanager
def _style() -> Generator[None]:
    """Set how plots look, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser has other fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _themed(svg: bytes, title: str) -> Markup:
    """Name colours by the page's variables; leave nothing that has an id or refers to one."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    marks = {each.get("id"): each for each in root.iter(f"{{{_SVG}}}path")}
    for placed in list(root.iter(f"{{{_SVG}}}use")):
        mark = marks[placed.attrib.pop(_LINK)[1:]]
        place = f"translate({placed.attrib.pop('x')} {placed.attrib.pop('y')})"
        placed.tag, style = mark.tag, f"{mark.get('style')}; {placed.get('style')}"
        placed.attrib |= {"d": mark.attrib["d"], "transform": place, "style": style}
    for parent in list(root.iter()):
        for child in parent.findall(f"{{{_SVG}}}defs"):
            parent.remove(child)
        for name in ("id", "clip-path"):
            parent.attrib.pop(name, None)
        if style := parent.get("style"):
            style = re.sub(r"font-family: [^;]*(; )?", "", style)
            parent.set("style", re.sub(r"#\w{6}", lambda match: _VARIABLES[match[0]], style))
    root.attrib |= {"role": "img", "aria-label": visible(title)}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def set_ticks(axes: Axes) -> None:
    """Put a few round numbers along both axes."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, place: compact(value)))


def compact(value: float) -> str:
    """Write the number of a tick.

    Example:
        >>> [compact(v) for v in (0.25, 1500.0, 2_000_000.0, -0.0)]
        ['0.25', '1.5k', '2M', '0']
    """
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}" if value else "0"
