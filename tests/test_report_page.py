"""The page and the Markdown of a report, as text."""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from html_reader import Read
from markupsafe import Markup, escape
from saved_helpers import HOSTILE
from study_helpers import copied, make_study

from grpo_credit import cli
from grpo_credit.experiments.design import Study
from grpo_credit.experiments.report.data import Pairing, Report, RunResult
from grpo_credit.experiments.report.markdown import markdown, plain
from grpo_credit.experiments.report.page import LARGEST, SECTIONS, page, render
from grpo_credit.experiments.report.series import Curves
from grpo_credit.experiments.report.store import load
from grpo_credit.experiments.report.view_results import more_seeds
from grpo_credit.experiments.study.collect import collect
from grpo_credit.text import visible

PAGE = "grpo_credit.experiments.report.page"
UNDRAWN = '<svg role="img"></svg>'
FIGURES = ["results", "profile", "curves", "lengths"]
SHOWN = [f"figures/{name}.svg" for name in FIGURES]
FILES = {
    *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf", "png", "csv")),
    *(f"tables/{name}.{kind}" for name in ("strategies", "differences")
      for kind in ("csv", "md", "tex")),
}  # fmt: skip
VERDICTS = """\
uniform     0.51  baseline
seq         0.61  won 3 of 3 paired seeds, by 0.1 in the mean; 6 seeds can settle it
length       0.7  won 1 of 1 paired seed, by 0.2 in the mean; 6 seeds can settle it
"""
STRANGE = 'uniform<b>"x"</b>|*'


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Leave the plots out, which are drawn in test_figures and in the browser: they take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{PAGE}.inline", lambda plot: Markup(UNDRAWN))
        patch.setattr(f"{PAGE}.save", lambda path, plots: path.write_text(plots[0].title))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    states = {("length", 1): "failed", ("length", 2): "waiting"}
    out = make_study(tmp_path_factory.mktemp("page") / "study", seeds=(0, 1, 2), states=states)
    collect(out)
    return out


@pytest.fixture(scope="module")
def report(study):
    return load(study)


@pytest.fixture(scope="module")
def text(report):
    return page(report)


# ---- the page ---------------------------------------------------------------------------------


def test_every_section_is_there_in_order_and_linked(text):
    read = Read(text)
    assert read.open == []
    ids, links = read.of("id"), {link[1:] for link in read.of("href") if link[0] == "#"}
    assert [i for i in ids if i in SECTIONS] == list(SECTIONS)
    assert set(SECTIONS) <= links <= set(ids)
    assert len(set(ids)) == len(ids)


def test_the_page_asks_no_network_and_runs_no_script_but_its_own(text):
    read = Read(text)
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|http", style)
    assert not [a for _, a in read.tags if "src" in a]
    assert {link for link in read.of("href") if link[0] != "#"} == FILES
    assert not [name for _, attrs in read.tags for name in attrs if name.startswith("on")]
    assert [tag for tag, _ in read.tags].count("script") == 1
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in read.tags if t == "meta" and "http-equiv" in a)
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_hostile_completions_are_shown_as_text(text):
    text.encode("utf-8")  # no lone surrogate is left
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    shown = "".join(own for *_, own in Read(text).elements)
    for piece in HOSTILE[:-1]:
        assert visible(piece).strip() in shown, piece
    assert "(99,600 more characters)" in shown  # of a token of 100,000
    assert "(96,000 more characters)" in shown  # of a completion


def test_hostile_names_are_shown_as_text(report):
    cells = [replace(c, credit=STRANGE) if c.credit == "uniform" else c for c in report.cells]
    credits = [STRANGE, *report.study.credits[1:]]
    study = replace(report.study, credits=credits, baseline=STRANGE, metric="</script><b>")
    renamed = replace(report, study=study, cells=cells, examples=None, credit=[])
    read = Read(page(renamed))
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert read.open == []
    for kind in (["th"], ["p", "verdict"]):
        assert STRANGE in "".join(read.texts(*kind))
    assert "<b>" not in markdown(renamed)
    assert r'uniform&lt;b&gt;"x"&lt;/b&gt;\|\*' in markdown(renamed)


def test_each_token_has_a_shade_and_a_number_for_every_strategy(text):
    read = Read(text)
    shades = [(a["class"], a["title"]) for t, a in read.tags if t == "i" and "title" in a]
    # row 3 has one token with an advantage of 2, the largest: 2/6 for seq, and the deepest shade
    assert ("p8", "+0.333") in shades
    assert ("n4", "-0.167") in shades  # rows of advantage -1
    assert all(re.fullmatch(r"[pn][1-8]|z|x", shade) for shade, _ in shades)


