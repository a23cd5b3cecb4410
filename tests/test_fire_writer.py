"""One writer a directory, whatever is killed, and files that are whole or not there."""

import errno
import fcntl
import json
import os
import resource
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from run_helpers import add_checkpoint, describe, interrupted_run, write_metrics

from grpo_credit.experiments.study import ablate
from grpo_credit.experiments.study.cells import Cell, look
from grpo_credit.records import directory, files, lock
from grpo_credit.run.commandline import mistakes_in_one_line
from grpo_credit.tiny import cache

FORK = get_context("fork")  # a process that has imported everything already


def start(function, *args):
    """Fork a process; return it and the end of a pipe that it got as last argument."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=function, args=(*args, there))
    process.start()
    there.close()
    return process, here


def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)


# ---- two writers ------------------------------------------------------------------------------


def resume(run, pipe):
    """Resume a run, tell how that went, and go on with it until told."""
    pipe.recv()
    try:
        directory.claim(run, describe(), resume=True)
        pipe.send("")
    except directory.RunExists as error:
        pipe.send(str(error))
    pipe.recv()


@pytest.mark.slow
def test_of_two_resumes_at_once_one_goes_on_however_long_the_logs_take(tmp_path, monkeypatch):
    whole = directory._drop_later_lines

    def slowly(path, step):
        time.sleep(0.1)
        whole(path, step)

    monkeypatch.setattr(directory, "_drop_later_lines", slowly)
    for trial in range(20):
        run = tmp_path / str(trial)
        interrupted_run(run)
        lock.let_go(run)
        add_checkpoint(run, 2)
        write_metrics(run, 1, 2, 3)
        pair = [start(resume, run) for _ in range(2)]
        for _, pipe in pair:
            pipe.send("go")
        told = [pipe.recv() for _, pipe in pair]
        winner = pair[told.index("")][0]
        refused = f"the run in {run} is going on as process {winner.pid}; wait for it, or stop it"
        assert sorted(told) == ["", refused]
        for process, pipe in pair:
            pipe.send("enough")
            process.join()
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
        assert steps == [1, 2]
        assert len(json.loads((run / "manifest.json").read_text())["earlier"]) == 1
        assert len(list(run.glob("*.bak-*"))) == 1


def hold(run, pipe):
    """Hold a run, with forked children that outlive this process; tell their numbers."""
    lock.hold(run)
    children = [FORK.Process(target=signal.pause) for _ in range(2)]
    for child in children:
        child.start()
    pipe.send([child.pid for child in children])
    signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Give a function that has another process hold a run, and kills what is left at the end."""
    left, children = [], []

    def held(run):
        process, pipe = start(hold, run)
        left.append(process)
        children.extend(pipe.recv())
        return process

    yield held
    for process in left:
        process.kill()
        process.join()
    for child in children:
        os.kill(child, signal.SIGKILL)


def test_a_run_that_is_going_on_is_refused_in_one_line_until_its_process_is_gone(
    tmp_path, holder, capsys
):
    run = tmp_path / "x-20250101-000000"
    interrupted_run(run)
    lock.let_go(run)
    process = holder(run)
    for again in (True, False):
        with pytest.raises(SystemExit) as stopped, mistakes_in_one_line("recipe.py"):
            directory.claim(run, describe(), resume=again)
        assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"recipe.py: error: the run in {run} is going on as process {process.pid}; wait for it, or "
        "stop it",
        f"recipe.py: error: {run} holds another run (manifest.json); use --resume to go on with "
        "it, or another --output_dir",
    ]
    assert directory.latest_unfinished(tmp_path, "x") is None
    process.kill()  # its forked children live on
    process.join()
    assert directory.latest_unfinished(tmp_path, "x") == run
    directory.claim(run, describe(), resume=True)


def test_a_process_may_claim_again_what_it_has(tmp_path):
    interrupted_run(tmp_path)
    assert lock.hold(tmp_path) is False
    directory.claim(tmp_path, describe(), resume=True)
    assert not lock.is_held(tmp_path)  # by another


def test_a_refusal_lets_go(tmp_path, holder):
    interrupted_run(tmp_path / "run", beta=0.1)
    lock.let_go(tmp_path / "run")
    with pytest.raises(ValueError, match="configured differently"):
        directory.claim(tmp_path / "run", describe(beta=0.2), resume=True)
    holder(tmp_path / "run")


