"""A real study: two strategies, two seeds, two steps."""

import contextlib
import json

import pandas as pd
import psutil
import pytest
import torch
from ablate_helpers import ROOT, ablate, records, start, wait_for
from safetensors.torch import load_file

RECIPE = ROOT / "recipes" / "grpo_regex.py"
RATE = 3e-4  # AdamW's first steps move a weight by about this much, or not at all
SHORT = [
    "--credit", "length", "decided/seq", "--seeds", "2", "--max_steps=2", f"--learning_rate={RATE}",
    "--per_device_train_batch_size=16", "--max_completion_length=24", "--test_prompts=4",
    "--test_samples=1", "--save_rollouts=0", "--save_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    code, out, err = ablate(folder, *SHORT, recipe=RECIPE)
    assert code == 0, out + err
    return folder / "study"


def table(study, credit, seed, step):
    folder = study / "cells" / credit / f"seed-{seed}" / "completions"
    return pd.read_parquet(folder / f"completions_{step:05d}.parquet")


def weights(study, credit, seed):
    return load_file(study / "cells" / credit / f"seed-{seed}" / "model" / "model.safetensors")


def test_every_cell_is_a_finished_run_of_the_recipe(study):
    kept = records(study)
    assert {record["status"] for record in kept.values()} == {"finished"}
    assert set(kept) == {(c, s) for c in ("length", "decided/seq") for s in (0, 1)}
    for slug in ("length", "decided-seq"):
        for seed in (0, 1):
            run = study / "cells" / slug / f"seed-{seed}"
            manifest = json.loads((run / "manifest.json").read_text())
            assert (manifest["status"], manifest["seed"]) == ("finished", seed)
            tested = [json.loads(line) for line in (run / "held_out.jsonl").open()]
            assert [line["step"] for line in tested] == [0, 2]


def test_seeds_are_paired(study):
    """Before the first update, a seed is the same training under every strategy."""
    same = ["prompt", "completion", "format", "advantage"]
    for seed in (0, 1):
        first = [table(study, credit, seed, 1)[same] for credit in ("length", "decided-seq")]
        pd.testing.assert_frame_equal(*first)
    assert not table(study, "length", 0, 1).prompt.equals(table(study, "length", 1, 1).prompt)
    after = [table(study, credit, 0, 2) for credit in ("length", "decided-seq")]
    assert after[0].prompt.equals(after[1].prompt)
    # not by what is sampled after one update, which may be the same
    one, other = (weights(study, credit, 0) for credit in ("length", "decided-seq"))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > RATE / 10


def test_a_study_of_which_all_is_killed_ends_like_an_undisturbed_one(study, tmp_path):
    """As a power cut would, at the first step of a cell and in the second half of the study."""
    cells = tmp_path / "study" / "cells"
    for moment in ("length/seed-0/metrics.jsonl", "length/seed-1/checkpoint-1"):
        runner = start(tmp_path, *SHORT, recipe=RECIPE)
        wait_for((cells / moment).exists)
        tree = [psutil.Process(runner.pid), *psutil.Process(runner.pid).children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        runner.communicate()
    code, out, err = ablate(tmp_path, *SHORT, recipe=RECIPE)
    assert code == 0, out + err
    for run in study.glob("cells/*/seed-?"):
        again = tmp_path / "study" / run.relative_to(study)
        assert numbers(again / "metrics.jsonl") == numbers(run / "metrics.jsonl")
        assert numbers(again / "held_out.jsonl") == numbers(run / "held_out.jsonl")
        one, other = (load_file(r / "model" / "model.safetensors") for r in (run, again))
        assert all(torch.equal(one[name], other[name]) for name in one)


def numbers(path):
    """Read the lines of a file without what a clock says, and without the last attempt's mean."""
    left_out = ("time", "runtime", "per_second", "train_loss")
    lines = [json.loads(line) for line in path.open()]
    return [{k: v for k, v in line.items() if not any(c in k for c in left_out)} for line in lines]


def test_mistakes_of_the_recipe_are_told_before_anything_runs(tmp_path):
    code, out, err = ablate(tmp_path, "--credit", "length", "sqe", "--seeds", "2", recipe=RECIPE)
    assert (code, out) == (2, "")
    assert err.startswith(
        "grpo-credit ablate: error: grpo_regex.py: unknown strategy 'sqe'. Did you mean"
    )
    assert not (tmp_path / "study").exists()