def test_a_run_that_did_not_finish_is_linked_to_its_reason(text):
    read = Read(text)
    failed = next(a for t, a in read.tags if t == "a" and "failed" in a.get("class", ""))
    assert failed["title"] == "length, seed 1: ValueError: it broke"
    assert ("details", {"id": failed["href"][1:], "open": None}) in read.tags
    assert "ValueError: it broke" in text
    assert "7 of 9 runs finished, 1 failed, 1 waiting." in text
    assert "7 of 9 runs have finished; the verdict is of these and may change." in text


def test_the_numbers_of_the_verdict_are_those_of_the_comparison(report, text):
    assert report.comparison.verdict in text
    for limit in report.comparison.limits:
        assert str(escape(limit)) in text


def test_gradient_ratios_are_paired_by_seed(text):
    # grad_norm is the length of the name times the same wobble: 3/7 for seq, 6/7 for length
    assert re.search(r"seq</th><td>3</td><td>0.429</td><td>0.429</td><td>0.429</td>", text)
    assert re.search(r"length</th><td>1</td><td>0.857</td>", text)


# ---- odd studies ------------------------------------------------------------------------------


def study_of(tmp_path, **given):
    return collect(make_study(tmp_path / "study", **given))


def test_equal_values_make_no_winner_and_no_nan(tmp_path):
    drawn = study_of(tmp_path, value=lambda place, seed: 1.0)
    text = page(drawn)
    assert "no difference shown: equal in every one of 6 paired seeds" in text
    assert "none: all equal" in text
    assert not re.search(r"\b(nan|inf|None)\b", text[text.index("<main>") : text.index("<script>")])


def test_a_single_finished_run_has_a_page(tmp_path):
    states = {(c, s): "waiting" for c in ("uniform", "seq", "length") for s in (0, 1)}
    del states["uniform", 0]
    text = page(study_of(tmp_path, seeds=(0, 1), states=states))
    assert "1 of 6 runs finished, 5 waiting." in text
    assert "no seed has a value for both" in text
    assert set(SECTIONS) <= set(Read(text).of("id"))


def test_a_study_of_failures_has_a_page(tmp_path):
    states = {(c, s): "failed" for c in ("uniform", "seq", "length") for s in (0, 1)}
    drawn = study_of(tmp_path, seeds=(0, 1), states=states)
    text = page(drawn)
    assert "0 of 6 runs finished, 6 failed." in text
    assert text.count('class="bar">ValueError: it broke') == 6
    assert set(SECTIONS) <= set(Read(text).of("id"))
    assert "0 of 6 runs finished" in markdown(drawn)


def large_report():
    """Make a study of 24 strategies and 12 seeds, with long curves and completions."""
    credits, seeds = [f"rule_{n}/seq" for n in range(24)], list(range(12))
    study = Study("r.py", credits, seeds, [], credits[0], "right", True, "ablate")
    cells = [
        RunResult(c, s, "finished", path="x", value=0.1 * s, step=90)
        for c in credits
        for s in seeds
    ]
    steps = np.arange(90)
    parts = [
        pd.DataFrame({"credit": c.credit, "seed": c.seed, "step": steps, "tokens": steps * 10.0,
                      "seconds": steps * (1.0 + c.seed), "name": name,
                      "value": np.sin(steps + c.seed)})
        for c in cells for name in ("reward", "held_out/right")
    ]  # fmt: skip
    line = {"credit": credits[0], "seed": 0, "step": 1, "prompt": '"p"', "rewards": "{}",
            "completion": f'"{"&" * 50_000}"', "advantage": 0.0}  # fmt: skip
    lines = [{**line, "credit": c, "step": s} for c in credits for s in range(40)]
    return Report(
        study, cells, [f"file {n}" for n in range(5)], None, Pairing([], [], []), None, [], {},
        "2026-01-01T00:00:00+00:00", Curves.join(map(pa.Table.from_pandas, parts)), [], lines,
    )  # fmt: skip


def test_the_page_of_a_large_study_is_small_and_says_what_it_leaves_out():
    text = page(large_report())
    assert len(text.encode()) < LARGEST
    assert "more strategies are in curves.parquet" in text
    assert "more are in completions.parquet" in text
    assert "more runs are in runs.csv" in text


