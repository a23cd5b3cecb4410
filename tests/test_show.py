"""Completions shaded by credit, in the terminal and as a page."""

import io
import math
import re
from xml.etree import ElementTree

import pytest
import torch
from html_reader import Read
from rich.console import Console
from saved_helpers import HOSTILE, PROMPTS, TOKENS, rollouts

from grpo_credit import CreditError, cli, compute_credit
from grpo_credit.credit.saved import save_rollouts
from grpo_credit.experiments.figures.shading import LEVELS, Token, level
from grpo_credit.experiments.show.command import page
from grpo_credit.experiments.show.picture import picture
from grpo_credit.experiments.show.terminal import _percent, _tokens, print_picture
from grpo_credit.text import visible


@pytest.fixture
def run(tmp_path):
    """Make a run directory with steps 9 and 10, the second of hostile completions."""
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    folder = tmp_path / "run" / "rollouts"
    save_rollouts(folder / "rollouts_00009.parquet", rollouts(), PROMPTS, [["t"] * 11] * 6, "seq")
    save_rollouts(folder / "rollouts_00010.parquet", rollouts(), PROMPTS, TOKENS, "even/seq")
    (folder / "rollouts_later.parquet").touch()
    return tmp_path / "run"


# ---- what is shown ----------------------------------------------------------------------------


def test_the_runs_own_strategy_is_shown_beside_even(run):
    drawn = picture(run)
    assert (drawn.title, drawn.strategies) == ("run, step 10", ["even/seq", "even/dapo"])
    # seq: 1/N, N = 6 (row 3 twice); dapo: 1/Σ L, 11 + 2 + 3 + 2·1 = 18; the largest |A| is 2
    assert drawn.scales == pytest.approx([2 / 6, 2 / 18])
    shown = {completion.row: completion for completion in drawn.completions}
    assert shown[3].tokens[0].credit == pytest.approx([2 / 6, 2 / 18])
    assert shown[1].tokens[1].credit == pytest.approx([-1 / 6, -1 / 18])
    assert picture(run, group=2).completions[0].tokens == []


def test_of_each_group_the_best_stands_beside_the_worst(run):
    # rewards: 1, 0 | none, 0.5 | 0.25, which has no token; row 5 is not in the window
    assert [c.row for c in picture(run).completions] == [0, 1, 3, 2]
    assert [c.row for c in picture(run, rows=3).completions] == [0, 1, 3]
    assert [c.row for c in picture(run, group=1).completions] == [3, 2]


def test_groups_without_credit_are_counted_and_shown_if_asked_for(run):
    drawn = picture(run)
    assert drawn.about_dead == "1 more group has no credit; --group=N shows one."
    assert drawn.about_dead in page(drawn)
    assert drawn.about_dead in printed(drawn)
    asked = picture(run, group=2)
    assert ([c.row for c in asked.completions], asked.about_dead) == ([4], "")


def test_a_bar_ends_the_token_that_settled_the_reward(tmp_path):
    (tmp_path / "rollouts").mkdir()
    settled = rollouts(decided=torch.tensor([[11], [1], [3], [1], [0], [4]]))
    path = tmp_path / "rollouts" / "rollouts_1.parquet"
    save_rollouts(path, settled, PROMPTS, TOKENS, "seq")
    drawn = picture(tmp_path, credit=["seq"], group=0)
    assert "reward settled after 1" in drawn.completions[1].heading
    assert "-100[a│b]" in printed(drawn)
    assert {"class": "n8 settled", "title": "-0.167"} in [
        a for _, a, _ in Read(page(drawn)).elements
    ]


def test_the_scale_is_that_of_what_is_shown(run):
    assert picture(run, credit=["seq"], rows=1).scales == pytest.approx([1 / 6])
    dead = picture(run, credit=["seq"], group=2)
    assert dead.scales == [0]
    assert page(dead)


def test_any_strategy_is_computed_anew(run, tmp_path, monkeypatch):
    (tmp_path / "shown_rules.py").write_text(
        "from grpo_credit import allocation\n"
        "@allocation\n"
        "def shown_power(rollouts, *, alpha: float = 1.0):\n"
        "    power = (rollouts.position + 1.0) ** alpha\n"
        "    return rollouts.advantages[:, None] * power * rollouts.mask\n"
    )
    monkeypatch.chdir(tmp_path)
    names = ["length", "shown_rules:shown_power/seq", 'shown_rules:shown_power/seq {"alpha": 2}']
    drawn = picture(run, 9, names)
    assert drawn.strategies == names
    for completion in drawn.completions:
        assert [len(token.credit) for token in completion.tokens] == [3] * 11
    expected = [
        compute_credit("length", rollouts()),
        compute_credit("shown_rules:shown_power/seq", rollouts()),
        compute_credit("shown_rules:shown_power/seq", rollouts(), alpha=2),
    ]
    first = next(c for c in drawn.completions if c.row == 0)
    found = torch.tensor([token.credit for token in first.tokens])
    torch.testing.assert_close(found, torch.stack([c[0] for c in expected], dim=1))


