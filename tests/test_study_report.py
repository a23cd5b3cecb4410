"""The end of a study: its page, what is said of runs that do not count, and the exit code."""

import pytest
from ablate_helpers import FAKE
from study_helpers import METRIC, make_study

from grpo_credit.experiments.study import ablate
from grpo_credit.experiments.study.ablate import write_report


@pytest.mark.parametrize(
    ("waiting", "more"), [({("uniform", 1): "waiting"}, ""), ({}, " and 1 more")]
)
def test_finished_runs_without_the_number_are_told_and_are_no_success(
    waiting, more, tmp_path, capsys
):
    metric = "format rate (sampeld)"
    study = make_study(tmp_path / "study", ("uniform",), (0, 1), states=waiting, metric=metric)
    assert write_report(study) == 1
    told, number, page = capsys.readouterr().out.splitlines()
    assert told == (
        f"without a number: uniform · seed 0{more}; held_out.jsonl has no finite 'format rate "
        f"(sampeld)' at step 4; it has {METRIC}, characters, right, characters, wrong. "
        f"Did you mean '{METRIC}'?"
    )
    assert number == "uniform        –  baseline"
    assert page == f"report: {study / 'report.html'}"
    assert (study / "report.html").is_file()


def test_a_study_whose_runs_all_count_is_a_success(tmp_path, capsys):
    study = make_study(tmp_path / "study", ("uniform", "seq"))
    assert write_report(study) == 0
    # 0.50, 0.51, 0.52 twice, and 0.1 more at every seed
    assert capsys.readouterr().out.splitlines() == [
        "uniform     0.51  baseline",
        "seq         0.61  better by 0.1 in every one of 6 paired seeds (p = 0.031)",
        f"report: {study / 'report.html'}",
    ]


def test_ctrl_c_while_the_page_is_written_leaves_without_it(tmp_path, monkeypatch, capsys):
    def interrupted(_, said):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(ablate, "write_report", interrupted)
    study = ["--credit", "seq", "--seeds", "2", "--max_steps=1", "--out", "study"]
    assert ablate.main(["--recipe", str(FAKE), *study], ["ablate.py"]) == 130
    assert "2 finished" in capsys.readouterr().out
