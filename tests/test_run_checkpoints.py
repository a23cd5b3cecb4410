"""Which checkpoint a resumed run goes on from, and what is said of the others."""

import json
import os

import pytest
import torch
from run_helpers import add_checkpoint, describe, interrupted_run
from safetensors.torch import save_file

from grpo_credit.records import checkpoints, directory


def claim(run, **config):
    return directory.claim(run, describe(**config), resume=True)


def test_what_was_not_finished_is_set_aside_and_told(tmp_path, capsys):
    interrupted_run(tmp_path)
    for step in (9, 10):
        add_checkpoint(tmp_path, step)
    for step in (11, 12):
        add_checkpoint(tmp_path, step, listed=False)
    assert claim(tmp_path) == tmp_path / "checkpoint-10"
    aside = sorted(path.name for path in tmp_path.glob("incomplete-*"))
    assert aside == ["incomplete-checkpoint-11", "incomplete-checkpoint-12"]
    assert capsys.readouterr().err.splitlines() == [
        f"checkpoint-{step} is left out, and is now incomplete-checkpoint-{step}: it was not "
        "finished: it has no files.json; going on from checkpoint-10"
        for step in (12, 11)
    ]


def test_a_run_whose_first_checkpoint_was_not_finished_begins_at_the_first_step(tmp_path, capsys):
    interrupted_run(tmp_path)
    add_checkpoint(tmp_path, 2, listed=False)
    assert claim(tmp_path) is None
    assert "files.json; beginning at the first step" in capsys.readouterr().err


def test_a_half_deleted_older_checkpoint_is_no_matter(tmp_path, capsys):
    interrupted_run(tmp_path)
    (add_checkpoint(tmp_path, 2) / "optimizer.pt").unlink()  # killed in a rotation
    add_checkpoint(tmp_path, 4)
    assert claim(tmp_path) == tmp_path / "checkpoint-4"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["optimizer.pt"], "it has no optimizer state"),
        (["scheduler.pt"], "it has no scheduler state"),
        (["rng_state.pth"], "it has no random state"),
        (
            ["optimizer.pt", "scheduler.pt", "rng_state.pth"],  # as with save_only_model
            "it has no optimizer and no scheduler and no random state",
        ),
    ],
)
def test_a_checkpoint_without_a_state_is_never_resumed(tmp_path, names, message):
    interrupted_run(tmp_path)
    checkpoint = add_checkpoint(tmp_path, 2, listed=False)
    for name in names:
        (checkpoint / name).unlink()
    checkpoints.seal(checkpoint)
    with pytest.raises(ValueError, match=rf"no checkpoint in .* \(checkpoint-2: {message}\)"):
        claim(tmp_path)
    add_checkpoint(tmp_path, 1)
    assert claim(tmp_path) == tmp_path / "checkpoint-1"


def test_every_rank_needs_its_random_state(tmp_path):
    checkpoint = add_checkpoint(tmp_path, 2)
    assert checkpoints.missing_state(checkpoint, 2) == "it has no random state"
    for rank in (0, 1):
        torch.save({}, checkpoint / f"rng_state_{rank}.pth")
    assert checkpoints.missing_state(checkpoint, 2) is None
    assert checkpoints.missing_state(checkpoint, 3) == "it has no random state"


@pytest.mark.parametrize("names", [["optimizer_0/x.distcp", "scheduler.pt"], ["global_step2/x"]])
def test_states_of_sharded_models_are_states(tmp_path, names):  # FSDP's, DeepSpeed's
    for name in [*names, "rng_state.pth"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert checkpoints.missing_state(tmp_path, 1) is None


def test_a_file_in_a_folder_of_a_checkpoint_is_listed_too(tmp_path):
    checkpoint = add_checkpoint(tmp_path, 2, listed=False)
    (checkpoint / "adapter").mkdir()
    save_file({"w": torch.ones(3)}, checkpoint / "adapter" / "adapter_model.safetensors")
    checkpoints.seal(checkpoint)
    (checkpoint / "adapter" / "adapter_model.safetensors").unlink()
    assert checkpoints.damage(checkpoint) == "adapter/adapter_model.safetensors is missing"


def test_a_hole_in_a_long_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BLOCK", 64)  # 64 blocks of 64 bytes: not all of it is read
    checkpoint = add_checkpoint(tmp_path, 2, listed=False)
    weights = bytearray(os.urandom(20_000))
    (checkpoint / "weights.bin").write_bytes(weights)
    checkpoints.seal(checkpoint)
    for start in range(0, len(weights), 400):  # a block begins every 316 or 317 bytes
        torn = weights[:start] + bytes(400) + weights[start + 400 :]
        (checkpoint / "weights.bin").write_bytes(torn[: len(weights)])
        told = "the content of weights.bin is not what was written"
        assert checkpoints.damage(checkpoint) == told


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"a": 1}}', "{"])
def test_a_list_that_is_none_is_damage(tmp_path, content):
    checkpoint = add_checkpoint(tmp_path, 2)
    (checkpoint / "files.json").write_text(content)
    assert "files.json" in checkpoints.damage(checkpoint)


def test_a_run_that_is_older_than_the_lists_is_refused_and_left_alone(tmp_path):
    old = {**describe(), "extra": {}}
    directory.claim(tmp_path, old, resume=False)
    add_checkpoint(tmp_path, 2, listed=False)
    told = r"no checkpoint in .* can be resumed \(checkpoint-2: it was not .* Nothing was changed"
    with pytest.raises(ValueError, match=told):
        claim(tmp_path)
    assert (tmp_path / "checkpoint-2").is_dir()


def test_the_best_checkpoint_must_be_whole_where_the_end_needs_it(tmp_path):
    interrupted_run(tmp_path, load_best_model_at_end=True)
    for step, best in ((2, 2), (4, 2), (6, 4)):
        checkpoint = add_checkpoint(tmp_path, step, listed=False)
        state = {"best_model_checkpoint": f"somewhere/else/checkpoint-{best}"}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        checkpoints.seal(checkpoint)
    (tmp_path / "checkpoint-4" / "model.safetensors").unlink()
    assert claim(tmp_path, load_best_model_at_end=True) == tmp_path / "checkpoint-2"
    assert (tmp_path / "incomplete-checkpoint-6").is_dir()
