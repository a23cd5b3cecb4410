"""How cells stand, what goes wrong in them, and what is told of it."""

import io
import json
import os
import shlex
import subprocess
import sys
import time

import pytest
from ablate_helpers import FAKE, ablate, ledger, records, steps_done
from rich.console import Console

from grpo_credit.experiments.design import Study
from grpo_credit.experiments.study import cells, view
from grpo_credit.experiments.study.cells import Cell, State, look
from grpo_credit.experiments.study.progress import Progress, read_progress
from grpo_credit.text import visible

TWO = ["--credit", "seq", "dapo", "--seeds", "2", "--max_steps=2"]


# ---- cells that fail --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A study in which every seed but the last fails in another way."""
    folder = tmp_path_factory.mktemp("troubled")
    trouble = ["--fail=0", "--full=1", "--kill=2", "--lie=3"]
    done = ablate(folder, "--credit", "seq", "dapo", "--seeds", "5", "--max_steps=2", *trouble)
    return folder, *done


def test_a_failed_cell_costs_itself_alone(troubled):
    folder, code, *_ = troubled
    statuses = {key: record["status"] for key, record in records(folder / "study").items()}
    assert code == 1
    assert statuses == {
        (credit, seed): "finished" if seed == 4 else "failed"
        for credit in ("seq", "dapo")
        for seed in range(5)
    }


def test_a_failed_cells_command_shows_no_secret(tmp_path):
    cell = Cell(tmp_path, "r.py", "seq", 0, ("--hub_token=abc123", "--max_steps=2"))
    told = "\n".join(view.failures({cell: State("failed")}))
    assert "--hub_token=" in told
    assert "--max_steps=2" in told
    assert "abc123" not in told


@pytest.mark.parametrize(
    ("seed", "last"),
    [
        (0, ["RuntimeError: no \x1b[31mweights", "exit code 1"]),
        (1, ["OSError: [Errno 28] No space left on device", "exit code 1"]),
        (2, ["killed by signal 9: out of memory, or somebody's kill"]),
        (3, ["exit code 0, but the manifest of the run says 'running'"]),
    ],
)
def test_a_failure_is_told_with_the_end_of_the_log(seed, last, troubled):
    folder, _, out, _ = troubled
    record = records(folder / "study")["seq", seed]
    assert record["tail"][-len(last) :] == last
    assert f"seq · seed {seed} failed; the end of study/cells/seq/seed-{seed}.log:" in out
    assert "\n".join(f"    {visible(line)}" for line in last) in out


def test_what_a_log_holds_cannot_steer_the_terminal(troubled):
    _, _, out, _ = troubled
    assert "RuntimeError: no ␛[31mweights" in out
    assert "\x1b" not in out


def test_attempts_are_measured(troubled):
    folder, *_ = troubled
    killed, fine = (records(folder / "study")["seq", seed]["attempts"] for seed in (2, 4))
    assert [attempt["exit_code"] for attempt in killed + fine] == [-9, 0]
    assert 1e6 < fine[0]["peak_memory_bytes"] < 1e9
    assert fine[0]["command"][1:4] == [str(FAKE), "--credit=seq", "--seed=4"]
    assert fine[0]["started"] <= fine[0]["ended"]


