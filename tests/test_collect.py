"""From the directory of a study to the data of its report."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from saved_helpers import rollouts
from study_helpers import CREDITS, METRIC, make_study, metrics_line, write_lines

from grpo_credit import CreditError, compute_credit
from grpo_credit.credit.saved import save_rollouts
from grpo_credit.experiments.report.data import Pairing
from grpo_credit.experiments.show.choice import choose, settled_at
from grpo_credit.experiments.study.collect import collect


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Make a study of two seeds, of which everything finished."""
    return make_study(tmp_path_factory.mktemp("study") / "study", seeds=(0, 1))


@pytest.fixture
def out(original, tmp_path):
    """Copy the study, to be damaged."""
    return shutil.copytree(original, tmp_path / "study")


@pytest.fixture(scope="module")
def report(original, tmp_path_factory):
    return collect(shutil.copytree(original, tmp_path_factory.mktemp("read") / "study"))


def cell_of(report, credit, seed):
    return next(cell for cell in report.cells if (cell.credit, cell.seed) == (credit, seed))


def curve(report, name, credit="uniform", seed=0):
    table = pa.concat_tables(report.curves.tables()).to_pandas()
    rows = table.query("name == @name and credit == @credit and seed == @seed")
    return rows[["step", "tokens", "seconds", "value"]].values.tolist()


def test_a_finished_run_has_its_numbers(report):
    found = cell_of(report, "seq", 1)
    assert (found.status, found.reason, found.path) == ("finished", None, "cells/s1/seed-1")
    assert (found.value, found.before) == (pytest.approx(0.61), 0.2)  # 0.5 + 0.1 + 0.01
    assert (found.step, found.tokens, found.train_seconds, found.seconds) == (4, 400, 99, 30)
    # 1.5 + 0.01 · (10, 13, 16, 19 mod 5) = 1.50, 1.53, 1.51, 1.54: the median is between the middle
    assert found.step_seconds == pytest.approx(1.52)
    assert found.peak_memory_bytes == 5e8
    assert found.command == "python recipe.py --credit=seq --seed=1"


def test_the_metric_is_what_the_runs_are_about(report, out):
    assert report.study.metric == METRIC
    study = json.loads((out / "study.json").read_text())
    (out / "study.json").write_text(json.dumps({**study, "metric": "characters, right"}))
    assert cell_of(collect(out), "uniform", 0).value == 40
    (out / "study.json").write_text(json.dumps({**study, "metric": "characters, rigth"}))
    known = f"{METRIC}, characters, right, characters, wrong. Did you mean 'characters, right'?"
    wrong = f"held_out.jsonl has no finite 'characters, rigth' at step 4; it has {known}"
    assert cell_of(collect(out), "uniform", 0).reason == wrong


def test_every_run_that_is_not_finished_has_a_status_and_a_reason(tmp_path):
    states = {
        ("uniform", 0): "failed", ("uniform", 1): "interrupted", ("seq", 0): "running",
        ("seq", 1): "waiting",
    }  # fmt: skip
    found = collect(make_study(tmp_path / "study", seeds=(0, 1), states=states))
    assert found.values == {
        "uniform": {0: None, 1: None}, "seq": {0: None, 1: None},
        "length": {0: pytest.approx(0.7), 1: pytest.approx(0.71)},
    }  # fmt: skip
    reasons = {(c.credit, c.seed): (c.status, c.reason) for c in found.cells}
    assert reasons["uniform", 0] == ("failed", "ValueError: it broke")
    assert reasons["uniform", 1][1].startswith("interrupted; the study's command goes on")
    assert reasons["seq", 0] == ("running", "still running when this was collected")
    assert reasons["seq", 1] == ("waiting", "not started yet")
    assert cell_of(found, "uniform", 0).tail == "ValueError: it broke"
    assert cell_of(found, "uniform", 0).step == 2  # as far as it came
    assert cell_of(found, "seq", 1).command is None