def test_a_page_that_is_still_too_large_shows_less(report, text, monkeypatch):
    monkeypatch.setattr(f"{PAGE}.LARGEST", len(text.encode()) * 3 // 4)
    smaller = page(report)
    assert len(smaller.encode()) < len(text.encode()) * 3 // 4
    assert set(SECTIONS) <= set(Read(smaller).of("id"))


# ---- markdown and the command -----------------------------------------------------------------


def test_the_markdown_has_the_verdict_the_tables_and_the_command(report):
    text = markdown(report)
    assert plain(report.comparison.verdict) in text
    assert "7 of 9 runs finished" in text
    assert "* length, seed 1: ValueError: it broke" in text
    assert "| uniform | 3 | 0.51 |" in text  # 0.50, 0.51, 0.52
    assert "    python scripts/ablate.py --seeds 6" in text


def test_a_report_is_rendered_again_without_torch(study, tmp_path):
    out = copied(study, tmp_path / "data")
    blocked = "torch", "trl", "transformers", "datasets", "scipy.stats"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from grpo_credit.cli import main\n"
        f"sys.exit(main(['report', {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{VERDICTS}wrote {out / 'report.html'}\n"
    written = (out / "report.html").read_text(encoding="utf-8")
    assert re.sub("<svg.*?</svg>", UNDRAWN, written, flags=re.DOTALL) == page(load(study))
    assert (out / "report.md").read_text(encoding="utf-8") == markdown(load(study), SHOWN)


def test_studies_of_one_question_are_counted_together(study, tmp_path, capsys):
    one, two = (shutil.copytree(study, tmp_path / name) for name in ("one", "two"))
    assert cli.main(["report", str(one), str(two)]) == 0
    written = (f"{VERDICTS}wrote {each / 'report.html'}\n" for each in (one, two))
    assert capsys.readouterr().out == "".join(written)
    for here, there in ((one, two), (two, one)):
        # two strategies against the first, but one of them has a single seed: not counted
        said = f"over 2 comparisons, those of {there} among them"
        assert said in (here / "report.html").read_text()
        assert said in (here / "report.md").read_text()
    assert cli.main(["report", str(one)]) == 0
    assert "among them" not in (one / "report.html").read_text()


def test_a_folder_without_data_is_one_line_and_exit_code_two(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"grpo-credit: error: {tmp_path} holds no report.json; expected")
    assert said.count("\n") == 1


def test_rendering_changes_no_data(study, tmp_path):
    out = shutil.copytree(study, tmp_path / "copy", ignore=shutil.ignore_patterns("cells"))
    before = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.*")}
    render(out)
    after = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.*")}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"report.html", "report.md", *FILES}


def test_a_figure_is_its_numbers_too(study, tmp_path):
    out = copied(study, tmp_path / "data")
    render(out)
    curves = pd.read_csv(out / "figures" / "curves.csv")
    named = curves[(curves["curve"] == "seq") & (curves["panel"].str.startswith("Mean"))]
    assert len(named) > 1
    assert (named["low"] <= named["y"]).all()
    results = pd.read_csv(out / "figures" / "results.csv").iloc[0]
    assert (results["strategy"], results["mean"]) == ("uniform", pytest.approx(0.51))


def test_a_study_is_printed_for_papers_and_for_pasting(study, tmp_path, capsys):
    out = copied(study, tmp_path / "data")
    assert cli.main(["report", str(out), "--format", "md"]) == 0
    assert capsys.readouterr().out == markdown(load(study))
    assert cli.main(["report", str(out), "--format", "tex"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(r"\begin{tabular}") == printed.count(r"\end{tabular}") == 2
    assert "seq & 3 & 0.61 &" in printed
    assert not (out / "report.html").exists()


def test_the_page_is_opened_where_asked(study, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    out = copied(study, tmp_path / "data")
    assert cli.main(["report", str(out), "--open"]) == 0
    assert opened == [(out / "report.html").as_uri()]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "grown"),
    [
        ("grpo-credit ablate --seeds 3 --out x", "grpo-credit ablate --seeds 6 --out x"),
        ("python a.py --seeds=3 --out x", "python a.py --seeds=6 --out x"),
        ("a --seeds 0 1 2 --lr 3", "a --seeds 6 --lr 3"),
        ("a --config study.yaml", None),
    ],
)
def test_a_small_study_says_how_it_grows(report, command, grown):
    changed = replace(report, study=replace(report.study, command=command))
    assert more_seeds(changed) == grown
    assert more_seeds(replace(changed, study=replace(changed.study, seeds=(1, 2, 3)))) is None
    enough = replace(changed.study, seeds=tuple(range(6)))
    assert more_seeds(replace(changed, study=enough)) is None
