"""Plan and preflight where a user meets them: the command, and a recipe that is started."""

import io
import json
import shutil

import pytest
import yaml
from harness import policy
from rich.console import Console
from safetensors.torch import load_file, save_file
from test_recipe import PATTERN, RECIPE, SHORT, flags, user_folder
from transformers import TrainerControl, TrainerState

from grpo_credit.cli import main
from grpo_credit.credit.userfile import load_recipe
from grpo_credit.preflight import early as early_module
from grpo_credit.preflight.early import EarlyWarnings
from grpo_credit.preflight.findings import Finding
from grpo_credit.records import directory, manifest
from grpo_credit.run.training import run_recipe


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("user"))


def command(**more):
    settings = {"pattern": PATTERN, "model_name_or_path": "model", "dataset_name": "data.jsonl"}
    return flags(SHORT | settings | {"max_steps": 2} | more)


def entries(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# ---- plan -------------------------------------------------------------------------------------


def planned(own, monkeypatch, capsys, *more):
    def fail(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.chdir(own)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", fail)
    before = entries(own)
    assert main(["plan", str(RECIPE), *command(), *more]) == 0
    assert entries(own) == before
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_plan_says_what_the_options_mean_and_writes_nothing(own, monkeypatch, capsys):
    out = planned(own, monkeypatch, capsys, "--credit=entropy_soft/seq", "--num_iterations=2")
    assert "8 completions of 2 prompts x 4 (per device 8 x accumulation 1 x processes 1)" in out
    assert "one generation serves 2 optimizer steps" in out
    assert "off-policy by up to 1 steps (num_iterations 2," in out
    assert "2 (0.0556 epochs of 36 prompts), 1 generations" in out
    assert "tokens of completions: at most 64 a step, 64 generated in all" in out
    assert "of a prompt: 6 on average, 6 at most (36 looked at)" in out
    assert f"parameters trained {sum(p.numel() for p in policy().parameters()):,} (all)" in out
    assert "allocation entropy_soft: A[i, t] = A_i" in out
    assert "entropies: a forward pass over each generation" in out
    assert "rewards format" in out
    assert "held-out test 12 completions of 4 prompts x (greedy + 2 samples), in 2 calls" in out
    assert "2 times: at most" in out
    assert "draws: paired: seeded by chunk of 8 rows" in out


def test_an_adapter_is_counted(own, monkeypatch, capsys):
    out = planned(own, monkeypatch, capsys, "--use_peft", "--lora_r=2", "--bf16=False",
                  "--lora_target_modules", "q_proj", "v_proj")  # fmt: skip
    # one layer, width 16: q and v of 16 x 16, each 2 * (16 + 16)
    assert "parameters trained 128 (an adapter's," in out


def test_dry_run_is_an_option_of_the_recipe_and_of_yaml(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    (own / "dry.yaml").write_text(yaml.dump({"dry_run": True, "preflight": False}))
    assert run_recipe(load_recipe(RECIPE), ["--config", "dry.yaml", *command()]) == 0
    assert "what this configuration means" in capsys.readouterr().out
    assert not (own / "runs").exists()


def test_without_a_model_the_tiny_one_is_described_and_not_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["plan", str(RECIPE), "--credit=seq"]) == 0
    assert "505,344 (all)" in capsys.readouterr().out
    assert entries(tmp_path) == []


def test_mistakes_cost_one_line(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    (own / "empty.py").write_text("")
    for recipe, message in (("none.py", "there is no file none.py"), ("empty.py", "no RECIPE")):
        assert main(["plan", recipe]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["preflight", str(RECIPE), *command(), "--preflight=stict"])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert "preflight is 'stict', expected one of auto, strict, off." in err
    assert (out, err.count("\n")) == ("", 1)


# ---- preflight --------------------------------------------------------------------------------


def test_the_verb_judges_and_writes_nothing(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    before = entries(own)
    never = command(pattern="never")
    assert main(["preflight", str(RECIPE), *never]) == 0
    out = capsys.readouterr().out
    assert "reward format: it is constant: 0 for all 16" in out
    assert "the first completion: " in out
    assert main(["preflight", str(RECIPE), *never, "--preflight=strict"]) == 2
    assert "preflight: error: nothing was trained:" in capsys.readouterr().err
    assert entries(own) == before


def test_a_strict_preflight_stops_before_training_and_gives_the_directory_back(
    own, monkeypatch, capsys
):
    monkeypatch.chdir(own)
    recipe = load_recipe(RECIPE)
    again = command(pattern="never", output_dir="runs/strict", preflight="strict")
    assert run_recipe(recipe, again) == 2
    assert entries(own / "runs") == ["strict"]  # named by the user, and empty
    assert "reward format" in capsys.readouterr().err
    assert run_recipe(recipe, command(output_dir="runs/strict", preflight="off")) == 0
    assert json.loads((own / "runs/strict/manifest.json").read_text())["status"] == "finished"
    assert "preflight:" not in capsys.readouterr().out


def test_a_recipe_looks_first_and_not_again_on_resume(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    recipe = load_recipe(RECIPE)
    started = command(output_dir="runs/auto", save_steps=1, pattern="never")
    assert run_recipe(recipe, started) == 0
    out = capsys.readouterr().out
    goes_on = out.index("training goes on in spite of the errors; --preflight=strict would stop")
    assert out.index("preflight: ") < goes_on < out.index("held-out prompts")
    manifest.set_status("runs/auto", "interrupted", 1)
    assert run_recipe(recipe, [*started, "--resume", "--preflight=strict"]) == 0
    assert "preflight:" not in capsys.readouterr().out


def test_a_strict_resume_before_the_first_checkpoint_stops_at_what_auto_went_past(
    own, monkeypatch, capsys
):
    monkeypatch.chdir(own)
    recipe = load_recipe(RECIPE)
    started = command(output_dir="runs/past", pattern="never", save_strategy="no")
    assert run_recipe(recipe, started) == 0
    manifest.set_status("runs/past", "interrupted", 1)
    before = (own / "runs/past/metrics.jsonl").read_text()
    capsys.readouterr()
    assert run_recipe(recipe, [*started, "--resume", "--preflight=strict"]) == 2
    assert "preflight: error: nothing was trained: " in capsys.readouterr().err
    # An earlier attempt trained here: what it left is all there.
    assert json.loads((own / "runs/past/manifest.json").read_text())["status"] == "interrupted"
    assert (own / "runs/past/metrics.jsonl.bak-1").read_text() == before


def test_an_adapter_is_not_resumed_on_another_base(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    shutil.copytree("model", "base")
    started = command(output_dir="runs/base", model_name_or_path="base", save_steps=1,
                      preflight="off", use_peft=True)  # fmt: skip
    assert run_recipe(load_recipe(RECIPE), started) == 0
    manifest.set_status("runs/base", "interrupted", 1)
    before = (own / "runs/base/manifest.json").read_bytes()
    weights = load_file("base/model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, "base/model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert run_recipe(load_recipe(RECIPE), [*started, "--resume"]) == 2
    assert "error: the weights of base are not those that the run" in capsys.readouterr().err
    assert (own / "runs/base/manifest.json").read_bytes() == before


def test_releasing_leaves_what_is_not_ours(tmp_path):
    described = manifest.manifest(["recipe.py"], {}, {"train": None}, 0)
    directory.claim(tmp_path / "run", described, resume=False)
    (tmp_path / "run" / "completions").mkdir()
    (tmp_path / "run" / "credit").mkdir()
    (tmp_path / "run" / "credit" / "kept.txt").write_text("mine")
    directory.release(tmp_path / "run", named=False)
    assert entries(tmp_path) == ["run", "run/credit", "run/credit/kept.txt"]
    directory.claim(tmp_path / "other", described, resume=False)
    directory.release(tmp_path / "other", named=False)
    assert not (tmp_path / "other").exists()


# ---- during the first steps -------------------------------------------------------------------


class Args:
    max_completion_length, num_generations = 64, 8


@pytest.fixture
def watching(monkeypatch):
    """Feed a callback logs; give what it prints."""
    out = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(early_module, "console", lambda stderr: out)
    callback, control = EarlyWarnings(), TrainerControl()
    state = TrainerState(global_step=40)
    callback.on_train_begin(Args, state, control)

    def feed(**logs):
        state.global_step += 1
        before = out.file.tell()
        callback.on_log(Args, state, control, logs={"loss": 0.0, **logs})
        return out.file.getvalue()[before:]

    return callback, feed


FINE = {
    "completions/clipped_ratio": 0.0, "credit/dead_groups_low": 0.2, "credit/dead_groups_high": 0.2,
    "rewards/format/mean": 0.5, "rewards/format/std": 0.5,
}  # fmt: skip


CUT = FINE | {"completions/clipped_ratio": 0.9}
CONSTANT = FINE | {"rewards/format/mean": 0.25, "rewards/format/std": 0.0}
DEAD = [FINE | {"credit/dead_groups_low": low, "credit/dead_groups_high": 0.0} for low in
        (1.0, 0.5, 0.9)]  # fmt: skip
FIRST = {  # logs, and what is told of the third step; nothing of the others
    "fine": ([FINE] * 12, ""),
    "truncation, once": (
        [CUT] * 5, "error   truncation: in the first 3 steps, 90% of the completions"
    ),
    "dead groups, by their mean": (DEAD, "only 20.0% of the groups"),  # (1 + 0.5 + 0.9) / 3 low
    "a constant reward": (
        [CONSTANT] * 3,
        "reward format: in the first 3 steps, it is constant: 0.25 for all 3 logged means",
    ),
    "a reward that changes between steps": (
        [CONSTANT | {"rewards/format/mean": mean} for mean in (0.0, 0.5, 1.0)], "",
    ),
    "later steps": ([FINE] * 10 + [CUT] * 5, ""),
}  # fmt: skip


@pytest.mark.parametrize("what", FIRST)
def test_the_first_steps_are_looked_at_from_the_third_on(watching, what):
    _, feed = watching
    logs, expected = FIRST[what]
    told = [feed(**log) for log in logs]
    assert expected in told[2]
    assert bool(told.pop(2)) == bool(expected)
    assert set(told) == {""}


def test_what_the_preflight_told_is_not_told_again(watching):
    callback, feed = watching
    callback.tell([Finding("error", "truncation", "")])
    assert [feed(**CUT) for _ in range(3)] == [""] * 3


def test_only_the_main_process_tells(watching):
    callback, _ = watching
    other = TrainerState(global_step=45, is_world_process_zero=False)
    cut = {"loss": 0.0, **FINE, "completions/clipped_ratio": 0.9}
    callback.on_log(Args, other, TrainerControl(), logs=cut)
    assert callback.told == set()


def test_what_has_to_wait_is_done_when_training_begins():
    callback, done = EarlyWarnings(), []
    callback.pending = lambda: done.append(1) or [Finding("note", "batches", "")]
    for _ in range(2):
        callback.on_train_begin(Args, TrainerState(), TrainerControl())
    assert done == [1]
    assert callback.told == {"batches"}