def test_the_time_and_the_memory_of_every_attempt_count(out):
    path = out / "cells/s0/seed-0.json"
    state = json.loads(path.read_text())
    first = {**state["attempts"][0], "seconds": 12.0, "peak_memory_bytes": 7e8, "exit_code": -9}
    path.write_text(json.dumps({**state, "attempts": [first, *state["attempts"]]}))
    found = cell_of(collect(out), "uniform", 0)
    assert (found.attempts, found.seconds, found.peak_memory_bytes) == (2, 42, 7e8)


def test_a_failed_run_names_its_error_where_its_manifest_does(out):
    state = json.loads((out / "cells/s0/seed-0.json").read_text())
    (out / "cells/s0/seed-0.json").write_text(json.dumps({**state, "status": "failed"}))
    change_manifest(out, status="failed", error="ValueError: no reward")
    assert cell_of(collect(out), "uniform", 0).reason == "ValueError: no reward"


def change_manifest(out, **changes):
    path = out / "cells/s0/seed-0/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_finished_is_believed_with_the_runs_own_word_only(out):
    change_manifest(out, status="running")
    found = cell_of(collect(out), "uniform", 0)
    assert (found.status, found.value) == ("damaged", None)
    assert found.reason == "its manifest.json says 'running', not 'finished'"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("manifest.json", "{", "its manifest.json says None"),
        ("manifest.json", "[]", "its manifest.json says None"),
        ("held_out.jsonl", "", "held_out.jsonl has no finite 'format rate (sampled)' at step 4"),
        ("held_out.jsonl", '{"step": 4, "format rate (sampled)": NaN}\n', "has no finite"),
        ("held_out.jsonl", '{"step": 4, "format rate (sampled)": null}\n', "has no finite"),
        ("held_out.jsonl", "nonsense\n", "held_out.jsonl:1 is not valid JSON (Expecting value"),
        ("held_out.jsonl", "7\n", "held_out.jsonl:1 is 7, expected an object with a whole"),
        ("metrics.jsonl", "nonsense\n", "has no finite 'format rate (sampled)' at step None"),
        ("metrics.jsonl", '{"no": "step"}\n', "has no finite"),
    ],
)
def test_a_damaged_run_is_reported_and_costs_only_itself(out, file, content, reason):
    (out / "cells/s0/seed-0" / file).write_text(content)
    found = collect(out)
    damaged = cell_of(found, "uniform", 0)
    assert damaged.status == "damaged"
    assert reason in damaged.reason
    assert [cell.status for cell in found.cells if cell is not damaged] == ["finished"] * 5


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b'"text"\n', b'{"no": "step"}\n'])
def test_a_failed_run_keeps_its_reason_where_its_metrics_are_damaged(tmp_path, content):
    out = make_study(tmp_path / "study", seeds=(0, 1), states={("uniform", 0): "failed"})
    (out / "cells/s0/seed-0/metrics.jsonl").write_bytes(content)
    failed, *others = collect(out).cells
    assert (failed.status, failed.reason) == ("failed", "ValueError: it broke")
    assert (failed.tail, failed.step) == ("ValueError: it broke", None)
    assert [cell.status for cell in others] == ["finished"] * 5


@pytest.mark.parametrize("content", ["{", "[]", '{"seed": 0}', '{"credit": 1, "attempts": []}'])
def test_a_damaged_record_is_named_and_the_runs_own_word_counts(out, content):
    (out / "cells/s0/seed-0.json").write_text(content)
    found = collect(out)
    assert found.problems[0].startswith("cells/s0/seed-0.json cannot be read: ")
    assert cell_of(found, "uniform", 0).status == "finished"
    assert cell_of(found, "uniform", 0).command is None
    shutil.rmtree(out / "cells/s0/seed-0")
    missing = cell_of(collect(out), "uniform", 0)
    assert (missing.status, missing.reason) == ("missing", "nothing is known of this run")


def test_a_run_that_finished_after_its_runner_was_killed_counts(out):
    path = out / "cells/s0/seed-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    assert cell_of(collect(out), "uniform", 0).value == 0.5


def test_nothing_that_the_runs_left_is_changed(out):
    before = fingerprint(out / "cells"), (out / "study.json").read_bytes()
    collect(out)
    assert (fingerprint(out / "cells"), (out / "study.json").read_bytes()) == before


