"""The same cells on other engines."""

import io
import signal
import sys

import pytest
from ablate_helpers import (
    FAKE,
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
from rich.console import Console

from grpo_credit.experiments.design import Study
from grpo_credit.experiments.study import child, engines
from grpo_credit.experiments.study.cells import Cell, cells_of
from grpo_credit.experiments.study.process import Ended, Job
from grpo_credit.experiments.study.runner import Runner

TWO = ["--credit", "seq", "dapo", "--seeds", "2", "--max_steps=2"]
ENGINES = {
    "ray": ["--engine=ray", '--engine_options={"num_cpus": 0.5}'],
    "slurm": ["--engine=slurm", '--engine_options={"cluster": "local", "timeout_min": 5}'],
}


def end_of(handle):
    return wait_for(handle.poll)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What the study leaves when its cells are local processes."""
    folder = tmp_path_factory.mktemp("here")
    assert ablate(folder, *TWO)[0] == 0
    return results(folder / "study")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_leaves_the_same(engine, here, tmp_path):
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine])
    code, out, err = ablate(tmp_path, *TWO, "--fail=1", *ENGINES[engine])
    assert code == 1, out + err
    kept = records(tmp_path / "study")
    assert {key: record["status"] for key, record in kept.items()} == {
        (credit, seed): "failed" if seed == 1 else "finished"
        for credit in ("seq", "dapo")
        for seed in (0, 1)
    }
    assert kept["seq", 1]["tail"][-1] == "exit code 1"
    assert kept["seq", 0]["attempts"][0]["peak_memory_bytes"] > 1e6
    assert results(tmp_path / "study") == {k: v for k, v in here.items() if "seed-0" in k}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_stops_cells_at_a_checkpoint(engine, tmp_path):
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine])
    long = ["--credit", "seq", "dapo", "--seeds", "2", "--max_steps=40", "--jobs=2"]
    paced = [*long, "--pause=0.1", *ENGINES[engine]]
    process = start(tmp_path, *paced, wrapper=IN_BACKGROUND)  # where workers ignored the interrupt
    wait_for(lambda: {line[0] for line in ledger(tmp_path)} == {"seq", "dapo"})
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143, out + err
    statuses = [record["status"] for record in records(tmp_path / "study").values()]
    assert sorted(statuses) == ["interrupted", "interrupted", "waiting", "waiting"]
    code, out, err = ablate(tmp_path, *long, "--pause=0.1")
    assert code == 0, out + err
    assert steps_done(tmp_path) == sorted(
        (c, s, n) for c in ("seq", "dapo") for s in (0, 1) for n in range(1, 41)
    )


def test_what_goes_wrong_with_a_worker_is_an_error_of_the_cell():
    def lost():
        raise RuntimeError("the node is gone\nand more")

    assert engines.ended_by(lost) == Ended(None, error="RuntimeError: the node is gone")


class Busy:
    """An engine whose first job finds its cell taken, as one left in a queue may."""

    slots = 1

    def threads(self, at_once):
        return 1

    def __init__(self, folder):
        self.here, self.started = engines.LocalEngine(1, {}, folder), []

    def start(self, job):
        if not self.started:
            sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
            self.started.append(self.here.start(Job(sleep, job.log, job.lock, job.folder)))
            wait_for(lambda: child.is_held(str(job.lock)))
        self.started.append(self.here.start(job))
        return self.started[-1]


def test_a_cell_that_another_process_took_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    cell = Cell(tmp_path, str(FAKE), "seq", 0, ("--max_steps=1",))
    engine, quiet = Busy(tmp_path), Console(file=io.StringIO())
    runner = Runner([cell], engine, quiet)
    monkeypatch.setattr(
        runner.view, "update", lambda: runner._elsewhere and engine.started[0].kill()
    )
    assert runner.run()[cell].status == "finished"
    assert len(engine.started) == 3, "one that holds, one that found it held, one that ran"
    assert steps_done(tmp_path) == [("seq", 0, 1)]


def test_cells_come_seed_by_seed_so_that_pairs_are_there_early(tmp_path):
    study = Study("r.py", ("seq", "dapo"), (3, 1), ("--x",))
    cells = cells_of(study, tmp_path)
    assert [(cell.credit, cell.seed) for cell in cells] == [
        ("seq", 3), ("dapo", 3), ("seq", 1), ("dapo", 1),
    ]  # fmt: skip
    assert {cell.options for cell in cells} == {("--x",)}


def plan(jobs, cells, folder):
    """Return how many cells run at once and the threads that each is told to use."""
    quiet = Console(file=io.StringIO())
    runner = Runner(cells, engines.LocalEngine(jobs, {}, folder), quiet)
    return runner.view.slots, int(runner._environment()["OMP_NUM_THREADS"])


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_cores_are_divided_between_jobs(eight_cores, tmp_path):
    many = [Cell(tmp_path, "r.py", "seq", seed) for seed in range(20)]
    plans = {None: (8, 1), 1: (1, 8), 3: (3, 2), 16: (16, 1)}
    assert {jobs: plan(jobs, many, tmp_path) for jobs in plans} == plans
    assert [plan(None, many[:n], tmp_path) for n in (2, 5, 9)] == [(2, 4), (5, 1), (8, 1)]
    assert plan(6, many[:3], tmp_path) == (3, 2)


def test_a_study_that_goes_on_has_as_many_threads_as_before(eight_cores, tmp_path):
    cells = [Cell(tmp_path, "r.py", "seq", seed) for seed in range(4)]
    for cell in cells[:3]:
        cell.run.mkdir(parents=True)
        (cell.run / "manifest.json").write_text('{"status": "finished"}')
        (cell.run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert plan(None, cells, tmp_path) == (4, 2)


def test_every_gpu_gets_a_job(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    engine = engines.LocalEngine(None, {}, tmp_path)
    assert engine.slots == 2
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(%s)"
    long, short = ([sys.executable, "-c", code % seconds] for seconds in (60, 0))
    first, second = (
        engine.start(Job(command, tmp_path / name, tmp_path / f"{name}.lock", tmp_path))
        for name, command in (("a", long), ("b", short))
    )
    end_of(second)
    end_of(engine.start(Job(short, tmp_path / "c", tmp_path / "c.lock", tmp_path)))
    first.kill()
    end_of(first)
    end_of(engine.start(Job(short, tmp_path / "d", tmp_path / "d.lock", tmp_path)))
    assert [(tmp_path / name).read_text() for name in "bcd"] == ["5\n", "5\n", "2\n"]
