"""The verbs of `grpo-credit lab`: what they print and leave, and what they refuse."""

import csv
import json
import re

import pyarrow.parquet as pq
import pytest
from harness import ours, policy
from html_reader import Read

from grpo_credit import cli
from grpo_credit.credit.saved import load_rollouts
from grpo_credit.lab import tasks, verbs

HALF = 'trace/seq {"decay": 0.5}'
ORACLE = ["lab", "oracle", "--batches", "2", "--groups", "2", "--task", "path_star", "keys",
          "--credit", "seq", HALF, "automaton/seq"]  # fmt: skip
EXACT = ["lab", "exact", "--alphabet", "ab", "--length", "3", "--windows", "60", "--credit",
         "seq", "tree_td/seq", "prefix_tree/seq", "--num_generations", "2", "4"]  # fmt: skip


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """Save one window of the harness and its model."""
    folder = tmp_path_factory.mktemp("run")
    ours(credit="seq", max_steps=1, save_rollouts=1, output_dir=str(folder))
    policy().save_pretrained(folder / "model")
    return folder


def run(arguments, out):
    assert cli.main([*arguments, "--out", str(out)]) == 0
    found = json.loads((out / "lab.json").read_text())
    for name, rows in found["tables"].items():
        with (out / f"{name}.csv").open() as file:
            written = list(csv.DictReader(file))
        assert [list(row) for row in written] == [list(row) for row in rows]
        for row, expected in zip(written, rows, strict=True):
            for key, value in expected.items():
                assert row[key] == ("" if value is None else str(value))
    page = Read((out / "page.html").read_text())
    tags = {tag for tag, _ in page.tags}
    assert "svg" in tags
    assert "script" not in tags
    assert page.of("src") == page.of("href") == []  # nothing is fetched
    return found, page


def test_oracle_leaves_table_json_csv_and_page(tmp_path, capsys):
    found, page = run(ORACLE, tmp_path / "out")
    shown = capsys.readouterr()
    assert re.search(r"path_star: 100%", shown.err)  # a progress bar
    assert found["schema"] == 1
    table = {row["credit"]: row for row in found["tables"]["oracle_path_star"]}
    assert set(table) == {"truth", "random", "seq", HALF, "automaton/seq"}
    assert table["truth"]["auroc"] == 1
    assert table["seq"]["auroc"] == 0.5
    assert {"credit": "automaton/seq", "task": "keys", "not told": "states"} in (
        found["tables"]["oracle_unfed"]
    )
    assert found["sentences"][0].startswith("Over 2 tasks, of the 2 rules that all of them can")
    assert re.search(r"path_star: automaton/seq does best, AUROC 0\.\d+", shown.out)
    assert HALF in page.texts("th")
    assert found["settings"]["batches"] == 2


AIMS = ["lab", "exact", "--alphabet", "a", "--length", "2", "--together", "--pattern", "a", "aa?",
        "--num_generations", "2", "--completions", "4", "--target", "mean", "passk:2",
        "--credit", "loo/seq", "omega/seq"]  # fmt: skip


def test_exact_measures_patterns_together_against_several_targets(tmp_path, capsys):
    found, _ = run(AIMS, tmp_path / "out")
    assert "2 prompts G=2, scale none, passk:2: 100%" in capsys.readouterr().err
    errors = {
        (row["credit"], row["target"]): row["directional error"]
        for table in found["tables"].values()
        for row in table
    }
    assert errors["loo/seq", "mean"] == 0 < errors["loo/seq", "passk:2"]
    assert {row["exact"] for row in found["tables"]["exact_1"]} == {"yes"}


def test_exact_draws_the_values_that_vine_needs(tmp_path):
    found, _ = run(
        [*EXACT[:8], "--credit", "loo/seq", "vine/seq", "--vine_cuts", "every:2",
         "--vine_continuations", "2"], tmp_path / "out"
    )  # fmt: skip
    loo, vine, _ = found["tables"]["exact"]
    assert loo["tokens"] == 1 < vine["tokens"]
    assert vine["low"] == 0


def test_exact_prints_the_direction_of_the_tree_rules_for_every_group_size(tmp_path, capsys):
    found, _ = run(EXACT, tmp_path / "out")
    shown = capsys.readouterr()
    assert "G=2, scale none: 100%" in shown.err
    rows = [row for number in (1, 2) for row in found["tables"][f"exact_{number}"]]
    assert [(r["credit"], r["size"]) for r in rows] == [
        (name, size)
        for size in (2, 4)
        for name in ("seq", "tree_td/seq", "prefix_tree/seq", "truth")
    ]
    for row in rows[1:3]:
        said = rf".*, G = 2, scale_rewards none: {row['credit']}: {re.escape(row['verdict'])}"
        assert any(re.match(said, sentence) for sentence in found["sentences"])


