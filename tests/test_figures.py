"""Plots in pages and in files: what is drawn where, and that colours, names and bytes are safe."""

from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from grpo_credit.experiments.figures.drawing import inline, save
from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.experiments.figures.palette import MEAN, PALETTE, SEED
from grpo_credit.experiments.figures.panel import Curve, Panel, extent

HOSTILE = "<b>$x^2$&#0067a5 \U0001f600"
ROW = Row(HOSTILE, "0.5", [1.0, 2.0], 1.5, (0.5, 2.5), (1.0, 2.0), strong=False)
TEXT = "{http://www.w3.org/2000/svg}text"


def curve(*points, half=None):
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    return Curve(x, y, MEAN, None if half is None else np.full(len(x), half))


def drawn(plot):
    axes = Figure().add_subplot()
    plot.draw(axes)
    return axes


def test_panels_that_are_compared_have_the_same_axes():
    low, high = curve((0, 0.0), (10, 1.0)), curve((5, 1.0), (20, 3.0), half=1.0)
    room = extent([low, high])
    assert room.tolist() == [[0, 0], [20, 4]]
    one, other = (drawn(Panel("t", "steps", [each], room)) for each in (low, high))
    assert one.get_xlim() == other.get_xlim() == (0, 20)
    assert one.get_ylim() == other.get_ylim() == pytest.approx((-0.2, 4.2))


def test_a_single_point_is_a_dot():
    (alone,) = drawn(Panel("t", "steps", [curve((5, 0.5))])).lines
    (line,) = drawn(Panel("t", "steps", [curve((5, 0.5), (6, 0.5))])).lines
    assert (alone.get_marker(), line.get_marker()) == ("o", "")


@pytest.mark.parametrize("values", [[], [1.0] * 3, [0.0], [1e-9] * 2, [-5.0] * 2, [1e12] * 2])
def test_axes_of_equal_and_of_no_numbers_have_a_width(values):
    axes = drawn(Panel("t", "steps", [curve(*((1, value) for value in values))]))
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert low < high


def test_a_forest_has_room_for_its_reference_its_runs_and_its_intervals():
    assert drawn(Forest("t", "u", [ROW], reference=0)).get_xlim() == pytest.approx((-0.125, 2.625))
    for reference in (None, 0):  # a study of the baseline alone has no differences
        assert inline(Forest("t", "u", [], reference)).startswith("<svg")


@pytest.mark.parametrize(
    "plot",
    [Forest(HOSTILE, HOSTILE, [ROW], 0), Panel(HOSTILE, HOSTILE, [curve((0, 0), (1, 1))])],
    ids=["forest", "panel"],
)
def test_a_page_names_its_own_colours_and_shows_texts_as_they_are(plot, recwarn):
    svg = inline(plot)
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == HOSTILE
    assert HOSTILE in [text.text for text in root.iter(TEXT)]
    styles = [element.get("style", "") for element in root.iter()]
    assert any("var(--accent)" in style for style in styles)
    assert not any("#" in style for style in styles)  # a fixed colour would not turn dark
    assert not any({"id", "clip-path"} & set(element.keys()) for element in root.iter())
    assert "href" not in svg  # plots of a page would lend each other their marks
    assert not list(recwarn)


def test_no_two_colours_of_the_palette_are_equal():
    light = [light for light, _ in PALETTE.values()]
    assert len(set(light)) == len(light)


@pytest.mark.parametrize(
    ("suffix", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")]
)
def test_a_file_is_what_its_suffix_says_and_equal_plots_are_equal_files(suffix, begins, tmp_path):
    one, other = (tmp_path / f"{name}.{suffix}" for name in ("one", "other"))
    plots = [Panel(HOSTILE, "u", [curve((0, 0), (1, 1))]), Panel("b", "u", [])]
    save(one, plots)
    with matplotlib.rc_context({"lines.linewidth": 9, "text.color": "red", "svg.hashsalt": None}):
        save(other, plots)  # a user's own settings change nothing
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().startswith(begins)
    assert set(tmp_path.iterdir()) == {one, other}


def test_a_sheet_has_titles_one_legend_and_no_variables(tmp_path):
    lines = [curve((0, 0), (1, 1)), curve((0, 0), (1, 1))._replace(line=SEED)]
    save(tmp_path / "sheet.svg", [Panel("a", "steps", lines)] * 3)
    root = ElementTree.parse(tmp_path / "sheet.svg").getroot()
    texts = [text.text for text in root.iter(TEXT)]
    assert [texts.count(text) for text in ("a", "steps", "mean", "one seed")] == [3, 3, 1, 1]
    assert "var(" not in (tmp_path / "sheet.svg").read_text(encoding="utf-8")
