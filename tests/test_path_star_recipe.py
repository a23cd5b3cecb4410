"""The path-star recipe, as a user runs it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

RECIPE = Path(__file__).parent.parent / "recipes" / "grpo_path_star.py"


def test_a_short_run_measures_every_token_before_and_after(tmp_path):
    done = subprocess.run(
        [sys.executable, str(RECIPE), "--credit=automaton/seq", "--plan_share=0",
         "--warm_start_steps=60", "--max_steps=2", "--per_device_train_batch_size=32",
         "--test_prompts=16", "--test_samples=2", "--output_dir=run", "--nodes=6",
         "--save_rollouts=0"],
        cwd=tmp_path, text=True, capture_output=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GRPO_CREDIT_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()
    before, after = map(json.loads, lines)
    assert (before["step"], after["step"]) == (0, 2)
    names = {"pass@1", "mean@2", "token 1 (greedy)", "token 2 (sampled)", "token 3 (sampled)",
             "steps along edges (greedy)", "planned (sampled)", "plan right (sampled)"}  # fmt: skip
    assert names <= set(before) & set(after)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["extra"]["metric"] == "mean@2"
    assert manifest["config"]["nodes"] == 6
    table = pd.read_parquet(tmp_path / "run" / "completions" / "completions_00002.parquet")
    assert set(table["path"]) <= {0.0, 1.0}
    assert "token 2 (sampled)" in done.stdout


# ---- the judge --------------------------------------------------------------------------------


def judged(completion):
    row = {"prompt": "01 02 | 03 04 | 00 01 | 00 03 / 00 04 =", "path": "00 03 04"}
    return runpy.run_path(str(RECIPE))["check_path"](completion, row)


@pytest.mark.parametrize(
    ("completion", "right", "tokens", "along", "planned", "plan_right"),
    [
        ("00 03 04", 1, (1, 1, 1), 1, 0, 0),
        ("04 03 00 = 00 03 04", 1, (1, 1, 1), 1, 1, 1),
        ("02 01 00 = 00 03 04", 1, (1, 1, 1), 1, 1, 0),
        ("00 01 02", 0, (1, 0, 0), 1, 0, 0),  # the other arm, to its end
        ("00 01 04", 0, (1, 0, 1), 0.5, 0, 0),  # the other arm, then a leap to the goal
        ("00 03 04 04", 0, (1, 1, 1), 2 / 3, 0, 0),
        ("00 03", 0, (1, 1, 0), 0.5, 0, 0),  # what is missing follows no edge
        ("04 03 00", 0, (0, 1, 0), 0, 0, 0),
        ("", 0, (0, 0, 0), 0, 0, 0),
    ],
)
def test_the_judge_tells_tokens_edges_and_plan(
    completion, right, tokens, along, planned, plan_right
):
    assert judged(completion) == {
        "right": right,
        **{f"token {place}": value for place, value in enumerate(tokens, 1)},
        "steps along edges": pytest.approx(along),
        "planned": planned,
        "plan right": plan_right,
    }