def test_the_command_of_a_failed_cell_repeats_it(troubled):
    folder, _, out, _ = troubled
    repeat = next(line.partition(": ")[2] for line in out.splitlines() if "to repeat it" in line)
    words = shlex.split(repeat)
    assert words[:2] == [sys.executable, str(FAKE)]
    env = {**os.environ, "LEDGER": str(folder / "repeated")}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: no \x1b[31mweights"


def test_the_same_command_tries_failed_cells_again(tmp_path):
    file = tmp_path / "study" / "cells" / "dapo" / "seed-0.log"
    file.mkdir(parents=True)  # no log can be written: as a full disk would do
    (tmp_path / "study" / "study.json").write_text(json.dumps(described()))
    code, out, _ = ablate(tmp_path, *TWO)
    assert code == 1
    assert "dapo · seed 0 could not be started: [Errno 21] Is a directory" in out
    assert "1 failed, 3 finished" in out
    file.rmdir()
    code, out, _ = ablate(tmp_path, *TWO)
    assert (code, "3 of 4 cells are finished already" in out) == (0, True)
    assert steps_done(tmp_path) == sorted(
        (credit, seed, step) for credit in ("seq", "dapo") for seed in (0, 1) for step in (1, 2)
    )


def described():
    study = Study(str(FAKE), ("seq", "dapo"), (0, 1), ("--max_steps=2",))
    return {"schema": 1, **vars(study), "command": "", "started": "", "git": None}


# ---- cells that are damaged -------------------------------------------------------------------


def test_damaged_cells_are_set_aside_and_run_anew(tmp_path):
    assert ablate(tmp_path, *TWO)[0] == 0
    seq, dapo = (tmp_path / "study" / "cells" / name for name in ("seq", "dapo"))
    (seq / "seed-0" / "manifest.json").write_text("")  # as a kill between two writes leaves it
    (seq / "seed-1.json").write_text('{"status": "fin')
    (dapo / "seed-0" / "metrics.jsonl").write_text("{torn}\n")
    code, out, err = ablate(tmp_path, *TWO)
    assert code == 0, out + err
    assert "study/cells/seq/seed-0 is damaged (manifest.json is not valid JSON " in out
    assert "it is now seed-0.damaged-1, the cell runs anew" in out
    assert "study/cells/seq/seed-1.json is damaged" in out
    again = [(line[0], line[1]) for line in ledger(tmp_path)[-2 * 4 :] if line[2] == "start"]
    assert sorted(again) == [("dapo", "0"), ("seq", "0")]
    assert (seq / "seed-0.damaged-1" / "metrics.jsonl").exists()
    assert (seq / "seed-1.json.damaged-1").read_text() == '{"status": "fin'
    assert (dapo / "seed-0.damaged-1" / "metrics.jsonl").read_text() == "{torn}\n"
    assert {record["status"] for record in records(tmp_path / "study").values()} == {"finished"}


@pytest.fixture
def cell(tmp_path):
    cell = Cell(tmp_path, "r.py", "seq", 0)
    cell.run.mkdir(parents=True)
    return cell


def run_says(cell, status):
    (cell.run / "manifest.json").write_text(json.dumps({"status": status, "ended": "then"}))
    (cell.run / "metrics.jsonl").write_text('{"step": 1}\n')


def attempt(ended=None):
    return {"command": [], "started": "", "ended": ended, "exit_code": None, "seconds": None}


def test_a_run_that_finished_after_its_runner_was_killed_is_finished(cell):
    run_says(cell, "finished")
    cells.save(cell, State("running", [attempt()]))
    state, notes = look(cell)
    assert (state.status, state.attempts[0]["ended"], notes) == ("finished", "then", [])


@pytest.mark.parametrize(
    ("record", "run", "status"),
    [
        ("finished", "running", "interrupted"),  # the run decides, not the record
        ("running", "running", "interrupted"),
        ("running", "interrupted", "interrupted"),
        ("failed", "failed", "failed"),
        ("waiting", "finished", "finished"),
    ],
)
def test_the_manifest_of_the_run_decides(record, run, status, cell):
    run_says(cell, run)
    cells.save(cell, State(record, [attempt("now")]))
    assert look(cell)[0].status == status


def test_a_cell_without_a_run_waits(cell):
    assert look(cell)[0].status == "waiting"
    cells.save(cell, State("finished", [attempt("now")]))
    assert look(cell)[0].status == "waiting"
    assert cell.run.exists(), "an empty directory is no damage"


def test_a_finished_run_without_metrics_is_damaged(cell):
    run_says(cell, "finished")
    (cell.run / "metrics.jsonl").unlink()
    state, notes = look(cell)
    assert state.status == "waiting"
    assert "finished, but metrics.jsonl is missing" in notes[0]


def test_only_a_run_that_has_begun_is_resumed(cell):
    assert f"--output_dir={cell.run}" in cell.command()
    assert "--resume" not in cell.command()
    run_says(cell, "interrupted")
    assert cell.command()[-1] == "--resume"


# ---- what is shown ----------------------------------------------------------------------------


def test_progress_is_read_from_the_run(cell):
    assert read_progress(cell.run) == Progress()
    config = {"max_steps": -1, "num_train_epochs": 2.0}
    (cell.run / "manifest.json").write_text(json.dumps({"config": config}))
    lines = [{"step": n, "epoch": n / 10, "reward": n / 4, "time_s": 3.0 * n} for n in (1, 2)]
    last = {"step": 2, "train_runtime": 6.1}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, last])
    (cell.run / "metrics.jsonl").write_text(text + '{"step": 3, "rew')
    at = read_progress(cell.run)
    assert at == Progress(2, 20, 0.5, 6.0)
    assert at.seconds_left == 18 * 3.0


def test_the_table_shows_the_running_cells_first(cell):
    run_says(cell, "running")
    (cell.run / "metrics.jsonl").write_text('{"step": 3, "reward": 0.25, "time_s": 6}\n')
    (cell.run / "manifest.json").write_text('{"config": {"max_steps": 10}}')
    others = [Cell(cell.root, "r.py", "[bold]dapo", seed) for seed in range(5)]
    states = {other: State() for other in others} | {cell: State("running")}
    console = Console(width=100, record=True, file=io.StringIO())
    shown = view.View(states, others, 1, console)
    shown.began[cell] = time.monotonic()
    console.print(view.table(shown, 2))
    text = console.export_text()
    assert "seq · seed 0" in text
    assert "3/10" in text
    assert "0.250" in text
    assert "14 s" in text  # seven steps at two seconds
    assert "[bold]dapo · seed 0" in text
    assert "seed 1" not in text
    assert "6 cells: 1 running, 5 waiting" in text


def test_time_left_is_told_by_the_cells_that_are_done(tmp_path):
    done, *rest = (Cell(tmp_path, "r.py", "seq", seed) for seed in range(5))
    states = {done: State("finished", [attempt() | {"seconds": 30.0}])}
    states |= {cell: State() for cell in rest}
    quiet = Console(file=io.StringIO())
    assert view.View(states, rest, 2, quiet).seconds_left() == 4 * 30 / 2
    assert view.View(states, rest, 9, quiet).seconds_left() == 30, "no more at once than are left"
    assert view.View({rest[0]: State()}, rest[:1], 1, quiet).seconds_left() is None


def test_a_terminal_shows_a_table_and_a_pipe_shows_lines(cell, monkeypatch):
    monkeypatch.setattr(view, "LINE_S", 0.0)
    run_says(cell, "running")
    (cell.run / "metrics.jsonl").write_text('{"step": 3, "reward": 0.25}\n')
    shown = []
    for terminal in (True, False):
        console = Console(width=100, file=io.StringIO(), force_terminal=terminal)
        chosen = view.View({cell: State("running")}, [], 1, console)
        chosen.began[cell] = time.monotonic()
        chosen.tell("[bold]news[/bold]")
        chosen.update()
        chosen.close()
        shown.append(console.file.getvalue())
    assert "┃" in shown[0]
    assert "┃" not in shown[1]
    assert "  seq · seed 0  step 3  reward 0.250" in shown[1].splitlines()
    for text in shown:
        assert "[bold]news[/bold]" in text
        assert "1 cells: 1 running" in text