def test_several_patterns_are_measured_apart(tmp_path):
    patterns = ["a[ab]*", "b"]
    arguments = ["lab", "exact", "--alphabet", "ab", "--length", "2", "--completions", "2",
                 "--num_generations", "2", "--credit", "seq", "--pattern", *patterns]  # fmt: skip
    found, _ = run(arguments, tmp_path / "out")
    tables = [found["tables"][f"exact_{number}"] for number in (1, 2)]
    assert [rows[0]["pattern"] for rows in tables] == patterns
    assert [s for s in found["sentences"] if s.startswith("On b the policy earns 0.")]


def test_at_80_columns_every_number_is_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(EXACT[:-1]) == 0
    assert cli.main(ORACLE) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    figure = r"-?\d+(?:\.\d+)?(?: ± \d+\.\d+)?"
    for row in (
        rf"^  seq +\+1\.0000 +0 +{figure} +unbiased to(?: rounding)? *$",
        rf"^  tree_td/seq +\+0\.\d{{4}} +{figure} +{figure} +\w",
        rf"^  automaton/seq +{figure} +{figure} +{figure} *$",
    ):
        assert re.search(row, shown, re.MULTILINE), row


def test_piped_output_obeys_the_width_that_is_asked_for(monkeypatch, capsys):
    widths = []
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.main(ORACLE) == 0
        widths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert widths[0] <= 80 < widths[1] <= 120


def test_replay_reads_a_run(window, tmp_path, capsys):
    found, _ = run(["lab", "replay", str(window), "--credit", "seq", HALF], tmp_path / "out")
    assert "100%" in capsys.readouterr().err
    assert [row["credit"] for row in found["tables"]["replay"]] == ["seq", HALF]
    shares = found["tables"]["shares"]
    key = "share of |C| · ‖∂ log π / ∂ logits‖"
    by_share = {row[key]: row["seq"] for row in shares}
    for family in ("position", "length", "entropy"):
        parts = [value for name, value in by_share.items() if name.startswith(family)]
        assert sum(parts) == pytest.approx(1)
    assert 0 < by_share["right"] < 1


def shy(completions, **_):
    return [None if text == "a" else 1.0 for text in completions]


def refused(arguments, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("grpo-credit: error: ")
    assert shown.err.count("\n") == 1, "one line, and nothing has run before it"
    return shown.err


@pytest.mark.parametrize("arguments", [ORACLE, EXACT])
def test_findings_are_not_overwritten(arguments, tmp_path, capsys):
    (tmp_path / "lab.json").write_text("mine")
    said = refused([*arguments, "--out", str(tmp_path)], capsys)
    assert f"{tmp_path} holds findings already; name another --out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["lab.json"]
    assert (tmp_path / "lab.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["oracle", "--batches", "1"],
            "there are 1 windows (batches) of 16 groups of 8; expected at least 2",
        ),
        (["oracle", "--credit", "tree_tt/seq"], "tree_td"),
        (["oracle", "--credit", 'trace/seq {"decay"'], "credit_kwargs is not JSON"),
        (["oracle", "--credit", 'trace/seq {"dekay": 1}'], "has no option 'dekay'"),
        (
            ["exact", "--alphabet", "abcd", "--length", "11"],
            "make 5,592,405 completions, more than the 50,000 that can be listed",
        ),
        (["exact", "--alphabet", "aa"], "expected different characters"),
        (["exact", "--windows", "1"], "there are 1 windows (batches) of 8 groups of 8; expected"),
        (["exact", "--num_generations", "0"], "of 64 groups of 0; expected at least 2 of"),
        (["exact", "--reward", "test_lab_verbs:shy"], "the reward abstains on 'a'"),
        (["replay", "x", "--rows", "0"], "--rows is 0, expected at least 1 completion per pass"),
        (["replay", "x"], "holds no rollouts_<step>.parquet"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert message in refused(["lab", *arguments], capsys)


def test_a_file_that_is_no_rollouts_of_ours_is_refused(window, tmp_path, capsys):
    whole = next((window / "rollouts").glob("*.parquet"))
    short = tmp_path / "short.parquet"
    short.write_bytes(whole.read_bytes()[:-100])
    asked = ["--model", str(window / "model")]
    assert "is no whole parquet file" in refused(["lab", "replay", str(short), *asked], capsys)
    table, other = pq.read_table(whole), tmp_path / "other.parquet"
    metadata = {
        k: v.replace(b'"version": 1', b'"version": 9') for k, v in table.schema.metadata.items()
    }
    pq.write_table(table.replace_schema_metadata(metadata), other)
    said = refused(["lab", "replay", str(other), *asked], capsys)
    assert "has version 9 of the rollouts' layout, expected 1" in said
    assert load_rollouts(whole).prompt_ids  # the one they were made from is whole


def test_the_command_line_names_every_task():
    assert tuple(tasks.TASKS) == verbs.TASKS
