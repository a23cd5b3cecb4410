"""Every configuration beside the recipes is read, and says what it means, without a GPU."""

import re
import runpy
from pathlib import Path

import pytest
import yaml
from chat_model import save_chat_model
from datasets import Dataset

from grpo_credit.run.training import run_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
EVERY = sorted((RECIPES / "configs").glob("*.yaml"))
CONFIGS = [path for path in EVERY if not path.stem.startswith("sft_")]
LAUNCHES = sorted((RECIPES / "accelerate").glob("*.yaml"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    save_chat_model(folder / "model")
    rows = [{"question": f"{i} and {i}?", "answer": f"#### {2 * i}"} for i in range(600)]
    Dataset.from_list(rows).to_json(folder / "problems.jsonl")
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_read_and_explained(config, own, monkeypatch, capsys):
    """No model is at hand but a small one, so the name in the file gives way to it."""
    monkeypatch.chdir(own)
    recipe = runpy.run_path(str(RECIPES / "grpo_math.py"))["RECIPE"]
    local = ["--model_name_or_path=model", "--dataset_name=problems.jsonl", "--output_dir=out"]
    options = ["--config", str(config), "--dry_run", "--credit=seq", *local]
    assert run_recipe(recipe, options) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    given = yaml.safe_load(config.read_text())
    rows = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"]
    group = given["num_generations"]
    assert f"{rows} completions of {rows // group} prompts x {group}" in out
    assert "on-policy" in out
    share = given.get("vllm_gpu_memory_utilization")
    assert share is None or f"vLLM takes {share:.0%} of each device" in out
    assert not (own / "out").exists()


def test_a_supervised_configuration_is_read_and_explained(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    Dataset.from_list([{"text": f"{i} and {i}"} for i in range(600)]).to_json("texts.jsonl")
    recipe = runpy.run_path(str(RECIPES / "sft_credit.py"))["RECIPE"]
    (config,) = set(EVERY) - set(CONFIGS)
    local = ["--model_name_or_path=model", "--dataset_name=texts.jsonl", "--output_dir=out"]
    assert run_recipe(recipe, ["--config", str(config), "--dry_run", "--credit=seq", *local]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "32 packed rows (per device 4 x accumulation 8 x processes 1)" in out
    assert "credit even/seq | surrogate: cross entropy" in out


@pytest.mark.parametrize("config", EVERY, ids=lambda path: path.stem)
def test_the_command_in_a_configuration_names_files_that_exist(config):
    comment = config.read_text().split("\nmodel_name_or_path")[0]
    named = re.findall(r"recipes/[\w/.]+", comment)
    assert len(named) == 3 if config.stem != "vllm_server" else len(named) >= 3
    assert f"recipes/configs/{config.name}" in named
    assert all((RECIPES.parent / name).is_file() for name in named)


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_reads_a_launch_configuration(launch):
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(launch))
    kinds = {"cpu": "NO", "one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP",
             "zero3": "DEEPSPEED"}  # fmt: skip
    assert read.distributed_type.value == kinds[launch.stem]


def test_there_are_configurations_for_every_kind_of_machine():
    assert {path.stem for path in EVERY} == {
        "sft_one_gpu_lora",
        "laptop_cpu", "one_gpu_lora", "one_gpu_full", "eight_gpus_ddp", "eight_gpus_fsdp2",
        "eight_gpus_zero3", "one_gpu_vllm", "eight_gpus_vllm", "vllm_server",
    }  # fmt: skip
