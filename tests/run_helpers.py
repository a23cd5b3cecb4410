"""Runs to claim and to resume, made by hand."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from grpo_credit.run import directory, manifest

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
