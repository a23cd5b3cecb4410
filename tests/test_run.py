"""The run directory, the manifest, the callbacks and the summary around one training run."""

import functools
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from grpo_credit.run import directory, jsonfile, manifest, summary
from grpo_credit.run.callbacks import LiveLine, MetricsJsonl, StopOnSignal
from grpo_credit.run.launcher import how_to_insist, launcher_pid

HUB_TOKEN = "hf_" + "a1B2" * 8
WITHOUT_SYSTEM_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def describe(**config):
    return manifest.manifest(["recipe.py", "--steps", "3"], config, {"train": None}, 0)


def add_checkpoint(run: Path, step: int, *, weights: bool = True, state: str = "{}") -> Path:
    checkpoint = run / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    if weights:
        save_file({"w": torch.zeros(3)}, checkpoint / "model.safetensors")
    (checkpoint / "trainer_state.json").write_text(state)
    return checkpoint


def write_metrics(run: Path, *steps: int, torn: str = "") -> str:
    text = "".join(json.dumps({"step": step, "time_s": step / 2}) + "\n" for step in steps) + torn
    (run / "metrics.jsonl").write_text(text)
    return text


def interrupted_run(run: Path, **config) -> None:
    directory.claim(run, describe(**config), resume=False)
    manifest.set_status(run, "interrupted", 2)


# --- the directory


def test_an_empty_or_missing_directory_is_claimed_with_its_manifest(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        assert directory.claim(tmp_path / name, describe(), resume=False) is None
        assert manifest.read_manifest(tmp_path / name)["status"] == "running"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "manifest.json",
            r"another run \(manifest.json\); use --resume .* or another --output_dir",
        ),
        ("metrics.jsonl", r"another run \(metrics.jsonl\); use another --output_dir"),
        ("checkpoint-8/x", r"another run \(checkpoint-8\); use another --output_dir"),
        ("thesis.tex", r"other files \(thesis.tex\); use another --output_dir"),
    ],
)
def test_a_taken_directory_is_refused_and_left_alone(tmp_path, content, message):
    file = tmp_path / "run" / content
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(directory.RunExists, match=message):
        directory.claim(tmp_path / "run", describe(), resume=False)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "precious"


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(directory.RunExists, match="it is a file; use another"):
        directory.claim(tmp_path / "run", describe(), resume=False)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to resume: .* has no manifest.json"):
        directory.claim(tmp_path, describe(), resume=True)
    interrupted_run(tmp_path / "run")
    manifest.set_status(tmp_path / "run", "finished", 3)
    with pytest.raises(ValueError, match=r"nothing to resume: the run in .* is finished"):
        directory.claim(tmp_path / "run", describe(), resume=True)


def test_a_run_that_is_going_on_is_not_resumed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = {"pid": other.pid, "host": manifest.host()}
        ours = {**describe(), "process": process, "started": "2999-01-01T00:00:00+00:00"}
        directory.claim(tmp_path / "x-20250101-000000", ours, resume=False)
        with pytest.raises(directory.RunExists, match=f"is going on as process {other.pid}"):
            directory.claim(tmp_path / "x-20250101-000000", describe(), resume=True)
        assert directory.latest_unfinished(tmp_path, "x") is None
        # A process younger than the run has only inherited its number.
        assert not directory.is_going_on({**ours, "started": "2001-01-01T00:00:00+00:00"})
        other.communicate(b"\n")
    assert not directory.is_going_on(ours)


