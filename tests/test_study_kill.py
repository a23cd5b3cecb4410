"""A runner that is killed, signalled, or started twice."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from ablate_helpers import (
    IN_BACKGROUND,
    WAIT_S,
    ablate,
    ledger,
    records,
    results,
    start,
    steps_done,
    wait_for,
)

from grpo_credit.experiments.study import child
from grpo_credit.experiments.study.process import Job, Process, ignore_alone

CREDITS, SEEDS, STEPS = ["uniform", "length", "seq"], range(4), range(1, 9)
STUDY = ["--credit", *CREDITS, "--seeds", "4", "--jobs", "2", "--max_steps=8"]
EVERY_STEP = sorted((c, s, n) for c in CREDITS for s in SEEDS for n in STEPS)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a cell outlives its runner")
def test_a_study_killed_twelve_times_ends_like_an_undisturbed_one(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    code, _, err = ablate(undisturbed, *STUDY)
    assert code == 0, err

    moments = random.Random(7)
    for _ in range(12):
        process, before = start(killed, *STUDY), len(ledger(killed))
        events = moments.randrange(8)
        wait_for(lambda before=before, events=events: len(ledger(killed)) >= before + events)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
    code, out, err = ablate(killed, *STUDY)
    assert code == 0, out + err

    assert results(killed / "study") == results(undisturbed / "study")
    assert len(results(killed / "study")) == len(CREDITS) * len(SEEDS)
    assert {record["status"] for record in records(killed / "study").values()} == {"finished"}
    assert steps_done(killed) == steps_done(undisturbed) == EVERY_STEP
    ended = {(credit, seed): n for n, (credit, seed, what, *_) in enumerate(ledger(killed))
             if what == "finished"}  # fmt: skip
    starts = [(n, credit, seed) for n, (credit, seed, what, *_) in enumerate(ledger(killed))
              if what == "start"]  # fmt: skip
    assert all(n < ended[credit, seed] for n, credit, seed in starts), "a finished cell ran again"
    assert len(starts) > len(ended), "no cell was ever interrupted"
    assert not any(alive(line[3]) for line in ledger(killed))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cells_at_a_checkpoint_and_the_same_command_goes_on(how, tmp_path):
    process = start(tmp_path, *STUDY, "--pause=0.05")
    wait_for(lambda: len(steps_done(tmp_path)) >= 6)
    process.send_signal(how)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + how, err
    assert "stopping: the cells make their checkpoints" in out
    assert "stopped; the same command goes on" in out
    assert not (tmp_path / "study" / "report.html").exists(), "a page of nothing"
    statuses = [record["status"] for record in records(tmp_path / "study").values()]
    assert statuses.count("interrupted") == 2
    assert "failed" not in statuses
    attempt = next(r for r in records(tmp_path / "study").values()
                   if r["status"] == "interrupted")["attempts"][0]  # fmt: skip
    assert attempt["exit_code"] == 143
    code, out, err = ablate(tmp_path, *STUDY, "--pause=0.05")
    assert code == 0, out + err
    assert steps_done(tmp_path) == EVERY_STEP


def test_a_study_in_the_background_ignores_ctrl_c_and_is_stopped_by_kill(tmp_path):
    endless = ["--credit", "seq", "--seeds", "2", "--jobs=2", "--max_steps=5000", "--pause=0.05"]
    process = start(tmp_path, *endless, wrapper=IN_BACKGROUND)
    wait_for(lambda: len(steps_done(tmp_path)) >= 2)
    process.send_signal(signal.SIGINT)
    before = len(steps_done(tmp_path))
    wait_for(lambda: len(steps_done(tmp_path)) >= before + 20)  # half a second
    process.terminate()
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143, out + err
    statuses = [record["status"] for record in records(tmp_path / "study").values()]
    assert statuses == ["interrupted"] * 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_a_process_ignores_still_stops_what_it_starts(how, tmp_path):
    before = signal.signal(how, signal.SIG_IGN)
    try:
        ignore_alone()
        signal.raise_signal(how)  # which this process goes on ignoring
        code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
        log = tmp_path / "log"
        cell = Process(Job([sys.executable, "-c", code], log, tmp_path / "lock", tmp_path))
        os.kill(int(wait_for(log.read_text)), how)
        assert wait_for(cell.poll).exit_code == {signal.SIGINT: -2, signal.SIGTERM: -15}[how]
    finally:
        signal.signal(how, before)


def test_a_stopped_study_has_the_page_of_what_is_finished(tmp_path):
    process = start(tmp_path, *STUDY, "--jobs=1", "--pause=0.05")
    wait_for(lambda: ["length", "0", "start"] in [line[:3] for line in ledger(tmp_path)])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, out + err
    assert out.splitlines()[-1] == "report: study/report.html"
    page = (tmp_path / "study" / "report.md").read_text()
    assert "1 of 12 runs finished." in page
    assert "* length, seed 0: interrupted; the study's command goes on with it" in page
    assert "* seq, seed 0: not started yet" in page


def test_a_second_signal_ends_cells_that_do_not_stop_and_writes_no_page(tmp_path):
    process = start(tmp_path, *STUDY, "--hang=1")
    hanging = {(credit, "1", "start") for credit in ("uniform", "length")}
    wait_for(lambda: hanging <= {tuple(line[:3]) for line in ledger(tmp_path)})
    process.send_signal(signal.SIGINT)
    assert any(line.startswith("stopping: ") for line in process.stdout)
    time.sleep(1.1)  # sooner, it would count as the same one
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    codes = {record["attempts"][0]["exit_code"] for record in records(tmp_path / "study").values()
             if record["seed"] == 1 and record["attempts"]}  # fmt: skip
    assert codes == {-9}
    statuses = [record["status"] for record in records(tmp_path / "study").values()]
    assert statuses.count("finished") == 3
    assert not (tmp_path / "study" / "report.html").exists()
    assert not any(alive(line[3]) for line in ledger(tmp_path))


def test_two_runners_on_one_directory_refuse_each_other(tmp_path):
    first = start(tmp_path, *STUDY, "--pause=0.2")
    wait_for(lambda: steps_done(tmp_path))
    before = (tmp_path / "study" / "study.json").read_bytes()
    code, out, err = ablate(tmp_path, *STUDY, "--pause=0.2")
    assert (code, out) == (2, "")
    said = "another runner is at work on study; wait for it, or stop it."
    assert err == f"grpo-credit ablate: error: {said}\n"
    assert (tmp_path / "study" / "study.json").read_bytes() == before
    first.terminate()
    first.communicate(timeout=WAIT_S)


# ---- the lock of a cell ------------------------------------------------------------------------


def holding(lock, *command):
    wrapper = [sys.executable, child.__file__, str(lock), str(os.getpid())]
    return subprocess.Popen([*wrapper, *command], stdin=subprocess.PIPE)


READS = [sys.executable, "-c", "import os, sys; os.fork() or os._exit(0); sys.stdin.read()"]


def test_a_lock_is_held_through_exec_until_the_process_is_gone(tmp_path):
    lock = tmp_path / "lock"
    assert not child.is_held(str(lock))
    holder = holding(lock, *READS)
    wait_for(lambda: child.is_held(str(lock)))
    second = holding(lock, sys.executable, "-c", "raise SystemExit(3)")
    assert second.wait(WAIT_S) == child.BUSY
    holder.kill()
    holder.wait(WAIT_S)
    assert not child.is_held(str(lock))
    assert holding(lock, sys.executable, "-c", "raise SystemExit(3)").wait(WAIT_S) == 3


def test_a_process_whose_parent_is_gone_does_not_begin(tmp_path):
    wrapper = [sys.executable, child.__file__, str(tmp_path / "lock"), "1"]
    done = subprocess.run([*wrapper, "touch", str(tmp_path / "begun")], check=False)
    assert done.returncode == 143
    assert not (tmp_path / "begun").exists()


def test_a_cell_that_is_at_work_elsewhere_is_waited_for(tmp_path):
    study = ["--credit", "seq", "--seeds", "2", "--jobs=1"]
    first = start(tmp_path, *study, "--pause=0.05")
    wait_for(lambda: steps_done(tmp_path))
    first.terminate()
    first.communicate(timeout=WAIT_S)
    lock = tmp_path / "study" / "cells" / "seq" / ".seed-0.lock"
    holder = holding(lock, *READS)
    wait_for(lambda: child.is_held(str(lock)))
    second = start(tmp_path, *study, "--pause=0.05")
    wait_for(lambda: ["seq", "1", "finished"] in [line[:3] for line in ledger(tmp_path)])
    assert sum(line[:3] == ["seq", "0", "start"] for line in ledger(tmp_path)) == 1
    holder.kill()
    holder.wait(WAIT_S)
    out, err = second.communicate(timeout=WAIT_S)
    assert second.returncode == 0, out + err
    assert "seq · seed 0 is at work in a process of an earlier runner" in out
    assert sum(line[:3] == ["seq", "0", "start"] for line in ledger(tmp_path)) == 2
    assert steps_done(tmp_path) == [("seq", seed, n) for seed in (0, 1) for n in range(1, 7)]
