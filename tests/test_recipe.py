"""The recipe, as a user runs it: in a process of its own, in an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from datasets import Dataset
from fork_server import ForkServer
from harness import TOKENIZER, policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_credit.run.training import run_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "grpo_regex.py"
PATTERN = r"(?s).*\d.*"
SHORT = {
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8,
    "max_steps": 4, "logging_steps": 1, "save_steps": 2, "learning_rate": 0.01,
    "gradient_checkpointing": False, "gradient_accumulation_steps": 1, "test_prompts": 4,
    "test_samples": 2,
}  # fmt: skip
HALF = """
from grpo_credit import allocation
@allocation
def half(rollouts):
    first = rollouts.position < rollouts.lengths[:, None] / 2
    return 1.0 * first * rollouts.mask  # whatever a random model happens to write
"""


def start(folder, *options):
    return subprocess.Popen(
        [sys.executable, str(RECIPE), *map(str, options)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def recipe(folder, *options):
    process = start(folder, *options)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


ROWS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(40)]


def user_folder(folder):
    """Make what a user has: a model and prompts."""
    policy().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    Dataset.from_list(ROWS).to_json(folder / "data.jsonl")
    return folder


def flags(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's folder: a model, a data set, a rule and a YAML file."""
    folder = user_folder(tmp_path_factory.mktemp("user"))
    Dataset.from_list(ROWS).save_to_disk(str(folder / "data"))
    chat = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    Dataset.from_list(chat).to_json(folder / "chat.jsonl")
    Dataset.from_list([{"question": "1+1="}]).save_to_disk(str(folder / "wrong_column"))
    (folder / "my_rules.py").write_text(HALF)
    (folder / "short.yaml").write_text(
        yaml.dump(SHORT | {"model_name_or_path": "model", "dataset_name": "data"})
    )
    return folder


# ---- a whole run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(own):
    """A run with the user's own model, data and rule."""
    code, out, err = recipe(
        own, "--config", "short.yaml", "--pattern", PATTERN, "--credit=my_rules:half",
        "--output_dir=runs/own",
    )  # fmt: skip
    assert code == 0, err
    return own / "runs" / "own", out, err


def test_a_run_leaves_everything_behind(finished):
    run, out, err = finished
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == [1, 2, 3, 4]
    assert {"rewards/format/mean", "credit/mass", "credit/zero_share"} <= set(lines[0])
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["status"], manifest["global_step"]) == ("finished", 4)
    assert manifest["extra"]["plan"].startswith("credit half/dapo")
    assert manifest["config"]["credit"] == "my_rules:half"
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["datasets"]["train"]["rows"] == 36
    assert AutoModelForCausalLM.from_pretrained(run / "model").config.hidden_size == 16
    assert AutoTokenizer.from_pretrained(run / "model").decode([4]) == TOKENIZER.decode([4])
    table = pd.read_parquet(run / "credit" / "credit_00004.parquet")
    assert any(0 in credit and any(credit) for credit in table.credit)
    assert len(list((run / "completions").iterdir())) == 4
    assert (run / "checkpoint-4" / "trainer_state.json").exists()
    tested = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in tested] == [0, 4]
    assert {"format rate (greedy)", "answer named (sampled)"} <= set(tested[0])
    for piece in ("format rate (greedy)", "answer named (sampled)", "before", "after"):
        assert piece in out
    assert "manifest         | runs/own/manifest.json" in out
    table = out[out.index("change") :]
    assert table.index("format rate (sampled)") < table.index("format rate (greedy)")  # the metric
    assert "step 4/4  reward" in err


def test_nothing_that_exists_is_overwritten(finished, monkeypatch, capsys):
    run, *_ = finished
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    options = ["--config", "short.yaml", "--pattern", PATTERN, "--output_dir=runs/own"]
    code, _, err = main_in_process(run.parent.parent, monkeypatch, capsys, *options)
    assert code == 2
    assert err.startswith("grpo_regex.py: error: runs/own holds another run (manifest.json")
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_resume_goes_on(own, how):
    command = ["--config", "short.yaml", "--pattern", PATTERN, "--max_steps=150",
               "--save_steps=500", "--credit=length", f"--output_dir=runs/{how.name}"]  # fmt: skip
    run = own / "runs" / how.name
    process = start(own, *command)
    deadline = time.monotonic() + 240
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(how)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 128 + how, err
    stopped = json.loads((run / "manifest.json").read_text())
    assert stopped["status"] == "interrupted"
    assert f"to go on: the same command with --resume --output_dir runs/{how.name}" in out
    assert (run / f"checkpoint-{stopped['global_step']}" / "optimizer.pt").exists()
    assert (run / "model" / "model.safetensors").exists()
    if how == signal.SIGINT:
        code, _, err = recipe(own, *command, "--resume", "--learning_rate=0.02")
        assert code == 2
        assert "learning_rate: 0.01 in the run, 0.02 now" in err
    code, _, err = recipe(own, *command, "--resume")
    assert code == 0, err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == list(range(1, 151))
    times = [line["time_s"] for line in lines]
    assert times == sorted(times)
    earlier = json.loads((run / "manifest.json").read_text())["earlier"]
    assert [attempt["global_step"] for attempt in earlier] == [stopped["global_step"]]


