"""Runs to claim and to resume, made by hand."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from grpo_credit.records import checkpoints, directory, manifest

HUB_TOKEN = "hf_" + "a1B2" * 8
WITHOUT_SYSTEM_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def describe(**config):
    extra = {"checkpoints": checkpoints.LIST}
    return manifest.manifest(["recipe.py", "--steps", "3"], config, {"train": None}, 0, extra)


def add_checkpoint(run: Path, step: int, *, listed: bool = True) -> Path:
    checkpoint = run / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"w": torch.zeros(3)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if listed:
        checkpoints.seal(checkpoint)
    return checkpoint


def write_metrics(run: Path, *steps: int, torn: str = "") -> str:
    text = "".join(json.dumps({"step": step, "time_s": step / 2}) + "\n" for step in steps) + torn
    (run / "metrics.jsonl").write_text(text)
    return text


def interrupted_run(run: Path, **config) -> None:
    directory.claim(run, describe(**config), resume=False)
    manifest.set_status(run, "interrupted", 2)
