"""Two processes, of a model that is replicated, or sharded by FSDP2 or DeepSpeed, for real."""

import importlib.util
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from chat_model import save_chat_model
from datasets import Dataset
from harness import difference, trl
from safetensors.torch import load_file
from torchrun import TESTS, command, launch
from workloads import WORKLOADS

DEEPSPEED = os.environ.get("DEEPSPEED", "")  # a folder with it, if it is not installed
needs_deepspeed = pytest.mark.skipif(
    not (DEEPSPEED or importlib.util.find_spec("deepspeed")),
    reason="needs `pip install deepspeed`, or DEEPSPEED=<a folder that holds it>",
)
SHARDED = ["fsdp2", pytest.param("zero3", marks=needs_deepspeed)]


@pytest.fixture(autouse=True)
def deepspeed(request, monkeypatch):
    """Let the processes of its tests find DeepSpeed, and no others: others would import it."""
    if DEEPSPEED and request.node.callspec.params["kind"] == "zero3":
        monkeypatch.setenv("PYTHONPATH", DEEPSPEED, prepend=os.pathsep)


@pytest.mark.parametrize("kind", ["ddp", "ddp static graph", *SHARDED])
def test_both_ranks_have_trls_gradient_in_the_same_passes(tmp_path, kind):
    launch(2, "passes_two_processes.py", tmp_path, kind)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name, found in ranks[0].items():
        options = {"arguments": WORKLOADS[name].arguments, "num_iterations": 2, "max_steps": 2}
        theirs = trl(loss_type="grpo", **options).gradients
        assert len(found["gradients"]) == len(theirs) == 2
        assert max(map(difference, found["gradients"], theirs)) <= 1e-5, name
        shapes = [[rows for rows, *_ in rank[name]["forwards"]] for rank in ranks]
        assert shapes[0] == shapes[1], name
        assert len(shapes[0]) > 2


@pytest.mark.parametrize("kind", SHARDED)
def test_a_recipe_stops_resumes_and_saves_the_whole_model(tmp_path, kind):
    """A random model earns nothing, and each step shrinks its matrices by weight decay alone."""
    rate, decay, steps = 0.01, 0.5, 12
    before = load_file(save_chat_model(tmp_path / "model") / "model.safetensors")
    rows = [{"question": f"{i} and {i}?", "answer": f"#### {2 * i}"} for i in range(30)]
    Dataset.from_list(rows).to_json(tmp_path / "problems.jsonl")
    recipe = [
        kind, TESTS.parent / "recipes" / "grpo_math.py", "--use_cpu", "--model_name_or_path=model",
        "--dataset_name=problems.jsonl", "--per_device_train_batch_size=4",
        "--gradient_accumulation_steps=2", "--num_generations=4", "--max_completion_length=12",
        "--test_prompts=3", "--test_samples=2", "--save_steps=500", "--output_dir=out",
        "--lr_scheduler_type=constant", f"--learning_rate={rate}", f"--weight_decay={decay}",
        f"--max_steps={steps}",
    ]  # fmt: skip
    stop_at_the_second_step(command(2, "sharding.py", *recipe), tmp_path)
    said = launch(2, "sharding.py", *recipe, "--resume", cwd=tmp_path)
    assert "model, tokenizer" in said
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "reward" in line] == list(range(1, steps + 1))
    after = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert set(after) == set(before)
    for name, weight in before.items():
        decays = weight.dim() > 1
        torch.testing.assert_close(after[name], weight * (1 - rate * decay * decays) ** steps)


def stop_at_the_second_step(words, folder):
    with open(folder / "said.txt", "w") as said:
        process = subprocess.Popen(words, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        metrics, deadline = folder / "out" / "metrics.jsonl", time.monotonic() + 240
        try:
            while not (metrics.exists() and len(metrics.read_text().splitlines()) > 1):
                assert time.monotonic() < deadline, (folder / "said.txt").read_text()
                assert process.poll() is None, (folder / "said.txt").read_text()
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)  # which torchrun passes on to both
            process.wait(timeout=120)
    said = (folder / "said.txt").read_text()
    assert said.count("preflight: ") == 1, said
    assert "to go on: the same command with --resume --output_dir out" in said