def fingerprint(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(CreditError, match=r"holds no study\.json; expected the directory of a"):
        collect(tmp_path)


def test_what_runs_have_in_common_is_told_from_where_they_differ(out):
    change_manifest(out, versions={"torch": "2.7", "trl": "1.16.0"})
    manifest = collect(out).manifest
    assert manifest["runs"] == 6
    assert manifest["common"]["versions.trl"] == "1.16.0"
    assert manifest["common"]["config.learning_rate"] == 1e-3
    assert list(manifest["differs"]) == ["versions.torch"]  # no seeds, directories, warm starts
    assert manifest["differs"]["versions.torch"]['"2.7"'] == ["uniform, seed 0"]


# ---- curves -----------------------------------------------------------------------------------


def test_curves_have_tokens_and_seconds(report):
    # reward: 0.2 + 0.1 · step + 0.01 · (3 · step mod 5)
    expected = [[1, 100, 2, 0.33], [2, 200, 4, 0.41], [3, 300, 6, 0.54], [4, 400, 8, 0.62]]
    assert curve(report, "reward") == [pytest.approx(row) for row in expected]
    # 0.2, then half way, then 0.5; before the first step no time has passed
    held_out = [[0, 0, 0, 0.2], [2, 200, 4, 0.35], [4, 400, 8, 0.5]]
    assert curve(report, f"held_out/{METRIC}") == [pytest.approx(row) for row in held_out]


def test_what_is_no_number_is_no_point_of_a_curve(out):
    lines = [metrics_line(step, "uniform", 0) for step in (1, 2, 3, 4)]
    lines[1]["reward"], lines[2]["reward"] = float("nan"), float("inf")
    write_lines(out / "cells/s0/seed-0/metrics.jsonl", lines)
    assert [row[0] for row in curve(collect(out), "reward")] == [1, 4]


def test_what_is_no_curve_is_left_out(report):
    names = set(report.curves.names)
    assert not names & {"epoch", "time_s", "num_tokens", "train_loss", "train_runtime", "entropy"}
    assert all(np.isfinite(table["value"]).all() for table in report.curves.tables())


def test_of_a_step_that_was_logged_twice_the_later_line_holds(out):
    lines = [metrics_line(step, "uniform", 0) for step in (1, 2, 3)]
    again = {**metrics_line(2, "uniform", 0), "reward": 0.9, "time_s": 50.0}
    write_lines(out / "cells/s0/seed-0/metrics.jsonl", [*lines, again])
    assert curve(collect(out), "reward")[1] == [2, 200, 50, 0.9]


def test_lengths_are_told_apart_by_the_middle_of_the_rewards(report):
    assert report.threshold == 0.5
    assert curve(report, "length/right") == [[1, 100, 2, 3], [4, 400, 8, 3]]  # 2 and 4 tokens
    assert curve(report, "length/wrong") == [[1, 100, 2, 5.5], [4, 400, 8, 7]]  # 6 and 4 + step


def test_runs_of_a_seed_that_began_alike_are_told_from_others(report, out):
    assert report.pairing == Pairing([0, 1], [], [[0], [1]])
    first = "credit/credit_00001.parquet"
    shutil.copy(out / "cells/s1/seed-1" / first, out / "cells/s1/seed-0" / first)
    assert collect(out).pairing == Pairing([1], [0], [[0], [1]])


def test_completions_that_differ_after_an_update_are_no_sign_of_unlike_runs(out):
    for path in out.glob("cells/*/seed-0/credit/credit_00001.parquet"):
        path.unlink()  # as with --logging_steps 4: the first step that is kept is the fourth
    last = "credit/credit_00004.parquet"
    shutil.copy(out / "cells/s1/seed-1" / last, out / "cells/s1/seed-0" / last)
    assert collect(out).pairing == Pairing([1], [], [[0], [1]])


def test_seeds_are_grouped_by_the_weights_that_their_runs_started_from(out):
    for path in out.glob("cells/*/seed-*/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"sha256": "same"}}))
    assert collect(out).pairing == Pairing([0, 1], [], [[0, 1]])
    change_manifest(out, model={"sha256": "another"})  # of one run of seed 0
    assert collect(out).pairing == Pairing([1], [0], [[0], [1]])
    for path in out.glob("cells/*/seed-*/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": None}))
    assert collect(out).pairing == Pairing([0, 1], [], [])