def test_resume_lists_every_key_that_differs(tmp_path):
    interrupted_run(
        tmp_path / "run", training={"learning_rate": 1e-3, "beta": 0.0, "run_name": "a"}
    )
    changed = describe(training={"learning_rate": 1e-4, "run_name": "b", "alpha": True})
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="configured differently") as error:
        directory.claim(tmp_path / "run", {**changed, "seed": 1, "world_size": 2}, resume=True)
    assert str(error.value).splitlines()[1:-1] == [
        "  seed: 0 in the run, 1 now",
        "  training.alpha: not set in the run, true now",
        "  training.beta: 0.0 in the run, not set now",
        "  training.learning_rate: 0.001 in the run, 0.0001 now",
        "  world_size: 1 in the run, 2 now",
    ]
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_resume_takes_the_last_complete_checkpoint_and_sets_broken_ones_aside(tmp_path):
    interrupted_run(tmp_path)
    add_checkpoint(tmp_path, 9)
    add_checkpoint(tmp_path, 10)
    add_checkpoint(tmp_path, 11, weights=False)
    add_checkpoint(tmp_path, 12, state='{"global_step": 1')  # torn
    weights = add_checkpoint(tmp_path, 13) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert directory.claim(tmp_path, describe(), resume=True) == tmp_path / "checkpoint-10"
    aside = sorted(path.name for path in tmp_path.glob("incomplete-*"))
    assert aside == [f"incomplete-checkpoint-{step}" for step in (11, 12, 13)]


def test_a_sharded_checkpoint_needs_all_its_shards(tmp_path):
    checkpoint = add_checkpoint(tmp_path, 1, weights=False)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(1)}, checkpoint / "model-1.safetensors")
    assert not directory.is_complete(checkpoint)
    save_file({"b": torch.zeros(1)}, checkpoint / "model-2.safetensors")
    assert directory.is_complete(checkpoint)


def test_resume_drops_metrics_beyond_the_checkpoint_and_keeps_the_old_file(tmp_path):
    interrupted_run(tmp_path)
    add_checkpoint(tmp_path, 2)
    old = write_metrics(tmp_path, 1, 2, 3, torn='{"step": 1, "lo')
    assert directory.claim(tmp_path, describe(), resume=True) is not None
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2]
    assert (tmp_path / "metrics.jsonl.bak-1").read_text() == old
    # Nothing to drop the second time: no second copy.
    directory.claim(tmp_path, describe(), resume=True)
    assert not (tmp_path / "metrics.jsonl.bak-2").exists()


def test_resume_sets_completions_beyond_the_checkpoint_aside(tmp_path):
    interrupted_run(tmp_path)
    add_checkpoint(tmp_path, 2)
    (tmp_path / "completions").mkdir()
    for name in ("completions_00002.parquet", "completions_00003.parquet", "README.md"):
        (tmp_path / "completions" / name).touch()
    directory.claim(tmp_path, describe(), resume=True)
    kept = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert kept == ["README.md", "completions_00002.parquet"]
    assert (tmp_path / "completions.bak-1" / "completions_00003.parquet").exists()


def test_resume_without_a_checkpoint_begins_again_and_loses_nothing(tmp_path):
    interrupted_run(tmp_path)
    old = write_metrics(tmp_path, 0, 1)
    assert directory.claim(tmp_path, describe(), resume=True) is None
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert (tmp_path / "metrics.jsonl.bak-1").read_text() == old


def test_a_resumed_run_keeps_the_manifests_of_its_earlier_attempts(tmp_path):
    interrupted_run(tmp_path)
    for _ in range(2):
        directory.claim(tmp_path, describe(), resume=True)
    earlier = manifest.read_manifest(tmp_path)["earlier"]
    assert [attempt["status"] for attempt in earlier] == ["interrupted", "running"]
    assert all("earlier" not in attempt for attempt in earlier)


def test_ranks_without_a_process_group_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="2 ranks, but no process group yet; make the training"):
        directory.fresh_name(tmp_path, "x")


def test_fresh_names_do_not_collide(tmp_path, monkeypatch):
    class Clock(directory.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, 4, 5, 6, 7)

    monkeypatch.setattr(directory, "datetime", Clock)
    for suffix in ("", "-2", "-3"):
        name = directory.fresh_name(tmp_path, "regex")
        assert name == tmp_path / f"regex-20250304-050607{suffix}"
        name.mkdir()


