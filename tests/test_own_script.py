"""The script of docs/own-script.md, run as a user's; only its model is another one."""

import json
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from harness import TOKENIZER, policy
from run_helpers import forked, strike

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer, Run
from grpo_credit.run import callbacks
from grpo_credit.run.recipe import Task

PAGE = Path(__file__).parent.parent / "docs" / "own-script.md"
OPTIONS = {
    "output_dir": "run", "max_steps": 3, "per_device_train_batch_size": 8, "num_generations": 4,
    "max_completion_length": 4, "logging_steps": 1, "save_steps": 100, "use_cpu": True,
    "bf16": False, "report_to": "none", "gradient_checkpointing": False, "credit": "seq",
    "test_prompts": 4, "test_samples": 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """What the user has: a model, problems, and the page's script."""
    policy().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]
    Dataset.from_list(rows).to_json(tmp_path / "problems.jsonl")
    [script] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert script.count("Qwen/Qwen2.5-0.5B-Instruct") == 1
    script = script.replace("Qwen/Qwen2.5-0.5B-Instruct", "model")
    (tmp_path / "train.py").write_text(script)
    return tmp_path


def run(folder, *more, signum=None):
    """Run the script in a fork, with a signal at its second step; return its code and output."""

    def act():
        sys.argv = ["train.py", *(f"--{k}={v}" for k, v in OPTIONS.items()), *more]
        if signum:
            strike(callbacks.StopOnSignal, "on_step_end", signum, 2)
        runpy.run_path("train.py", run_name="__main__")

    return forked(folder, act)


def steps(folder, name):
    lines = [json.loads(line) for line in (folder / "run" / name).open()]
    return [line["step"] for line in lines if "train_runtime" not in line]


def status(folder):
    return json.loads((folder / "run" / "manifest.json").read_text())["status"]


def test_the_script_of_the_page_is_surrounded_as_a_recipe_is(folder):
    code, out, err = run(folder, "--preflight=off", signum=signal.SIGTERM)
    assert code == 143, err
    assert "SIGTERM: stopping after this step" in err
    assert out.endswith(
        "stopped at step 2; to go on: the same command with --resume --output_dir run\n"
    )
    assert status(folder) == "interrupted"
    code, _, err = run(folder)
    told = "train.py: error: run holds another run (manifest.json, metrics.jsonl, checkpoint-2); "
    assert (code, err.splitlines()[-1].startswith(told), "Traceback" in err) == (2, True, False)
    code, out, err = run(folder, "--resume")
    assert code == 0, err
    assert status(folder) == "finished"
    assert steps(folder, "metrics.jsonl") == [1, 2, 3]
    assert steps(folder, "held_out.jsonl") == [0, 3]
    assert "mean@2" in out
    assert "manifest         | run/manifest.json" in out
    assert (folder / "run" / "model" / "model.safetensors").exists()
    assert not (folder / "run" / ".lock").exists()


def test_a_strict_preflight_ends_the_script_and_gives_the_directory_back(folder):
    code, _, err = run(folder, "--preflight=strict")
    assert (code, err.splitlines()[-1][:39]) == (2, "preflight: error: nothing was trained: ")
    assert list((folder / "run").iterdir()) == []


def arguments(folder):
    return CreditGRPOConfig(
        str(folder / "run"), per_device_train_batch_size=4, num_generations=4, max_steps=1,
        max_completion_length=4, use_cpu=True, bf16=False, report_to=[],
    )  # fmt: skip


def test_a_block_that_trains_nothing_is_a_failed_run(folder):
    args = arguments(folder)
    task = Task([{"prompt": "1+1="}])
    with (
        pytest.raises(ValueError, match=r"nothing was trained: run\.train\(trainer\) was not call"),
        Run(args, task),
    ):
        pass
    assert status(folder) == "failed"


def test_without_rows_to_test_on_nothing_is_tested(folder, capsys):
    args = arguments(folder)
    task = Task(Dataset.from_list([{"prompt": f"{i}="} for i in range(8)]), rewards=[len_of])
    with Run(args, task) as run:
        trainer = CreditGRPOTrainer(
            str(folder / "model"), task.rewards, args, task.train, callbacks=run.callbacks
        )
        run.train(trainer)
    assert status(folder) == "finished"
    assert not (folder / "run" / "held_out.jsonl").exists()
    assert "held-out numbers" not in capsys.readouterr().out


def len_of(completions, **_):
    return [float(len(text)) for text in completions]
