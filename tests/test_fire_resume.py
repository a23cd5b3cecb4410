"""A run that was killed at any moment ends, once resumed, like one that was never disturbed."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from fork_server import ForkServer
from harness import TOKENIZER, policy
from resume_helpers import is_finished, outcome, steps, times
from safetensors.torch import load_file
from transformers.utils import logging

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.records import checkpoints

RECIPE = Path(__file__).parent.parent / "recipes" / "grpo_regex.py"
SETTINGS = {
    "model_name_or_path": "model", "dataset_name": "data", "pattern": r"(?s).*\d.*",
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8,
    "max_steps": 6, "logging_steps": 1, "save_steps": 2, "learning_rate": 0.01, "credit": "seq",
    "gradient_checkpointing": False, "gradient_accumulation_steps": 1, "test_prompts": 4,
    "test_samples": 1, "save_rollouts": 2, "preflight": "off", "seed": 7,
}  # fmt: skip
EPOCHS = {  # the last one is cut off: 36 prompts, 2 a step, 18 steps in an epoch
    "max_steps": -1, "num_train_epochs": 0.3, "save_strategy": "epoch", "eval_strategy": "epoch",
    "eval_on_start": True, "per_device_eval_batch_size": 4,
}  # fmt: skip
LISTED = {"extra": {"checkpoints": checkpoints.LIST}, "config": {}, "world_size": 1}
KILLS, SEEDS = 10, (1, 2, 3)
SYNC = "grpo_credit.records.checkpoints:sync"
STEP_END = "grpo_credit.run.callbacks:StopOnSignal.on_step_end"
SEALED = {
    "at": "grpo_credit.trainer.resuming:rotate_checkpoints"
}  # the checkpoint is whole by then

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def flags(**more):
    return [f"--{name}={value}" for name, value in (SETTINGS | more).items()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fire")
    policy().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    rows = [{"prompt": f"{i}+{i}="} for i in range(40)]
    Dataset.from_list(rows).save_to_disk(str(folder / "data"))
    server = ForkServer(RECIPE, folder)
    yield server
    server.close()


def attempt(server, name, *more, **how):
    """Start a run or go on with it; return its code and what was printed."""
    resume = ["--resume"] if (server.folder / name / "manifest.json").exists() else []
    code, _, out = server.run(*more, f"--output_dir={name}", *resume, **how)
    return code, out


def finish(server, name, **settings):
    """Run to the end, or go on to it; return what was printed."""
    code, out = attempt(server, name, *flags(**settings))
    assert code == 0, out
    return out


def killed(server, name, *strikes, **settings):
    """Start a run or go on with it, up to where it is killed; return what was printed."""
    code, out = attempt(server, name, *flags(**settings), strikes=strikes)
    assert code == -9, out
    return out


@pytest.fixture(scope="module")
def undisturbed(server):
    """A run that nothing befell: its seconds of CPU, and what it left."""
    code, seconds, out = server.run(*flags(output_dir="undisturbed"))
    assert code == 0, out
    assert "mtime" not in out  # what transformers says of checkpoints within a second
    left = outcome(server.folder / "undisturbed")
    trained = [line for line in left[0] if "loss" in line]
    assert [line["step"] for line in trained] == [1, 2, 3, 4, 5, 6]
    assert sum(line["grad_norm"] > 0 for line in trained) >= 5
    assert len(left[1]) == 1 + 3 + 6 + 6 + 3
    return seconds, left


def half_way(server, name, **settings):
    """Make a run that was killed when its second checkpoint, of step 4, was whole."""
    killed(server, name, SEALED | {"nth": 2}, **settings)
    return server.folder / name


# ---- killed at any moment ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_at_random_moments_change_nothing(server, undisturbed, seed):
    life, expected = undisturbed
    draw = random.Random(seed)
    moments = [life * (i + draw.random()) / KILLS for i in range(KILLS)]  # all over a run's life
    draw.shuffle(moments)
    kills, run = 0, 0
    while kills < KILLS:
        run += 1
        name, code = f"random-{seed}-{run}", -9
        while code == -9:
            moment = moments[kills] if kills < KILLS else None
            code, out = attempt(server, name, *flags(), **({"kill_at": moment} if moment else {}))
            kills += code == -9
            if code == -9 and is_finished(server.folder / name):
                code = 0  # there is nothing to go on with
        where = f"seed {seed}, run {run}, after {kills} kills: {out}"
        assert code == 0, where
        assert steps(server.folder / name) == [1, 2, 3, 4, 5, 6], where
        assert outcome(server.folder / name) == expected, where


# ---- killed while a checkpoint is written -----------------------------------------------------


def test_a_kill_at_any_file_of_a_checkpoint_leaves_the_one_before(server, undisturbed):
    # Of one only the newest is kept, so the one before must outlive the writing.
    run, one = server.folder / "files", {"save_total_limit": 1}
    shutil.copytree(half_way(server, "two", **one), run)
    written = json.loads((run / "checkpoint-4" / "files.json").read_text())["files"]
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(written)
    saving = [
        {"at": "torch:save", "matching": f"checkpoint-6/{name}"}
        for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    ]
    saving += [{"at": SYNC, "matching": f"checkpoint-6/{name}",
                "cut": True} for name in written]  # fmt: skip
    saving += [{"at": "grpo_credit.records.checkpoints:replace_text", "matching": "6/files.json"}]
    saving += [{"at": SYNC, "matching": "completions_00006.parquet"}]  # the tables come first
    for number, strike in enumerate(saving):
        out = killed(server, "files", strike, **one)
        assert (run / "checkpoint-6").is_dir()
        assert not (run / "checkpoint-6" / "files.json").exists()
        told = "it was not finished: it has no files.json; going on from checkpoint-4"
        assert number == 0 or told in out
    out = killed(server, "files", SEALED, **one)  # both are whole now
    assert "checkpoint-6 is left out, and is now incomplete-checkpoint-6" in out
    whole = {path.parent.name for path in run.glob("checkpoint-*/files.json")}
    assert whole == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}  # none is deleted before
    finish(server, "files", **one)
    assert outcome(run) == undisturbed[1]


def test_a_checkpoint_that_is_written_anew_is_not_lost_in_between(server, epochs):
    # A signal in the last step: one checkpoint at the end of the step, one at that of the epoch.
    stop = {"at": STEP_END, "nth": 6, "how": "SIGTERM"}
    cut = {"at": SYNC, "matching": "checkpoint-6/optimizer.pt", "nth": 2, "cut": True}
    killed(server, "anew", stop, cut, **EPOCHS)
    run = server.folder / "anew"
    assert (run / "replaced-checkpoint-6" / "files.json").exists()
    assert "going on from replaced-checkpoint-6" in finish(server, "anew", **EPOCHS)
    assert [path.name for path in run.glob("*checkpoint-*")].count("incomplete-checkpoint-6") == 1
    assert not (run / "replaced-checkpoint-6").exists()
    assert outcome(run) == epochs


def test_a_signal_in_the_middle_of_an_epoch_does_not_end_it(server, epochs):
    strike = {"at": STEP_END, "nth": 3, "how": "SIGTERM"}
    code, _, out = server.run(*flags(**EPOCHS, output_dir="middle"), strikes=[strike])
    assert code == 143, out
    finish(server, "middle", **EPOCHS)
    assert outcome(server.folder / "middle") == epochs


# ---- damaged afterwards, as by a power cut ----------------------------------------------------


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


DAMAGES = (remove, empty, halve, zero_half)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_noticed_and_named(undisturbed, server, tmp_path, damage):
    whole = server.folder / "undisturbed" / "checkpoint-6"
    names = sorted(path.name for path in whole.iterdir())
    assert {"model.safetensors", "config.json", "optimizer.pt", "files.json"} < set(names)
    for name in names:
        checkpoint = tmp_path / name / "checkpoint-6"
        shutil.copytree(whole, checkpoint)
        assert checkpoints.damage(checkpoint) is None
        damage(checkpoint / name)
        told = checkpoints._wrong_with(checkpoint, LISTED)
        assert told is not None
        assert name in told


def test_a_resumed_run_takes_the_checkpoint_before_a_damaged_one(server, undisturbed):
    run = half_way(server, "damaged")
    for name, damage, told in (
        ("optimizer.pt", remove, "optimizer.pt is missing"),
        ("rng_state.pth", remove, "rng_state.pth is missing"),
        (
            "model.safetensors",
            zero_half,
            "the content of model.safetensors is not what was written",
        ),
    ):
        damage(run / "checkpoint-4" / name)
        out = killed(server, "damaged", SEALED)
        assert f": {told}; going on from checkpoint-2" in out
        assert steps(run)[-2:] == [3, 4]
    finish(server, "damaged")
    assert outcome(run) == undisturbed[1]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(server, undisturbed):
    run = half_way(server, "lost")
    halve(run / "checkpoint-2" / "scheduler.pt")
    remove(run / "checkpoint-4" / "optimizer.pt")
    before = times(run)
    for _ in range(2):
        code, _, out = server.run(*flags(output_dir="lost"), "--resume")
        assert code == 2
        assert out.count("\n") == 1
        assert (
            "no checkpoint in lost can be resumed (checkpoint-4: optimizer.pt is missing; " in out
        )
        assert "checkpoint-2: scheduler.pt has " in out
        assert "Nothing was changed." in out
        assert times(run) == before
    for checkpoint in run.glob("checkpoint-*"):
        checkpoint.rename(run / f"my-{checkpoint.name}")
    finish(server, "lost")
    assert outcome(run) == undisturbed[1]


# ---- stopped between the last checkpoint and the end ------------------------------------------

MEASURE = "grpo_credit.run.evaluation:measure"
MODEL = "grpo_credit.records.checkpoints:save_model"


def test_a_run_that_had_its_last_checkpoint_trains_no_further_step(server, undisturbed):
    run = server.folder / "last"
    shutil.copytree(half_way(server, "four"), run)
    killed(server, "last", {"at": "os:unlink", "matching": "scheduler.pt"})  # while it rotates
    weights = (run / "checkpoint-6" / "model.safetensors").read_bytes()
    for strike in ({"at": MODEL}, {"at": f"{MODEL.partition(':')[0]}:_sync_all"},
                   {"at": MODEL, "late": True}, {"at": MEASURE}, {"at": MEASURE, "late": True},
                   {"at": "grpo_credit.records.manifest:set_status"}):  # fmt: skip
        out = killed(server, "last", strike)
        assert "every step was trained before" in out
        assert steps(run) == [1, 2, 3, 4, 5, 6]
    finish(server, "last")
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    assert outcome(run) == undisturbed[1]


@pytest.mark.parametrize(("how", "at", "nth"), [("SIGTERM", STEP_END, 6), ("SIGINT", MEASURE, 2)])
def test_a_signal_in_the_last_step_or_the_last_test_leaves_no_step_to_train(
    server, undisturbed, how, at, nth
):
    strike = {"at": at, "nth": nth, "how": how}
    code, _, out = server.run(*flags(output_dir=how), strikes=[strike])
    assert code != 0, out
    assert (
        json.loads((server.folder / how / "manifest.json").read_text())["status"] == "interrupted"
    )
    assert "every step was trained before" in finish(server, how)
    assert outcome(server.folder / how) == undisturbed[1]


@pytest.fixture(scope="module")
def epochs(server):
    """An undisturbed run that ends with a part of an epoch, tested and saved by epochs."""
    finish(server, "epochs", **EPOCHS)
    assert steps(server.folder / "epochs") == [1, 2, 3, 4, 5, 6]
    return outcome(server.folder / "epochs")


def test_an_end_that_is_told_in_epochs_is_an_end(server, epochs):
    for _ in range(2):
        out = killed(server, "ended", {"at": MODEL}, **EPOCHS)
    assert "every step was trained before" in out
    finish(server, "ended", **EPOCHS)
    assert outcome(server.folder / "ended") == epochs


# ---- what else a killed run must not skip -----------------------------------------------------


def test_a_strict_preflight_that_was_killed_is_passed_before_training(server):
    never = {"pattern": "never", "preflight": "strict"}
    killed(server, "strict", {"at": "grpo_credit.preflight.report:show"}, **never)
    code, _, out = server.run(*flags(**never, output_dir="strict"), "--resume")
    assert code == 2, out
    assert "preflight: error: nothing was trained: " in out
    assert list((server.folder / "strict").iterdir()) == []


def test_a_preflight_that_was_passed_is_not_repeated(server, undisturbed):
    strike = {"at": STEP_END, "nth": 2}
    assert "preflight: " in killed(server, "looked", strike, preflight="auto")
    assert "preflight: " not in finish(server, "looked", preflight="auto")
    assert outcome(server.folder / "looked") == undisturbed[1]


# ---- a trainer of one's own -------------------------------------------------------------------


def digits(completions, **_):
    return [float(any(c.isdigit() for c in completion)) for completion in completions]


def trainer(folder, out, **settings):
    args = CreditGRPOConfig(
        str(out), per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
        use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False, **settings,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": f"{i}+{i}="} for i in range(8)])
    return CreditGRPOTrainer(str(folder / "model"), digits, args, rows, credit="seq")


def test_a_trainer_does_no_step_beyond_a_lower_limit(server, undisturbed, tmp_path):
    checkpoint = server.folder / "undisturbed" / "checkpoint-6"
    resumed = trainer(server.folder, tmp_path, max_steps=4)
    assert resumed.train(str(checkpoint)).global_step == 6
    weights = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(weights[name], w) for name, w in resumed.model.state_dict().items()
               if name in weights)  # fmt: skip
    assert resumed.train().global_step == 4  # anew, as ever
    assert resumed.evaluate(resumed.train_dataset)  # which logs


def test_a_trainer_resumes_no_damaged_checkpoint_and_says_what_one_lacks(
    server, undisturbed, tmp_path, caplog
):
    checkpoint = tmp_path / "checkpoint-6"
    shutil.copytree(server.folder / "undisturbed" / "checkpoint-6", checkpoint)
    (checkpoint / "optimizer.pt").unlink()
    resumed = trainer(server.folder, tmp_path, max_steps=7)
    for asked in (True, str(checkpoint)):
        with pytest.raises(
            ValueError, match=r"checkpoint-6 cannot be resumed: optimizer\.pt is mi"
        ):
            resumed.train(asked)
    (checkpoint / "files.json").unlink()  # as TRL's trainer leaves one, with save_only_model
    with caplog.at_level("WARNING"):
        logging.enable_propagation()
        assert resumed.train(True).global_step == 7
    assert "checkpoint-6: it has no optimizer state; the training will not be the un" in caplog.text