def test_the_runs_own_options_come_along(run, tmp_path, monkeypatch):
    (tmp_path / "optional_rules.py").write_text(
        "def scaled(rollouts, *, by: float):\n"
        "    return by * rollouts.advantages[:, None] * rollouts.mask\n"
    )
    monkeypatch.chdir(tmp_path)
    path = run / "rollouts" / "rollouts_00020.parquet"
    save_rollouts(path, rollouts(), PROMPTS, TOKENS, "optional_rules:scaled", {"by": 3.0})
    assert picture(run, credit=["optional_rules:scaled"]).scales == [6]
    assert picture(run, credit=['optional_rules:scaled {"by": 1.0}']).scales == [2]
    with pytest.raises(CreditError, match="credit_kwargs is not JSON"):
        picture(run, credit=["optional_rules:scaled {by: 1}"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"step": 3}, r"no rollouts of step 3 in .*rollouts; there are 9, 10\."),
        ({"credit": ["sqe"]}, r"unknown strategy 'sqe'\. Did you mean 'seq'"),
        ({"group": 7}, "no completions to show of group 7, rows 8; expected at least 1 row, and a"),
        ({"rows": 0}, "group None, rows 0; expected at least 1 row"),
    ],
)
def test_what_cannot_be_shown_is_explained(run, asked, message):
    with pytest.raises(CreditError, match=message):
        picture(run, **asked)


def test_a_run_without_saved_rollouts_is_explained(tmp_path):
    with pytest.raises(
        CreditError, match=r"holds no rollouts_<step>\.parquet; expected the direct"
    ):
        picture(tmp_path)


def test_a_field_that_was_not_saved_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "needy_rules.py").write_text(
        "from grpo_credit import allocation\n"
        "@allocation(needs=['texts'])\n"
        "def shown_needy(rollouts):\n"
        "    return rollouts.advantages[:, None] * rollouts.offsets[:, :, 0] * rollouts.mask\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CreditError, match=r"needs rollouts\.texts, which .*00010\.parquet does no"):
        picture(run, credit=["even/seq", "needy_rules:shown_needy"])


def test_a_strategy_that_is_gone_is_explained(run):
    path = run / "rollouts" / "rollouts_00020.parquet"
    save_rollouts(path, rollouts(), PROMPTS, TOKENS, "<lambda>")
    with pytest.raises(
        CreditError, match=r"own strategy '<lambda>' is not found.*say with --credit"
    ):
        picture(run)
    assert picture(run, credit=["seq"]).strategies == ["seq"]


def test_a_shade_is_in_proportion_and_symmetric():
    assert [level(k / LEVELS, 1.0) for k in range(LEVELS + 1)] == list(range(LEVELS + 1))
    assert [level(-c, 3e-9) for c in (3e-9, 1e-12)] == [-LEVELS, -1]
    assert level(1 / 3, 1 / 3 - 1e-17) == LEVELS
    assert level(0.0, 0.0) == 0


# ---- hostile text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 漢 🙂", "plain ü 漢 🙂"),
        ("\x1b[31m", "␛[31m"),
        ("a\nb\r\n", "a⏎\nb␍⏎\n"),
        ("\t\x00\x7f\x9b", "␉␀⟨U+007F⟩⟨U+009B⟩"),
        ("\u202e\u200f\ufeff\u2028", "⟨U+202E⟩⟨U+200F⟩⟨U+FEFF⟩⟨U+2028⟩"),
        ("\ud800\U000e0041", "⟨U+D800⟩⟨U+E0041⟩"),
        ("", ""),
    ],
)
def test_what_is_hidden_becomes_a_symbol(text, expected):
    assert visible(text) == expected


def test_the_page_shows_hostile_completions_as_text(run):
    read = Read(page(picture(run, rows=5)))
    assert read.open == []
    tags = {tag for tag, _ in read.tags}
    assert tags == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "i", "pre",
        "strong", "article", "details", "summary", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    attributes = {name for _, attrs in read.tags for name in attrs}
    assert attributes == {
        "lang", "charset", "name", "content", "http-equiv", "class", "title", "dir", "tabindex",
        "role", "aria-label", "data-name", "data-scale",
    }  # fmt: skip
    texts = [text for tag, attrs, text in read.elements if tag == "i" and "title" in attrs]
    expected = [visible(t) for row in (0, 1, 3, 2) for _ in range(2) for t in TOKENS[row]]
    assert texts == expected


def test_the_page_needs_no_network_and_no_script(run):
    text = page(picture(run))
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|http", style)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in style
    text.encode("utf-8")  # no lone surrogate is left