def test_the_latest_unfinished_run_of_the_stem_is_found(tmp_path):
    for name in (
        "a-20250101-000000",
        "a-20250102-000000",
        "a-20250102-000000-10",
        "a-20250103-000000",
    ):
        interrupted_run(tmp_path / name)
    interrupted_run(tmp_path / "a-b-20250109-000000")  # another stem
    (tmp_path / "a-20250108-000000").mkdir()  # no manifest
    manifest.set_status(tmp_path / "a-20250103-000000", "finished", 3)
    assert directory.latest_unfinished(tmp_path, "a") == tmp_path / "a-20250102-000000-10"
    assert directory.latest_unfinished(tmp_path / "nowhere", "a") is None


# --- JSON


def test_a_crash_before_the_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    jsonfile.write_json(tmp_path / "x.json", {"a": 1})

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        jsonfile.write_json(tmp_path / "x.json", {"a": 2})
    assert jsonfile.read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON"):
        jsonfile.read_json(tmp_path / "x.json")


def test_any_configuration_becomes_strict_json():
    config = {
        "nan": math.nan,
        "inf": -math.inf,
        "path": Path("runs/x"),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "tensor": torch.tensor([1.0, math.nan]),
        "large": torch.zeros(5, 5),
        "enum": signal.SIGINT,
        "function": add_checkpoint,
        "lambda": functools.partial(math.pow, 2.0, y=3),
        "object": object(),
        "set": {"b", "a"},
        1: (True, None),
    }
    assert json.loads(json.dumps(jsonfile.plain(config), allow_nan=False)) == {
        "nan": None,
        "inf": None,
        "path": "runs/x",
        "dtype": "torch.bfloat16",
        "device": "cpu",
        "tensor": [1.0, None],
        "large": {"shape": [5, 5], "dtype": "torch.float32"},
        "enum": 2,
        "function": f"{__name__}.add_checkpoint",
        "lambda": {"partial": "math.pow", "args": [2.0], "y": 3},
        "object": "builtins.object",
        "set": ["a", "b"],
        "1": [True, None],
    }


# --- the manifest


def test_tokens_are_hidden_and_counts_are_not():
    config = {
        "hub_token": "secret-1",
        "push_to_hub_token": None,
        "model_init_kwargs": {"token": "secret-2", "api_key": "secret-3"},
        "num_tokens": 12,
        "include_num_input_tokens_seen": "no",
        "tokenizer_name": "tiny",
        "note": f"my {HUB_TOKEN} and https://me:secret-4@host/x",
    }
    argv = ["recipe.py", "--hub_token", "secret-5", "--api-key=secret-6", f'{{"x": "{HUB_TOKEN}"}}']
    made = manifest.manifest(argv, config, {}, 0, {"token": "secret-7"})
    assert "secret-" not in json.dumps(made)
    assert HUB_TOKEN not in json.dumps(made)
    hidden = manifest.HIDDEN
    assert made["config"] == {
        "hub_token": hidden,
        "push_to_hub_token": None,
        "model_init_kwargs": {"token": hidden, "api_key": hidden},
        "num_tokens": 12,
        "include_num_input_tokens_seen": "no",
        "tokenizer_name": "tiny",
        "note": f"my {hidden} and https://{hidden}@host/x",
    }
    assert made["command"]["argv"][2] == hidden


def test_no_environment_variable_is_recorded(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "from-the-environment")
    assert "from-the-environment" not in json.dumps(describe())


def test_the_manifest_says_what_ran_on_what(tmp_path):
    directory.claim(tmp_path, describe(beta=0.0), resume=False)
    manifest.set_model(tmp_path, nn.Linear(2, 1))
    made = manifest.read_manifest(tmp_path)
    assert made["command"]["shell"] == "recipe.py --steps 3"
    assert made["versions"]["torch"] == torch.__version__
    assert made["hardware"]["torch_threads"] == torch.get_num_threads()
    assert made["model"]["class"] == "torch.nn.modules.linear.Linear"
    assert (made["world_size"], made["seed"], made["config"]) == (1, 0, {"beta": 0.0})


