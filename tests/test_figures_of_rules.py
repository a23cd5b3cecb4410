"""The scatter of bias and variance, and the map of rules by tasks."""

import math
from xml.etree import ElementTree

import pytest

from grpo_credit.experiments.figures.drawing import inline, save
from grpo_credit.experiments.figures.heat import Heat
from grpo_credit.experiments.figures.scatter import Dot, Scatter

DOTS = [
    Dot("seq", (0.0, 0.0, 0.1), (0.75, 0.7, 0.8)),
    Dot("loo/seq", (0.0, 0.0, 0.1), (0.75, 0.7, 0.8)),
    Dot("<b>$x$", (0.7, 0.65, 0.75), (0.6, 0.5, 0.7)),
]
SCATTER = Scatter("Bias and variance", "bias", "variance", DOTS)
HEAT = Heat("Who finds it", ["<i>a", "b"], ["one", "two"], [[1.0, math.nan], [0.25, 0.5]], 0.5, 0.5)


def texts(plot):
    """Return the texts of a drawing, with the height of each."""
    found = ElementTree.fromstring(inline(plot)).iter("{http://www.w3.org/2000/svg}text")
    return [(each.text, each) for each in found]


@pytest.mark.parametrize("plot", [SCATTER, HEAT, Scatter("", "x", "y", [])])
def test_it_is_drawn_in_the_colours_of_the_page_and_saved(plot, tmp_path):
    drawn = inline(plot)
    assert "var(--" in drawn
    assert "#" not in drawn.replace("&#", "")
    for kind in ("svg", "pdf", "png"):
        save(tmp_path / f"plot.{kind}", [plot])


def test_names_are_texts_and_those_of_equal_dots_are_apart():
    names = {text: each.get("transform") for text, each in texts(SCATTER)}
    assert "<b>$x$" in names
    assert names["seq"] != names["loo/seq"]


def test_a_cell_has_its_number_and_one_without_a_dash():
    found = [text for text, _ in texts(HEAT)]
    assert [found.count(each) for each in ("1.00", "0.25", "0.50", "–", "<i>a")] == [1] * 5
    opacities = [each.get("style") for each in ElementTree.fromstring(inline(HEAT)).iter()
                 if "opacity" in (each.get("style") or "")]  # fmt: skip
    assert any("opacity: 0.7" in style for style in opacities)  # as far from chance as can be


def test_the_numbers_are_at_hand():
    assert list(SCATTER.points()["strategy"]) == ["seq", "loo/seq", "<b>$x$"]
    assert list(SCATTER.points()["bias, high"]) == [0.1, 0.1, 0.75]
    assert list(HEAT.points().columns) == ["strategy", "one", "two"]
    assert HEAT.points()["two"].isna().tolist() == [True, False]
