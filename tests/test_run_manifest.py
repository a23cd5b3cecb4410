"""What was run, on what, and how it ended."""

import functools
import importlib.metadata
import json
import math
import signal
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset
from run_helpers import HUB_TOKEN, WITHOUT_SYSTEM_CONFIG, add_checkpoint, describe
from torch import nn
from torchrun import ended

from grpo_credit.records import directory, jsonfile, manifest, provenance
from grpo_credit.run.callbacks import StopOnSignal

# --- JSON


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
        "function": "run_helpers.add_checkpoint",
        "lambda": {"partial": "math.pow", "args": [2.0], "y": 3},
        "object": "builtins.object",
        "set": ["a", "b"],
        "1": [True, None],
    }


# --- the manifest


SECRET = (
    "token hub_token hf_token push_to_hub_token use_auth_token access_token refresh_token "
    "GITHUB_TOKEN id_token session_token hubToken hub_token_2 api_key apiKey API_KEY wandb_key "
    "WANDB_API_KEY OPENAI_API_KEY swanlab_api_key private_key ssh_key aws_secret_access_key "
    "AWS_ACCESS_KEY_ID secret client_secret password db_password passphrase credentials "
    "authorization cookie apikey api_keys access_tokens --hub-token --wandb-key"
)
HARMLESS = (
    "bos_token eos_token pad_token unk_token sep_token cls_token mask_token image_token "
    "audio_bos_token vision_start_token boi_token end_of_utterance_token fake_image_token "
    "decoder_start_token forced_bos_token eos_token_id pad_token_id audio_samples_per_token "
    "stop_token num_tokens max_new_tokens suppress_tokens additional_special_tokens tokenizer "
    "tokenizer_name token_healing token_type_ids importance_sampling_level top_entropy_quantile "
    "include_num_input_tokens_seen average_tokens_across_devices credit credit_kwargs key keys "
    "prompt_key messages_key answer_key sort_key label_key public_key num_key_value_heads k_proj "
    "monkey keyword key_bits author passes tokens pass@4 --eos-token --num-generations"
)


@pytest.mark.parametrize("key", SECRET.split())
def test_the_name_of_a_credential_hides_its_value(key):
    assert provenance.hide_secrets({key: "x"}) == {key: "<hidden>"}


@pytest.mark.parametrize("key", HARMLESS.split())
def test_other_names_hide_nothing(key):
    assert provenance.hide_secrets({key: "x"}) == {key: "x"}


def test_every_option_of_trl_but_one_is_shown():
    from dataclasses import fields

    from trl import GRPOConfig, ModelConfig, SFTConfig

    names = {field.name for kind in (GRPOConfig, ModelConfig, SFTConfig) for field in fields(kind)}
    hidden = {name for name in names if provenance.is_secret(name)}
    assert {"hub_token", "push_to_hub_token"} & names == hidden
    assert "eos_token" in names


def test_what_lies_under_a_secret_is_hidden_at_every_depth():
    nested = {"secrets": {"a": ["x", {"b": "y"}]}, "env": {"WANDB_API_KEY": "z", "HOME": "/h"}}
    assert provenance.hide_secrets(nested) == {
        "secrets": {"a": ["<hidden>", {"b": "<hidden>"}]},
        "env": {"WANDB_API_KEY": "<hidden>", "HOME": "/h"},
    }


@pytest.mark.parametrize("form", [["--model_init_kwargs={}"], ["--model_init_kwargs", "{}"]])
def test_a_secret_in_json_on_the_command_line_is_hidden(form):
    words = [word.replace("{}", '{"token": "abc", "revision": "main"}') for word in form]
    described = provenance.describe_command(["r.py", *words, '--credit_kwargs={"alpha":0.5}'])
    assert "abc" not in json.dumps(described)
    assert '"revision": "main"' in " ".join(described["argv"])
    assert described["argv"][-1] == '--credit_kwargs={"alpha":0.5}'  # as it was typed


def test_secrets_are_hidden_wherever_they_stand():
    note = "my {} and https://{}@host/x"
    config = {"model_init_kwargs": {"api_key": "secret-1"}, "num_tokens": 12,
              "note": note.format(HUB_TOKEN, "me:secret-2")}  # fmt: skip
    argv = ["recipe.py", "--hub_token", "secret-3", "--api-key=secret-4", f'{{"x": "{HUB_TOKEN}"}}']
    made = manifest.manifest(argv, config, {}, 0, {"token": "secret-5"})
    assert "secret-" not in json.dumps(made)
    assert HUB_TOKEN not in json.dumps(made)
    hidden = provenance.HIDDEN
    assert made["config"] == {
        "model_init_kwargs": {"api_key": hidden}, "num_tokens": 12,
        "note": note.format(hidden, hidden),
    }  # fmt: skip
    assert made["command"]["argv"][2] == hidden


def test_no_environment_variable_is_recorded(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "from-the-environment")
    assert "from-the-environment" not in json.dumps(describe())


def test_the_manifest_says_what_ran_on_what(tmp_path):
    directory.claim(tmp_path, describe(beta=0.0), resume=False)
    manifest.set_model(tmp_path, nn.Linear(2, 1))
    made = manifest.read_manifest(tmp_path)
    assert made["command"]["shell"] == "recipe.py --steps 3"
    assert made["versions"]["torch"] == importlib.metadata.version("torch")
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
    assert provenance.git_state(recipe) is None
    git = functools.partial(subprocess.run, cwd=recipe.parent, check=True, capture_output=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    git(["git", "init"])
    git(["git", "add", "."])
    git(["git", *identity, "commit", "-m", "first"])
    state = provenance.git_state(recipe)
    assert (state["tracked"], state["dirty"], len(state["commit"])) == (True, False, 40)
    recipe.write_text("2")
    assert provenance.git_state(recipe)["dirty"]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert provenance.git_state(recipe) is None


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
        with manifest.recorded(tmp_path, stop, lambda: 7):
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


def test_a_disk_too_full_to_record_an_error_does_not_hide_it(tmp_path, monkeypatch):
    directory.claim(tmp_path, describe(), resume=False)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(manifest, "write_json", Mock(side_effect=full))
    recorded = manifest.recorded(tmp_path, StopOnSignal(), lambda: None)
    with pytest.raises(ZeroDivisionError) as raised, recorded:
        raise ZeroDivisionError
    assert raised.value.__notes__ == [f"{tmp_path / 'manifest.json'} does not say so: {full}"]


def test_the_error_is_that_of_the_rank_that_failed_first(tmp_path):
    done = ended(2, "failing_rank.py", tmp_path / "run")
    assert done.returncode != 0
    assert "row 7 has no answer" in done.stderr
    made = manifest.read_manifest(tmp_path / "run")
    assert (made["status"], made["error"]) == ("failed", "rank 1: ValueError: row 7 has no answer")


def test_a_failure_is_not_covered_by_what_follows(tmp_path):
    directory.claim(tmp_path, describe(), resume=False)
    manifest.set_status(tmp_path, "failed", 2, ValueError("first"))
    for later in ({"status": "failed", "error": RuntimeError("later")}, {"status": "interrupted"}):
        manifest.set_status(tmp_path, **later)
        assert manifest.read_manifest(tmp_path)["error"] == "ValueError: first"