def test_a_missing_package_has_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("no-such-package",))
    assert manifest.versions()["no-such-package"] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_fingerprint_changes_with_one_weight_only(dtype):
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(100, 100)).to(dtype)
    first = manifest.model_fingerprint(model)
    assert first["parameters"] == 30 * 31 + 100 * 101
    assert first["dtypes"] == [str(dtype)]
    model.eval()
    assert manifest.model_fingerprint(model) == first
    with torch.no_grad():
        model[0].weight[17, 5] += 1  # 900 values: all of them count
    second = manifest.model_fingerprint(model)
    assert second["sha256"] != first["sha256"]
    with torch.no_grad():
        model[1].weight[-1, -1] += 1  # 10,000 values: the last is among the 1,024
    assert manifest.model_fingerprint(model)["sha256"] != second["sha256"]


def test_a_model_without_values_still_has_a_fingerprint():
    with torch.device("meta"):
        assert manifest.model_fingerprint(nn.Linear(2, 2))["parameters"] == 6
    assert manifest.model_fingerprint(nn.Identity())["dtypes"] == []


def test_data_sets_are_identified_and_iterable_ones_have_no_rows():
    data = Dataset.from_dict({"prompt": ["a", "b"]})
    made = manifest.dataset_fingerprint(data)
    assert (made["rows"], made["columns"]) == (2, ["prompt"])
    assert made["fingerprint"] == Dataset.from_dict({"prompt": ["a", "b"]})._fingerprint
    assert manifest.dataset_fingerprint(data.to_iterable_dataset())["rows"] is None
    assert manifest.dataset_fingerprint(None) is None


