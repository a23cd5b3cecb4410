"""What the verbs print for programs is one JSON document; two runs beside each other."""

import json
import sys

import pytest

from grpo_credit import cli, list_credit
from grpo_credit.experiments.compare import differing, read

RECIPE = "recipes/grpo_regex.py"


def printed(capsys, *words):
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_rule_is_listed_with_all_that_is_known(capsys):
    rules = printed(capsys, "list")
    assert [rule["name"] for rule in rules] == [rule.name for rule in list_credit()]
    (gtpo,) = printed(capsys, "list", "gtpo")
    assert gtpo["needs"] == ["entropies"]
    (softmax,) = printed(capsys, "list", "softmax_length")
    assert "default" not in softmax["options"]["lam"]  # it is required
    assert softmax["options"]["lam"]["type"] == "float"
    supervised = printed(capsys, "list", "--stage", "supervised")
    assert {rule["name"] for rule in supervised} < {rule["name"] for rule in rules}


def test_a_plan_has_rows_and_findings(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grpo-credit"])
    plan = printed(capsys, "plan", RECIPE, "--credit=seq")
    assert plan["rows"]["credit"][0].startswith("credit even/seq")
    assert len(plan["rows"]["generation"]) == 2  # a second line goes on with the first
    assert plan["findings"] == []
    few = printed(capsys, "plan", RECIPE, "--num_generations=2", "--scale_rewards=group")
    assert {found["kind"] for found in few["findings"]} >= {"batches"}
    assert printed(capsys, "plan", "recipes/sft_credit.py")["findings"] == []


def test_a_lab_prints_what_it_writes(capsys, tmp_path):
    words = ["lab", "exact", "--credit", "seq", "--windows", "8", "--length", "2"]
    found = printed(capsys, *words, "--out", str(tmp_path / "out"))
    assert found == json.loads((tmp_path / "out" / "lab.json").read_text())
    assert found["tables"]


def test_a_preflight_has_rewards_and_findings(capsys):
    found = printed(capsys, "preflight", RECIPE, "--credit=seq", "--use_cpu")
    assert float(found["rewards"]["format"]["mean"]) > 0
    assert any(line.startswith("headroom") for line in found["said"])
    assert found["num_generations"] == 16


# ---- two runs -----------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path):
    """Write what runs leave: two strategies, one of them tested once more."""
    for name, credit, values in (("a", "seq", [0.25, 0.5]), ("b", "dapo", [0.25])):
        run = tmp_path / name
        run.mkdir()
        manifest = {
            "status": "finished", "started": name, "command": {"shell": name},
            "config": {"credit": credit, "output_dir": name, "learning_rate": 0.1},
            "extra": {"rules": [], "metric": "right"}, "earlier": [], "model": {"sha256": "1"},
        }  # fmt: skip
        (run / "manifest.json").write_text(json.dumps(manifest))
        lines = [json.dumps({"step": n, "right": value}) for n, value in enumerate(values)]
        (run / "held_out.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "a", tmp_path / "b"


def test_two_runs_differ_in_what_was_set_and_not_in_where_they_lie(runs):
    first, second = map(read, runs)
    assert differing(first, second) == {"config.credit": ('"seq"', '"dapo"')}
    assert first.numbers == {"step": 1, "right": 0.5}


def test_the_comparison_is_shown_with_its_caution(runs, capsys):
    assert cli.main(["compare", *map(str, runs)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "config.credit" in told
    assert "0.500 │ 0.250 │ -0.250" in told
    assert "luck" in told
    assert printed(capsys, "compare", *map(str, runs)) == {
        "differs": {"config.credit": ['"seq"', '"dapo"']},
        "held_out": [{"step": 1, "right": 0.5}, {"step": 0, "right": 0.25}],
    }


def test_a_folder_without_a_run_is_one_line(runs, tmp_path, capsys):
    assert cli.main(["compare", str(runs[0]), str(tmp_path)]) == 2
    assert "holds no manifest.json of a run" in capsys.readouterr().err


def test_a_run_that_was_never_tested_has_no_numbers(runs):
    (runs[1] / "held_out.jsonl").unlink()
    assert read(runs[1]).numbers == {}
