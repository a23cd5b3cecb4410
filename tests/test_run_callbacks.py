"""The metrics file, the live line, the summary."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from grpo_credit.records import summary
from grpo_credit.run.callbacks import LiveLine, MetricsJsonl, StopOnSignal
from grpo_credit.run.launcher import fewer_than_asked, launcher_pid


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return TrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("out")), use_cpu=True, report_to=[], bf16=False
    )


def test_metrics_are_appended_with_null_for_nan(tmp_path, arguments):
    (tmp_path / "m.jsonl").write_text('{"step": 1, "time_s": 100.0}\n')
    metrics = MetricsJsonl(tmp_path / "m.jsonl")
    state = TrainerState(global_step=2, epoch=0.5)
    metrics.on_train_begin(arguments, state, TrainerControl())
    metrics.on_log(arguments, state, TrainerControl(), logs={"loss": math.nan, "reward": 0.25})
    first, second = [json.loads(line) for line in (tmp_path / "m.jsonl").open()]
    assert first == {"step": 1, "time_s": 100.0}
    assert 100 <= second.pop("time_s") < 110
    assert second == {"step": 2, "epoch": 0.5, "loss": None, "reward": 0.25}


def test_other_ranks_write_and_show_nothing(tmp_path, arguments, capsys):
    state = TrainerState(global_step=2, is_world_process_zero=False)
    for callback in (MetricsJsonl(tmp_path / "m.jsonl"), LiveLine()):
        callback.on_train_begin(arguments, state, TrainerControl())
        callback.on_log(arguments, state, TrainerControl(), logs={"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


LOGS = {"loss": 1.0, "reward": 0.41, "rewards/form/mean": 0.4, "completions/mean_length": 23.1}


def test_without_a_terminal_a_plain_line_comes_every_few_steps(arguments, capsys):
    line, control = LiveLine("rewards/form/mean", every=10), TrainerControl()
    state = TrainerState(max_steps=25)
    line.on_train_begin(arguments, state, control)
    for step in range(1, 26):
        state.global_step = step
        control.should_training_stop = step == 25
        line.on_step_end(arguments, state, control)
        line.on_log(arguments, state, control, logs={**LOGS, "step_time": 0.617})
        line.on_log(arguments, state, control, logs={"eval_loss": 1.0})
    shown = capsys.readouterr().err.splitlines()
    assert [text.split()[1] for text in shown] == ["1/25", "10/25", "20/25", "25/25"]
    assert shown[1] == "step 10/25  reward 0.41  form 0.40  length 23.1  0.62 s/step"


def test_on_a_terminal_there_is_a_bar(arguments, monkeypatch):
    terminal = StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    line, state = LiveLine(), TrainerState(global_step=4, max_steps=8)
    line.on_train_begin(arguments, state, TrainerControl())
    state.global_step = 5
    line.on_step_end(arguments, state, TrainerControl())
    line.on_log(arguments, state, TrainerControl(), logs=LOGS)
    line.on_train_end(arguments, state, TrainerControl())
    assert "5/8" in terminal.getvalue()
    assert "reward 0.41  length 23.1" in terminal.getvalue()


def test_a_second_signal_stops_at_once_and_the_old_handlers_come_back(arguments, capfd):
    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        control = stop.on_step_end(arguments, TrainerState(), TrainerControl())
        assert not control.should_training_stop
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # within a second: the same one again
        control = stop.on_step_end(arguments, TrainerState(), TrainerControl())
        assert control.should_save
        assert control.should_training_stop
        stop.REPEAT_S = 0.0
        if hasattr(signal, "SIGHUP"):
            signal.raise_signal(signal.SIGHUP)  # closing the terminal does not insist
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert stop.signum == signal.SIGTERM
    said = capfd.readouterr().err
    assert said.count("SIGTERM: stopping after this step; the checkpoint and") == 1
    assert "press again to stop at once" in said


def test_an_ignored_signal_stays_ignored(monkeypatch):
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopOnSignal() as stop:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert stop.signum is None
    finally:
        signal.signal(signal.SIGINT, old)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_still_dies_of_sigterm():
    with StopOnSignal() as stop:
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        worker.start()
        time.sleep(0.1)
        worker.terminate()
        worker.join(5)
    assert (worker.exitcode, stop.signum) == (-signal.SIGTERM, None)


def test_a_launcher_that_disappears_counts_as_sigterm(arguments, capfd):
    with StopOnSignal() as stop:
        stop._launcher = os.getppid() + 1
        control = stop.on_step_end(arguments, TrainerState(), TrainerControl())
    assert control.should_training_stop
    assert stop.signum == signal.SIGTERM
    assert f"`kill {os.getpid()}` to stop at once" in capfd.readouterr().err


def started_by(monkeypatch, *words):
    parent = SimpleNamespace(cmdline=lambda: list(words))
    monkeypatch.setattr("psutil.Process", lambda pid: parent)


def test_only_a_launcher_counts_as_one(monkeypatch):
    parents = {
        ("/usr/bin/python3", "/env/bin/accelerate", "launch", "recipe.py"): True,
        ("/usr/bin/python3", "-m", "accelerate.commands.launch", "recipe.py"): True,
        ("/usr/bin/python3", "/env/bin/torchrun", "--nproc_per_node", "2"): True,
        ("-bash",): False,
        ("nohup", "python", "recipe.py"): False,
    }
    for words, is_launcher in parents.items():
        started_by(monkeypatch, *words)
        assert launcher_pid() == (os.getppid() if is_launcher else None)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (["--cpu", "--num_processes", "2", "recipe.py", "--max_steps", "5"], 2),
        (["--cpu", "--num-processes=3", "-m", "grpo_credit.cli", "plan"], 3),
        (["--config_file", "four.yaml", "recipe.py"], 4),
        (["--config_file", "four.yaml", "--num_processes", "1", "recipe.py"], None),
        (["--cpu", "--num_processes", "1", "recipe.py"], None),
    ],
)
def test_processes_that_accelerate_did_not_start_are_missed(monkeypatch, tmp_path, options, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four.yaml").write_text("distributed_type: 'NO'\nnum_processes: 4\nuse_cpu: true\n")
    for program in (["/env/bin/accelerate", "launch"], ["-m", "accelerate.commands.launch"]):
        started_by(monkeypatch, "/usr/bin/python3", *program, *options)
        said = fewer_than_asked(1)
        assert (said is None) == (meant is None)
        assert meant is None or f"torchrun --nproc_per_node={meant} " in said
        assert fewer_than_asked(4) is None
    started_by(monkeypatch, "bash", "run.sh", *options)
    assert fewer_than_asked(1) is None


@pytest.mark.slow
def test_a_recipe_says_that_one_process_runs(tmp_path):
    recipe = Path(__file__).parents[1] / "recipes" / "grpo_regex.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    done = subprocess.run(
        [*command, str(recipe), "--dry_run"], capture_output=True, text=True, timeout=280,
        cwd=tmp_path, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, check=True,
    )  # fmt: skip
    assert done.stderr.count("one process runs, though accelerate launch was to start 2") == 1


# --- the summary


def printed(show, *args, **options) -> str:
    out = StringIO()
    show(*args, console=Console(file=out, width=60), **options)
    return out.getvalue()


def test_the_table_shows_before_after_and_change():
    before = {"format rate (sampled)": 0.02, "[red]length[/red]": 30.0}
    text = printed(summary.before_after, before, {"format rate (sampled)": 0.52, "new": 1.0})
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in text.splitlines()]
    assert ["format rate (sampled)", "0.020", "0.520", "+0.500"] in rows
    assert ["[red]length[/red]", "30.000", "-", "-"] in rows
    assert ["new", "-", "1.000", "-"] in rows


def test_paths_are_never_wrapped():
    path = Path("/runs") / ("long" * 30) / "[bold]metrics.jsonl"
    text = printed(summary.where, {"metrics": path})
    assert text.splitlines() == ["what    | where", f"metrics | {path}"]
