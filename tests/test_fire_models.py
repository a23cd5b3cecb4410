"""Model folders that no run could use, told in one sentence before anything is claimed."""

import json
import os
import pickle
import shutil

import pytest
import torch
from harness import TOKENIZER, policy
from safetensors.torch import load_file, save_file

from grpo_credit.run.models import look_up_model

WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    policy().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


class Runs:
    """What a pickle would run."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "it ran"),)


def pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / PICKLE).write_bytes(pickle.dumps({"w": Runs(folder)}))


def zipped_pickle(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"w": Runs(folder)}, folder / PICKLE)


def halved(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def emptied(name):
    return lambda folder: (folder / name).write_bytes(b"")


def one_shard_missing(folder):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    index = {name: f"model-0000{1 + place % 2}-of-00002.safetensors"
             for place, name in enumerate(names)}  # fmt: skip
    for shard in {index[name] for name in names[:1]}:
        save_file({n: weights[n] for n in names if index[n] == shard}, folder / shard)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / f"{WEIGHTS}.index.json").write_text(text)


def drop_a_parameter(folder):
    weights = load_file(folder / WEIGHTS)
    del weights[max(weights)]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / WEIGHTS).unlink(), r"weights of .* cannot be loaded: Error no file named"),
        (emptied(WEIGHTS), "cannot be loaded: SafetensorError: .*header too small"),
        (halved, "cannot be loaded: SafetensorError: "),
        (one_shard_missing, "cannot be loaded: .*model-00002-of-00002.safetensors"),
        (pickled, "cannot be loaded: UnpicklingError: Weights only load failed. Save or download"),
        (zipped_pickle, "cannot be loaded: UnpicklingError: Weights only load failed. Save or"),
        (drop_a_parameter, "lack 1 parameters of its config.json, such as model.norm"),
        (lambda f: configure(f, num_hidden_layers=3), "lack 18 parameters of its config.json"),
        (lambda f: configure(f, vocab_size=7), r"has shape \[101, 16\] in the files and \[7, 16\]"),
        (lambda f: configure(f, hidden_size="x"), "no model or tokenizer"),
        (lambda f: configure(f, architectures=["logging"]), "cannot be loaded"),
        (emptied("config.json"), "no model or tokenizer .*config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "no model or tokenizer"),
        (emptied("tokenizer.json"), "no model or tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "no model or tokenizer .*KeyError"),
        (lambda f: (f / "tokenizer_config.json").unlink(), "names no end token; is its tokenizer"),
        (lambda f: configure(f, model_type="mine", auto_map={"AutoConfig": "x.Y"}), "custom code"),
    ],
)  # fmt: skip
def test_a_model_folder_that_will_not_do_is_told_in_one_sentence(model, capfd, damage, told):
    damage(model)
    with pytest.raises(ValueError, match=told) as error:
        look_up_model(str(model), ["1+1="], trust_remote_code=False)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value), "advice to run what is in a pickle"
    assert not (model / "it ran").exists()
    assert capfd.readouterr().out == ""


def test_a_tokenizer_of_another_model_is_told(model):
    small = policy()
    small.resize_token_embeddings(50)
    small.save_pretrained(model)
    with pytest.raises(
        ValueError, match=r"writes token \d+, and the model has embeddings for 0 to"
    ):
        look_up_model(str(model), ["~~"])


def test_a_whole_model_passes_also_as_tensors_in_a_pickle_and_larger_than_its_tokenizer(model):
    larger = policy()
    larger.resize_token_embeddings(128)  # as those are whose size is a multiple of something
    larger.save_pretrained(model)
    look_up_model(str(model), ["1+1="])
    torch.save(load_file(model / WEIGHTS), model / PICKLE)
    (model / WEIGHTS).unlink()
    look_up_model(str(model), ["1+1="])


def test_a_plan_does_not_look_at_weights(model):
    (model / WEIGHTS).unlink()
    look_up_model(str(model), ["1+1="], weights=False)