# ---- the four strategies on the built-in task -------------------------------------------------


FOUR = ["uniform", "length", "seq", "dapo"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ForkServer(RECIPE, tmp_path_factory.mktemp("four"))
    yield server
    server.close()


@pytest.mark.parametrize("credit", FOUR)
def test_every_strategy_learns_the_format(credit, server):
    options = ["--max_steps=40", "--test_samples=2"]
    code, _, out = server.run(f"--credit={credit}", *options)
    assert code == 0, out
    closing = out[out.index("64 held-out sums") :].splitlines()
    rates = [
        [float(cell) for cell in line.replace("│", " ").split()[-3:-1]]
        for line in closing if line.startswith("│")
    ]  # fmt: skip
    *rates, greedy, one, each = rates
    assert len(rates) == 2
    for before, after in rates:  # a third and an eighth before, nearly 1 after: what is drawn of
        assert before <= 0.6  # 64 prompts moves either by less than what is left here
        assert after >= 0.8
    for before, after in (greedy, one):  # sums, which are rewarded too
        assert after > before + 0.1
    assert each[1] > each[0] - 0.1  # nearly all questions are answered by one of the samples
    assert len(closing) <= 40
    assert all(len(line) <= 100 for line in closing)
    for part in ("A held-out question", "A wrong answer of step", "next: grpo-credit show"):
        assert any(line.startswith(part) for line in closing), part


# ---- mistakes ---------------------------------------------------------------------------------


MISTAKES = {
    "unknown strategy": (["--credit=sqe"], "unknown strategy 'sqe'. Did you mean 'seq'?"),
    "unknown option of a strategy": (
        ["--credit=seq", '--credit_kwargs={"alpha": 1}'], "'even/seq' has no option 'alpha'",
    ),
    "bad JSON": (["--credit_kwargs={alpha}"], "credit_kwargs is not JSON: Expecting property name"),
    "invalid pattern": (["--pattern=<think>(a"], "missing ) at position 9; a group is not closed"),
    "unknown flag": (["--credti=seq"], "unknown option 'credti': nothing reads it. Did you"),
    "abbreviated flag": (["--model_name=model"], "unknown option 'model_name': nothing reads it."),
    "ill-typed flag": (["--learning_rate=fast"], "argument --learning_rate"),
    "missing YAML": (["--config", "none.yaml"], "No such file or directory: 'none.yaml'"),
    "indivisible batch": (
        ["--num_generations=7"], "generation_batch_size (8) must be divisible by num_generations",
    ),
    "clash": (["--credit=seq", "--loss_type=grpo"], "loss_type='grpo' aggregates by 'length'"),
    "missing column": (
        ["--dataset_name=wrong_column"], "wrong_column has no column 'prompt'; it has: question.",
    ),
    "missing split": (
        ["--dataset_train_split=validation"], "data has no split 'validation'; it has: train.",
    ),
    "missing data": (["--dataset_name=data.txt"], "data.txt"),
    "missing model": (
        ["--model_name_or_path=nomodel"],
        "no model or tokenizer 'nomodel' (--model_name_or_path): there is no such folder, and none "
        "of that name is in the hub's cache",
    ),
    "no such data": (["--dataset_name=nosuch"], "there is no file or folder 'nosuch'"),
    "conversations without a template": (
        ["--dataset_name=chat.jsonl"], "the tokenizer of 'model' has no chat template",
    ),
    "nothing tells what the strategy needs": (
        ["--credit=steps/seq"], "needs 'step_rewards', which no reward with a weight tells (format",
    ),
    "nothing to resume": (["--resume"], "no unfinished run runs/grpo_regex-even-dapo-*"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_exit_code_2(mistake, own, monkeypatch, capsys):
    wrong, message = MISTAKES[mistake]
    code, out, err = main_in_process(own, monkeypatch, capsys, *right(), *wrong)
    assert code == 2
    assert err.startswith("grpo_regex.py: error: ")
    assert message in err
    assert out == ""
    assert len(err.splitlines()) == 1 or mistake == "invalid pattern"  # which points at the place


def test_a_yaml_key_that_nothing_reads_is_a_mistake(own, monkeypatch, capsys):
    (own / "typo.yaml").write_text(yaml.dump(SHORT | {"learning_rat": 1e-3}))
    arguments = ["--config=typo.yaml", "--pattern=x", "--model_name_or_path=model"]
    code, _, err = main_in_process(own, monkeypatch, capsys, *arguments, "--dataset_name=data")
    assert (code, err.count("\n")) == (2, 1)
    assert "unknown YAML key 'learning_rat': nothing reads it. Did you mean 'learning_rate'?" in err


def right():
    return ["--pattern=x", "--model_name_or_path=model", "--dataset_name=data", *flags(
        {k: v for k, v in SHORT.items() if k != "test_prompts"}
    )]  # fmt: skip


def main_in_process(folder, monkeypatch, capsys, *arguments):
    """Call main without a new process; a model that was loaded would be a mistake of ours."""
    import runpy

    def fail(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    monkeypatch.setattr("grpo_credit.CreditGRPOTrainer", fail, raising=False)
    asked = runpy.run_path(str(RECIPE))["RECIPE"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_recipe(asked, list(arguments))
    out, err = capsys.readouterr()
    return stopped.value.code, out, err
