"""The warm start: what it learns from, and the cache that keeps it."""

import importlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_credit.tiny import (
    MAX_COMPLETION_TOKENS,
    build_model,
    build_tokenizer,
    check,
    prompts,
    training,
    warm_start,
)
from grpo_credit.tiny import cache as cache_module
from grpo_credit.tiny.training import Settings

# The package re-exports the function under the module's name.
warm_start_module = importlib.import_module("grpo_credit.tiny.warm_start")
TOKENIZER = build_tokenizer()
STEPS = 2


# --- training


def test_training_lowers_the_loss_and_ignores_padding():
    chosen = Settings(seed=0, steps=120, learning_rate=1e-2)
    model = build_model(TOKENIZER, hidden_size=16, layers=1, heads=2)
    loss = training.train(model, warm_start_module.batches(TOKENIZER, chosen), chosen)
    assert loss < 2.5  # nats; ln(101) = 4.6 before training
    short, long = ([3, 4, 5], [-100, 4, 5]), ([3] * 9, [-100] * 9)
    alone, padded = (training.loss_of(model, b).item() for b in ([short], [short, long]))
    assert padded == pytest.approx(alone, rel=1e-5)


def test_loss_is_on_the_completion_only():
    # uniform logits: ln(101) per labelled token, whatever the prompt
    model = build_model(TOKENIZER, hidden_size=16, layers=1)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    example = training.example([7, 8, 9], [10, 11])
    assert example == ([7, 8, 9, 10, 11], [-100, -100, -100, 10, 11])
    assert training.loss_of(model, [example]).item() == pytest.approx(np.log(101), rel=1e-5)


def test_demonstrations_that_end_teach_the_end_token_and_are_cut_at_the_cap():
    chosen = Settings(seed=0, steps=30)
    answers = [
        [label for label in labels if label != -100]
        for _, labels in warm_start_module._examples(TOKENIZER, chosen)
    ]
    ended = [answer[-1] == TOKENIZER.eos_token_id for answer in answers]
    assert max(map(len, answers)) == MAX_COMPLETION_TOKENS
    assert all(
        end or len(a) == MAX_COMPLETION_TOKENS for a, end in zip(answers, ended, strict=True)
    )
    assert 0.8 < np.mean(ended) < 1