def test_a_cell_that_is_resumed_by_hand_is_at_work(tmp_path, holder):
    cell = Cell(tmp_path, "recipe.py", "seq", 0)
    interrupted_run(cell.run)
    lock.let_go(cell.run)
    assert look(cell)[0].status == "waiting"
    holder(cell.run)
    assert look(cell)[0].status == "running"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys, code):
    def flock(fd, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    directory.claim(tmp_path / "run", describe(), resume=False)
    assert capsys.readouterr().err == (
        f"warning: the file system of {tmp_path / 'run'} has no locks ({os.strerror(code)}); see "
        "to it that nothing else writes there.\n"
    )
    assert not lock.is_held(tmp_path / "run")


# ---- a claim that dies ------------------------------------------------------------------------


def claim(run, kill_in, limit, pipe):
    if kill_in:
        setattr(*kill_in, die)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        directory.claim(run, describe(), resume=False)
    except OSError as error:
        pipe.send(error.errno)


@pytest.mark.parametrize(
    ("kill_in", "limit"),
    [
        ((directory, "sweep"), 0),
        ((directory, "write_json"), 0),
        ((os, "fsync"), 0),
        ((os, "replace"), 0),
        (None, 1),
        (None, 100),
    ],
)
def test_a_start_that_died_leaves_a_directory_for_the_next(tmp_path, kill_in, limit):
    process, pipe = start(claim, tmp_path / "run", kill_in, limit)
    if limit:
        assert pipe.recv() == errno.EFBIG
    process.join()
    with pytest.raises(ValueError, match=r"nothing to resume: .* has no manifest.json"):
        directory.claim(tmp_path / "run", describe(), resume=True)
    directory.claim(tmp_path / "run", describe(), resume=False)
    assert lock.entries(tmp_path / "run") == ["manifest.json"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "manifest.json"]


@pytest.mark.parametrize("text", ["", '{\n  "fo', '{\n  "format": 1,\n  "status": "run', "\0" * 9])
def test_a_manifest_that_was_never_written_to_its_end_is_taken_over(tmp_path, capsys, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"never began, its manifest.json is half written"):
        directory.claim(tmp_path, describe(), resume=True)
    directory.claim(tmp_path, describe(), resume=False)
    told = f"note: {tmp_path} was claimed by a start that died; it is taken over\n"
    assert capsys.readouterr().err == told
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "running"


@pytest.mark.parametrize("text", ["precious", "{}", '{"format": "of mine"'])
def test_a_manifest_of_somebody_else_is_left_alone(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(directory.RunExists, match="holds another run"):
        directory.claim(tmp_path, describe(), resume=False)
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_half_written_manifest_beside_results_is_no_free_place(tmp_path):
    (tmp_path / "manifest.json").touch()
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(directory.RunExists, match="another run"):
        directory.claim(tmp_path, describe(), resume=False)


# ---- what killed writers leave ----------------------------------------------------------------


def leave(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("half")
    return [folder / name for name in names]


def test_half_written_files_are_swept_by_the_next_who_has_the_directory_alone(tmp_path):
    interrupted_run(tmp_path / "run")
    run = [
        *leave(tmp_path / "run", ".metrics.jsonl.4194305.tmp"),
        *leave(tmp_path / "run" / "credit", ".credit_00004.parquet.4194305.tmp"),
    ]
    study = [
        *leave(tmp_path / "study", ".study.json.4194305.tmp", ".report.json.4194305.tmp"),
        *leave(tmp_path / "study" / "cells" / "seq", ".seed-0.json.4194305.tmp"),
    ]
    mine = leave(tmp_path / "run", ".notes.tmp", "a.7.tmp")
    directory.claim(tmp_path / "run", describe(), resume=True)
    ablate.alone(tmp_path / "study")
    assert not any(map(Path.exists, [*run, *study]))
    assert all(map(Path.exists, mine))


def test_what_another_process_is_writing_is_not_swept(tmp_path):
    process, _ = start(wait_for_word)
    theirs = leave(tmp_path, f".report.html.{process.pid}.tmp")
    files.sweep(tmp_path)
    assert theirs[0].exists()
    process.kill()
    process.join()
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def wait_for_word(pipe):
    pipe.recv()


def test_the_scratch_folder_of_a_killed_builder_is_swept(tmp_path):
    def build(folder):
        (folder / "weights").write_text("whole")
        return {}

    process, _ = start(build_and_die, tmp_path / "tiny")
    process.join()
    assert len(list(tmp_path.glob(".tiny-*"))) == 1
    other = leave(tmp_path / ".tinier-1", "x")
    cache.cached(tmp_path / "tiny", build)
    assert list(tmp_path.glob(".tiny-*")) == []
    assert other[0].exists()


def build_and_die(entry, pipe):
    cache.cached(entry, die)


def test_a_file_is_replaced_by_a_whole_one_or_not_at_all(tmp_path, monkeypatch):
    files.replace_text(tmp_path / "page", "old")
    with pytest.raises(TypeError), files.aside(tmp_path / "page") as temporary:
        temporary.write_bytes("new")
    monkeypatch.delattr(os, "replace")
    with pytest.raises(AttributeError):
        files.replace_text(tmp_path / "page", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with files.aside(tmp_path / "pipe") as place:
        assert place == tmp_path / "pipe"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