def test_git_state_inside_and_outside_a_repository(tmp_path, monkeypatch):
    for name, value in WITHOUT_SYSTEM_CONFIG.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    recipe = tmp_path / "repo" / "recipe.py"
    recipe.parent.mkdir()
    recipe.write_text("1")
    assert manifest.git_state(recipe) is None
    git = functools.partial(subprocess.run, cwd=recipe.parent, check=True, capture_output=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    git(["git", "init"])
    git(["git", "add", "."])
    git(["git", *identity, "commit", "-m", "first"])
    state = manifest.git_state(recipe)
    assert (state["tracked"], state["dirty"], len(state["commit"])) == (True, False, 40)
    recipe.write_text("2")
    assert manifest.git_state(recipe)["dirty"]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert manifest.git_state(recipe) is None


def test_an_unknown_status_is_refused(tmp_path):
    with pytest.raises(ValueError, match="status is 'done', expected one of running, finished"):
        manifest.set_status(tmp_path, "done")


def trainer_at(step: int):
    return type("Trainer", (), {"state": TrainerState(global_step=step)})()


@pytest.mark.parametrize(
    ("error", "signum", "status", "text"),
    [
        (None, None, "finished", None),
        (None, signal.SIGTERM, "interrupted", None),
        (KeyboardInterrupt(), None, "interrupted", None),
        (SystemExit(143), signal.SIGTERM, "interrupted", None),
        (
            RuntimeError(f"out of memory\n{HUB_TOKEN}"),
            None,
            "failed",
            "RuntimeError: out of memory",
        ),
        (OSError(f"401 for {HUB_TOKEN}"), None, "failed", "OSError: 401 for <hidden>"),
    ],
)
def test_the_manifest_records_how_a_run_ended(tmp_path, error, signum, status, text):
    directory.claim(tmp_path, describe(), resume=False)
    stop = StopOnSignal()
    stop.signum = signum

    def end():
        with manifest.recorded(tmp_path, stop) as record:
            record.trainer = trainer_at(7)
            if error is not None:
                raise error

    if error is None:
        end()
    else:
        with pytest.raises(type(error)):
            end()
    made = manifest.read_manifest(tmp_path)
    assert (made["status"], made["error"], made["global_step"]) == (status, text, 7)
    assert made["ended"] >= made["started"]


# --- the callbacks


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
    assert shown[1] == "step 10/25  reward 0.41  format 0.40  length 23.1  0.62 s/step"


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


def test_only_a_launcher_counts_as_one(monkeypatch):
    class Parent:
        def __init__(self, words):
            self.cmdline = lambda: words

    parents = {
        ("/usr/bin/python3", "/env/bin/accelerate", "launch", "recipe.py"): True,
        ("/usr/bin/python3", "-m", "accelerate.commands.launch", "recipe.py"): True,
        ("/usr/bin/python3", "/env/bin/torchrun", "--nproc_per_node", "2"): True,
        ("-bash",): False,
        ("nohup", "python", "recipe.py"): False,
    }
    for words, is_launcher in parents.items():
        monkeypatch.setattr("psutil.Process", lambda pid, words=words: Parent(list(words)))
        assert launcher_pid() == (os.getppid() if is_launcher else None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert "30 s" in how_to_insist(os.getppid())


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


# --- real runs that get real signals

SERVER = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from grpo_credit.run import callbacks, directory, manifest


class Slow(torch.nn.Module):
    def __init__(self, slow_from):
        super().__init__()
        self.linear, self.calls, self.slow_from = torch.nn.Linear(2, 1), 0, slow_from

    def forward(self, x, labels):
        self.calls += 1
        time.sleep(60 if self.slow_from and self.calls >= self.slow_from else 0.05)
        return {"loss": ((self.linear(x).squeeze(-1) - labels) ** 2).mean()}


def train(out, resume, slow_from):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    args = TrainingArguments(
        output_dir=str(out), max_steps=40, per_device_train_batch_size=1, logging_steps=1,
        save_steps=1000, use_cpu=True, report_to=[], disable_tqdm=True, bf16=False,
        ddp_find_unused_parameters=False,
    )
    data = [{"x": [float(i), 1.0], "labels": float(i % 2)} for i in range(64)]
    model, stop = Slow(slow_from), callbacks.StopOnSignal()
    stop.REPEAT_S = 0.1
    own = [callbacks.MetricsJsonl(out / "metrics.jsonl"), callbacks.LiveLine(), stop]
    trainer = Trainer(model, args, train_dataset=data, callbacks=own)
    for other in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(other)
    described = manifest.manifest(["x"], args.to_dict(), {"train": data}, args.seed)
    checkpoint = directory.claim(out, described, resume)
    with stop, manifest.recorded(out, stop) as record:
        record.trainer = trainer
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    code, step = 128 + stop.signum if stop.signum else 0, trainer.state.global_step
    time.sleep(1.1 * args.process_index)  # left alone, the ranks would make different names
    name = directory.fresh_name(out.parent, "x").name
    try:
        directory.claim(out, described, resume=False)
    except directory.RunExists as error:
        return [code, step, name, str(error)]


def child(out, name, resume=False, slow_from=0, env={}):
    os.environ.update(env)
    err = os.open(f"{out}.{name}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(err, 2)
    end = ["died", None]
    try:
        end = train(Path(out), resume, slow_from)
    except KeyboardInterrupt:
        end = ["KeyboardInterrupt", None]
    finally:
        Path(f"{out}.{name}.part").write_text(json.dumps(end))
        os.rename(f"{out}.{name}.part", f"{out}.{name}.end")


signal.signal(signal.SIGINT, signal.default_int_handler)
for line in sys.stdin:  # the imports are paid once, each run is a fork
    pid = os.fork()
    if pid == 0:
        try:
            child(**json.loads(line))
        finally:
            sys.stderr.flush()
            os._exit(0)
    print(pid, flush=True)
"""


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the run did not get there in time"
        time.sleep(0.02)
    return value


def steps_logged(run: Path) -> list[int]:
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.open()] if file.exists() else []
    return [line["step"] for line in lines if "loss" in line]


def outcome(run: Path, name: str = "0") -> list:
    file = Path(f"{run}.{name}.end")
    wait_for(file.exists)
    return json.loads(file.read_text())


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


class Server:
    """Starts runs, and ends those that are left."""

    def __init__(self, root: Path) -> None:
        self.root, self.pids = root, {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def start(self, run: str, name: str = "0", **options) -> None:
        request = {"out": str(self.root / run), "name": name, **options}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.pids[run, name] = int(self.process.stdout.readline())

    def signal_at_step(self, step: int, run: str, signum: int, name: str = "0") -> None:
        wait_for(lambda: len(steps_logged(self.root / run)) >= step)
        os.kill(self.pids[run, name], signum)

    def close(self) -> None:
        for (run, name), pid in self.pids.items():
            if not Path(f"{self.root / run}.{name}.end").exists():
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs side by side: two signalled once, one twice, one of two ranks on rank 1 only."""
    server = Server(tmp_path_factory.mktemp("runs"))
    try:
        server.start("term")
        server.start("int")
        server.start("twice", slow_from=3)
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        for rank in ("0", "1"):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            server.start("pair", rank, env={**address, **ranks})
        server.signal_at_step(2, "term", signal.SIGTERM)
        server.signal_at_step(2, "int", signal.SIGINT)
        server.signal_at_step(2, "twice", signal.SIGINT)
        time.sleep(0.3)  # beyond REPEAT_S
        server.signal_at_step(2, "twice", signal.SIGINT)
        server.signal_at_step(2, "pair", signal.SIGTERM, "1")
        outcome(server.root / "term")
        server.start("term", "resumed", resume=True)
        yield server.root
    finally:
        server.close()


@pytest.mark.parametrize(("name", "code"), [("term", 143), ("int", 130)])
def test_a_signal_ends_the_run_with_a_complete_checkpoint(runs, name, code):
    exit_code, step, *_ = outcome(runs / name)
    assert exit_code == code
    assert 2 <= step < 40
    assert directory.is_complete(runs / name / f"checkpoint-{step}")
    if name == "int":  # the other one is resumed
        made = manifest.read_manifest(runs / name)
        assert (made["status"], made["global_step"]) == ("interrupted", step)
        assert steps_logged(runs / name) == list(range(1, step + 1))


def test_a_second_signal_ends_the_run_in_the_middle_of_a_step(runs):
    assert outcome(runs / "twice")[0] == "KeyboardInterrupt"
    made = manifest.read_manifest(runs / "twice")
    assert (made["status"], made["global_step"]) == ("interrupted", 2)
    assert not list((runs / "twice").glob("checkpoint-*"))


def test_two_ranks_stop_at_the_same_step_when_one_gets_the_signal(runs):
    first, second = outcome(runs / "pair", "0"), outcome(runs / "pair", "1")
    assert first[:2] == second[:2]
    assert first[0] == 143
    assert directory.is_complete(runs / "pair" / f"checkpoint-{first[1]}")
    assert manifest.read_manifest(runs / "pair")["world_size"] == 2
    assert "stopping after this step" in Path(f"{runs / 'pair'}.0.err").read_text()
    assert "stopping" not in Path(f"{runs / 'pair'}.1.err").read_text()


def test_every_rank_gets_the_same_name_and_the_refusal(runs):
    first, second = outcome(runs / "pair", "0"), outcome(runs / "pair", "1")
    assert first[2:] == second[2:]
    assert "holds another run (manifest.json, metrics.jsonl, checkpoint-" in first[3]


def test_an_interrupted_run_is_resumed_to_its_end(runs):
    stopped = outcome(runs / "term")[1]
    assert outcome(runs / "term", "resumed")[:2] == [0, 40]
    made = manifest.read_manifest(runs / "term")
    assert (made["status"], made["global_step"]) == ("finished", 40)
    assert [attempt["global_step"] for attempt in made["earlier"]] == [stopped]
    assert steps_logged(runs / "term") == list(range(1, 41))
    times = [json.loads(line)["time_s"] for line in (runs / "term" / "metrics.jsonl").open()]
    assert times == sorted(times)