# --- cache


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a cache with one real entry; tests that damage it take a copy."""
    root = tmp_path_factory.mktemp("built")
    return warm_start(0, root, STEPS, progress=False)


@pytest.fixture
def copied(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / built.name))


@pytest.fixture
def trainings(monkeypatch):
    """Replace the training loop by one that only counts its calls."""
    calls = []
    monkeypatch.setattr(training, "train", lambda *args: calls.append(args) or 0.0)
    return calls


def test_second_call_uses_the_entry_without_training_or_writing(built, trainings, monkeypatch):
    monkeypatch.setattr(cache_module, "_require_writable", lambda root: pytest.fail("wrote"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in built.iterdir()}
    assert warm_start(0, built.parent, STEPS) == built
    assert trainings == []
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in built.iterdir()} == before


def test_entry_loads_and_says_how_it_was_made(built):
    assert AutoModelForCausalLM.from_pretrained(built).num_parameters() > 400_000
    assert AutoTokenizer.from_pretrained(built).encode("<think>") == TOKENIZER.encode("<think>")
    metrics = json.loads((built / "complete.json").read_text())["metrics"]
    assert metrics["final_loss"] > 0
    assert metrics["seconds"] > 0
    assert metrics["settings"]["steps"] == STEPS


FILES = ["model.safetensors", "complete.json"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[16] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("hurt", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_damaged_entry_is_rebuilt_and_reported(copied, trainings, capsys, name, hurt):
    hurt(copied / name)
    assert warm_start(0, copied.parent, STEPS, progress=False) == copied
    assert len(trainings) == 1
    assert cache_module.damage(copied) is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"grpo-credit: rebuilding {copied}: ")
    assert "complete.json" in said[0]


def test_half_written_folders_are_ignored(built, trainings, tmp_path):
    (tmp_path / f".{built.name}-abc" / "entry").mkdir(parents=True)  # a builder that was killed
    (tmp_path / built.name).mkdir()  # a folder without a manifest
    assert cache_module.damage(warm_start(0, tmp_path, STEPS)) is None
    assert len(trainings) == 1


def test_failed_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", broken)
    with pytest.raises(KeyboardInterrupt):
        warm_start(0, tmp_path, STEPS)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_seed_steps_sources_and_versions_are_in_the_key(monkeypatch):
    def key(seed=0, steps=1):
        return training.fingerprint(
            training._described(warm_start_module.lesson(Settings(seed, steps)))
        )

    first = key()
    assert first == key()
    assert len({first, key(seed=1), key(steps=2)}) == 3
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0")
        assert key() != first
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"edited")
    assert key() != first


def test_builds_are_equal_bit_for_bit_and_leave_global_state_alone(built, tmp_path):
    def state():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global state is the point
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.manual_seed(123)
    with torch.no_grad():
        before = state()
        again = warm_start(0, tmp_path, STEPS, progress=False)
        after = state()
    torch.set_num_threads(threads)
    assert after == before
    weights = "model.safetensors"
    assert (again / weights).read_bytes() == (built / weights).read_bytes()


def test_progress_tells_where_and_can_be_silenced(tmp_path, trainings, capsys):
    warm_start(0, tmp_path, STEPS, progress=False)
    assert capsys.readouterr().err == ""
    warm_start(1, tmp_path, STEPS)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert str(tmp_path) in said[0]


def test_unwritable_cache_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write to the cache folder .*set GRPO_CREDIT_CACHE"):
        warm_start(0, tmp_path / "file" / "cache", STEPS)


def test_no_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="steps is 0, expected at least 1"):
        warm_start(0, tmp_path, steps=0)


def test_cache_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GRPO_CREDIT_CACHE", str(tmp_path))
    assert cache_module.cache_root() == tmp_path
    monkeypatch.delenv("GRPO_CREDIT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_module.cache_root() == tmp_path / "grpo-credit"


BUILD_SLOWLY = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("cache", sys.argv[1])
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)

def build(folder):
    with open(sys.argv[2] + ".log", "a") as log:
        log.write("built\\n")
    (folder / "half").write_text("1")
    time.sleep(0.5)
    (folder / "other half").write_text("2")
    return {}

entry = cache.cached(pathlib.Path(sys.argv[2]), build)
print((entry / "half").read_text() + (entry / "other half").read_text())
"""


def test_of_two_processes_one_builds_and_both_see_it_complete(tmp_path):
    entry = tmp_path / "entry"
    command = [sys.executable, "-c", BUILD_SLOWLY, cache_module.__file__, str(entry)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[0].strip() for run in runs] == ["12", "12"]
    assert Path(f"{entry}.log").read_text() == "built\n"


# --- the whole thing


def test_warm_started_model_obeys_the_format_one_time_in_three(tmp_path):
    entry = warm_start(0, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(entry)
    rows = prompts(256, 1, "test")
    batch = TOKENIZER([row["prompt"] for row in rows], padding=True, return_tensors="pt")

    def format_rate(**options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            out = model.generate(**batch, max_new_tokens=MAX_COMPLETION_TOKENS, **options)
        new = out[:, batch["input_ids"].shape[1] :]
        texts = TOKENIZER.batch_decode(new, skip_special_tokens=True)
        return np.mean([check(t, "").well_formed for t in texts])

    # one in three is taught; four standard errors of 256 draws are 0.12, and a model is off, too
    assert format_rate(do_sample=True, top_k=0) == pytest.approx(1 / 3, abs=0.2)
    assert format_rate(do_sample=False) <= 0.6  # an eighth was seen: there is much to learn
