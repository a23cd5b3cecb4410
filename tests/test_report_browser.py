"""The page of a report in a real browser, at two widths, with and without JavaScript."""

import os
import shutil
from pathlib import Path

import pytest
from study_helpers import make_study

from grpo_credit.experiments.report.page import SECTIONS, render
from grpo_credit.experiments.study.collect import collect

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
ARTEFACTS = Path(os.environ.get("ARTEFACTS", Path(__file__).parents[1] / ".artifacts"))
ARTICLES = "article.shaded"


@pytest.fixture(scope="module")
def chromium():
    """Start the system's browser."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        missing(f"none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Render a study of hostile completions, of which some runs failed."""
    states = {("length", 1): "failed", ("length", 2): "waiting"}
    out = tmp_path_factory.mktemp("browser") / "study"
    make_study(out, states=states, recipe=f"recipes/{'long' * 60}.py")
    collect(out)
    return render(out).as_uri()


@pytest.fixture
def visit(chromium, file):
    """Open the page in a context of its own; nothing but itself may be asked for."""
    contexts, said, asked = [], [], []

    def opened(**options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert set(asked) == {file}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_is_kept_as_a_picture(visit, width, scheme):
    page = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(f"document.querySelectorAll('{ARTICLES}').length") > 0
    outside = page.evaluate(
        """width => [...document.querySelectorAll("main *")].filter((element) => {
            const scrolls = element.closest(".scroll, .lines, svg, pre, .tokens, summary");
            return !scrolls && element.getBoundingClientRect().right > width + 1;
        }).map((element) => element.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"report-{width}-{scheme}.png", full_page=True)


def test_the_page_is_no_longer_than_some_screens(visit):
    for width, most in ((1280, 6000), (390, 12000)):
        page = visit(viewport={"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollHeight") <= most


def test_a_table_is_sorted_by_its_columns(visit):
    page = visit()
    table = page.locator("#results table.sortable").first
    head = table.locator("th", has_text="mean").first
    means = lambda: table.locator("tbody tr td:nth-child(3)").all_text_contents()  # noqa: E731
    head.click()
    assert means() == ["0.51", "0.61", "0.708"]
    head.click()
    assert means() == ["0.708", "0.61", "0.51"]
    assert head.get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("javascript", [True, False])
def test_every_section_shows_with_and_without_scripts(visit, javascript):
    page = visit(java_script_enabled=javascript)
    for anchor in SECTIONS:
        section = page.locator(f"#{anchor}")
        assert section.locator("h2").is_visible()
        folded = section.locator(":scope > details")
        assert folded.count() or section.bounding_box()["height"] > 60
    assert page.locator(".filter").first.is_visible() == javascript


def test_the_axis_is_switched_without_scripts_and_by_the_keyboard(visit):
    page = visit(java_script_enabled=False)
    panels = {axis: page.locator(f".by-{axis}") for axis in ("step", "tokens", "seconds")}
    assert [each.is_visible() for each in panels.values()] == [True, False, False]
    page.get_by_text("tokens", exact=True).first.click()
    assert [each.is_visible() for each in panels.values()] == [False, True, False]
    page.keyboard.press("ArrowRight")
    assert [each.is_visible() for each in panels.values()] == [False, False, True]


def test_completions_are_filtered_by_reward_and_step(visit):
    page = visit()
    form = page.locator("#credit .filter")
    total = page.locator(ARTICLES).count()
    assert form.locator("output").text_content() == f"{total} of {total} shown"
    form.get_by_label("reward from").fill("0.9")
    rewards = page.locator(f"{ARTICLES}:visible").evaluate_all(
        "all => all.map(a => a.dataset.reward)"
    )
    assert set(rewards) == {"1"}
    form.get_by_label("step").select_option("4")
    assert page.locator(f"{ARTICLES}:visible").count() == 1
    assert form.locator("output").text_content() == f"1 of {total} shown"
    form.get_by_label("reward from").fill("7")
    assert page.locator(f"{ARTICLES}:visible").count() == 0


def test_the_browser_of_completions_is_searched(visit):
    page = visit()
    page.locator("#completions summary").first.click()
    form = page.locator("#completions .filter")
    form.get_by_label("strategy").select_option("seq")
    form.get_by_label("contains").fill("ONERROR")
    lines = page.locator(".line:visible")
    assert lines.count() == 2  # the first table and the last
    lines.first.locator("summary").click()
    assert "<img src=x onerror=alert(1)>" in lines.first.locator("pre").last.text_content()
    assert page.locator("img").count() == 0


def test_a_token_under_the_pointer_shows_the_credit_of_every_strategy(visit):
    page = visit()
    article = page.locator(ARTICLES).nth(1)  # row 1: tokens a and b, advantage -1
    readout = article.locator(".readout")
    assert readout.text_content() == ""
    article.locator(".tokens").nth(1).locator("i").nth(1).hover()
    # of an advantage of -1: 1/6 for seq, 1/(6 · 2) for length, 1/(6 · 11) for uniform; the largest
    # of 2 has twice that, and for length with one token 2/6
    numbers = ["uniform: -0.0152 (50 %)", "seq: -0.167 (50 %)", "length: -0.0833 (25 %)"]
    assert readout.text_content() == "token 2 “b”   " + "   ·   ".join(numbers)
    assert article.locator("i.on").count() == 3  # the same token in every row
    article.locator(".tokens").first.focus()
    page.keyboard.press("ArrowLeft")
    assert readout.text_content().startswith("token 1 “a”")
    assert article.locator("i.on").all_text_contents() == ["a"] * 3
    page.keyboard.press("ArrowLeft")  # there is none before
    assert readout.text_content().startswith("token 1 “a”")


def test_a_cell_leads_to_its_run(visit):
    page = visit()
    page.get_by_role("link", name="0.610").first.click()
    details = page.locator("details:target")
    assert details.get_attribute("open") is not None
    assert details.get_by_text("python recipe.py --credit=seq --seed=1").is_visible()


def test_everything_is_reached_by_the_keyboard(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#verdict"
    controls = page.locator(".scroll, .lines, .tokens, summary, a, select, input")
    assert controls.evaluate_all("all => all.filter((one) => one.tabIndex < 0).length") == 0