def test_every_number_is_on_the_page_as_text(run):
    read = Read(page(picture(run, credit=["seq"], group=0)))
    # rows 0 and 1: place, token, credit; 1/6 and -1/6
    cells = [text for tag, _, text in read.elements if tag == "td"]
    assert cells[:3] == ["0", visible(HOSTILE[0]), "+0.167"]
    assert cells[-3:] == ["1", "b", "-0.167"]
    shades = [attrs for tag, attrs, text in read.elements if tag == "i" and text in ("a", "b")]
    assert shades == [{"class": "n8", "title": "-0.167"}] * 2


def test_masked_tokens_are_marked_and_have_no_number(tmp_path):
    (tmp_path / "rollouts").mkdir()
    masked = rollouts(mask=rollouts().mask & (torch.arange(11) != 1))
    path = tmp_path / "rollouts" / "rollouts_1.parquet"
    save_rollouts(path, masked, PROMPTS, TOKENS, "seq")
    drawn = picture(tmp_path, credit=["seq"], group=1)
    read = Read(page(drawn))
    marked = [t for _, attrs, t in read.elements if attrs.get("title") == "not counted"]
    assert marked == ["d"]
    cells = [text for tag, _, text in read.elements if tag == "td"]
    assert cells[cells.index("d") + 1] == ""
    assert "[c" not in printed(drawn)  # row 2 has no advantage
    assert "+100[e]" in printed(drawn)
    assert "\x1b[2md\x1b[0m" in printed(drawn, force_terminal=True, color_system="truecolor")


def printed(drawn, **console):
    out = io.StringIO()
    print_picture(drawn, Console(file=out, width=100, **console))
    return out.getvalue()


def test_the_terminal_shows_hostile_completions_as_text(run):
    shown = printed(picture(run))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown)
    shown = "".join(shown.split())  # lines are wrapped
    for piece in (
        "</script><script>",
        "[bold]{{7*7}}",
        "␛[31m",
        "⟨U+202E⟩",
        "␛[2J",
        "⟨U+D800⟩",
    ):
        assert piece in shown
    assert shown.count("A") >= 2 * 100_000  # once per strategy


def test_the_largest_credit_is_100_percent_of_itself():
    assert {_percent(n / 7e4, n / 7e4) for n in range(1, 2000)} == {100}
    assert (_percent(-1e-9, 1.0), _percent(0.0, 0.0)) == (-1, 0)


def test_without_colours_a_number_stands_before_each_run_of_one_credit(run):
    shown = printed(picture(run, credit=["seq"], group=0, rows=2), color_system=None)
    assert "-100[ab]" in shown
    assert "+100[...] is a credit of 0.167" in shown


def test_a_figure_has_colours_and_asks_for_nothing(run, tmp_path):
    assert cli.main(["show", str(run), "--credit", "seq", "--svg", str(tmp_path / "x.svg")]) == 0
    drawing = ElementTree.parse(tmp_path / "x.svg")
    fills = {fill for e in drawing.iter() if (fill := e.get("fill"))}
    assert {"#e49659", "#59a3cd"} <= fills  # as in the terminal
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert text.count("http") == 1  # the name space
    assert "<script" not in text


def test_with_colours_the_sign_shows_without_them_too(run):
    drawn = picture(run, credit=["seq"], group=0, rows=2)
    shown = printed(drawn, force_terminal=True, color_system="truecolor")
    # 0.65 of the colour on white: 255 + 0.65·(0 - 255), ...; underlined (4) below zero
    assert "\x1b[4;30;48;2;228;150;89ma" in shown
    assert "48;2;89;163;205m</script>" in shown
    assert "{" not in shown.replace("{{ 7 * 7 }}{% raw %}", "")


def test_an_abstention_is_no_number(run):
    shown = printed(picture(run, credit=["seq"], group=1))
    assert "row 2 | group 1 | reward none | advantage +0" in shown
    assert "row 3 | group 1 | reward 0.5 | advantage +2 | used 2 times" in shown
    assert math.isnan(picture(run, group=1).completions[1].reward)


# ---- the command ------------------------------------------------------------------------------


def test_show_prints_or_writes(run, capsys):
    assert cli.main(["show", str(run), "--credit", "seq", "length", "--rows", "1"]) == 0
    assert "length: +100[...] is a credit of" in capsys.readouterr().out
    target = run / "page.html"
    assert cli.main(["show", str(run), "--step", "9", "--html", str(target)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert "run, step 9" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "3"], "grpo-credit: error: no rollouts of step 3"),
        (["--credit", "sqe"], "grpo-credit: error: unknown strategy 'sqe'"),
        (["--html", "no/such/folder/x.html"], "grpo-credit: error: [Errno 2] No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(run, capsys, arguments, message):
    assert cli.main(["show", str(run), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_what_a_tool_wrote_is_marked_without_colours():
    tokens = [Token("call", True, [0.5]), Token("tool", False, [0.0]), Token("end", True, [0.0])]
    assert _tokens(tokens, 0, 1.0, True).plain == "+50[call]×[tool]end"
    assert _tokens(tokens, 0, 1.0, False).plain == "calltoolend"