# ---- completions ------------------------------------------------------------------------------


def test_the_same_completions_have_the_credit_of_every_strategy(report):
    assert (report.examples.credit, report.examples.seed) == ("uniform", 0)
    assert report.examples.steps == [1, 4]
    assert report.examples.available == 10  # five of the six rows are in the window, twice
    row = next(row for row in report.credit if row["row"] == 1)
    assert json.loads(row["tokens"]) == ["a", "b"]
    assert (row["reward"], row["advantage"], row["counted"]) == (0, -1, [True, True])
    for name in CREDITS:
        expected = compute_credit(name, rollouts())[1, :2]
        torch.testing.assert_close(torch.tensor(row[f"credit {name}"]), expected)


def test_completions_of_different_rewards_come_first():
    # groups (0, 1), (2, 3), (4, 5): rewards 1, 0 | none, 0.5 | 0.25, and one outside the window
    assert choose(rollouts(), 9) == [0, 1, 3, 4]
    assert choose(rollouts(), 2) == [0, 1]


def test_a_reward_of_weight_0_settles_nothing():
    of_two = {"rewards_per_func": rollouts().rewards_per_func.repeat(1, 2)}
    told = {"reward_names": ("counts", "watched"), "decided": torch.tensor([[2, 9]] * 6)}
    assert settled_at(rollouts(**of_two, **told, reward_weights=(1.0, 0.0)), 0) == 2
    assert settled_at(rollouts(**of_two, **told, reward_weights=(1.0, 0.5)), 0) == 9


def test_a_strategy_that_cannot_be_computed_is_left_out_with_its_reason(tmp_path):
    names = ("uniform", "decided/seq", "no_such_rule")
    found = collect(make_study(tmp_path / "study", names, (0, 1)))
    assert list(found.examples.left_out) == ["decided/seq", "no_such_rule"]
    assert "needs rollouts.decided, which rollouts_00001" in found.examples.left_out["decided/seq"]
    assert set(found.examples.milliseconds) == {"uniform"}
    assert {name for name in found.credit[0] if name.startswith("credit ")} == {"credit uniform"}


def test_the_deciding_token_is_that_of_the_rewards_that_count(out):
    decided = torch.tensor([[3], [1], [2], [1], [0], [4]])
    made = rollouts(decided=decided)
    folder = out / "cells/s0/seed-0/rollouts"
    tokens = [["t"] * 11] * 6
    for path in folder.iterdir():
        save_rollouts(path, made, ["p"] * 6, tokens, "uniform")
    found = {row["row"]: row["decided"] for row in collect(out).credit}
    assert found == {0: 3, 1: 1, 3: 1, 4: 0}


def test_damaged_tables_are_named_and_others_used(out):
    for seed in (0, 1):
        for path in (out / f"cells/s0/seed-{seed}/rollouts").iterdir():
            path.write_bytes(b"PAR1 nonsense")
    (out / "cells/s1/seed-0/credit/credit_00001.parquet").write_bytes(b"")
    (out / "cells/s1/seed-0/completions/completions_00001.parquet").write_bytes(b"x")
    found = collect(out)
    assert found.examples.credit == "seq"
    named = "\n".join(found.problems)
    for part in ("s0/seed-0/rollouts/rollouts_00001", "s1/seed-0/credit/credit_00001",
                 "s1/seed-0/completions/completions_00001"):  # fmt: skip
        assert f"cells/{part}.parquet" in named
    assert len(curve(found, "length/right", "seq")) == 1


def test_completions_keep_what_every_reward_said(report):
    own = [row for row in report.completions if (row["credit"], row["step"]) == ("seq", 4)]
    assert len(own) == 10  # the first finished run of the strategy, its last table
    assert {row["seed"] for row in own} == {0}
    assert json.loads(own[0]["rewards"]) == {"format": 1.0, "abstains": None}
    assert [row["advantage"] for row in own] == sorted((r["advantage"] for r in own), reverse=True)
    assert "</script><script>alert(1)</script>" in {json.loads(r["completion"]) for r in own}
