"""What the seeds of a study vary: one tiny model for all of them, or one for each."""

import json
import runpy
from pathlib import Path

import pytest
from ablate_helpers import FAKE

from grpo_credit.experiments.design import Study
from grpo_credit.experiments.report.data import Pairing
from grpo_credit.experiments.report.view_run import seeds_vary
from grpo_credit.experiments.study.cells import cells_of
from grpo_credit.experiments.study.commandline import read
from grpo_credit.run.recipe import prepare

RECIPES = Path(__file__).parent.parent / "recipes"


def test_every_seed_may_have_a_warm_start_of_its_own(tmp_path):
    words = ["--recipe", str(FAKE), "--credit", "seq", "dapo", "--seeds", "3", "7", "--out", "x"]
    plain, own = (read([*words, *more]).study for more in ([], ["--own_warm_starts"]))
    option = "--warm_start_seed"
    assert not any(option in " ".join(cell.arguments()) for cell in cells_of(plain, tmp_path))
    cells = cells_of(own, tmp_path)
    assert {(cell.seed, f"{option}={cell.seed}" in cell.arguments()) for cell in cells} == {
        (3, True), (7, True),
    }  # fmt: skip


@pytest.mark.parametrize("word", ["--warm_start_seed=1", "--warm-start-seed"])
def test_a_warm_start_is_named_once(word):
    with pytest.raises(ValueError, match="is set for each seed by --own_warm_starts; drop one"):
        Study("r.py", ("seq",), (0, 1), (word,), own_warm_starts=True)
    assert Study("r.py", ("seq",), (0, 1), (word,)).options_of(1) == (word,)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grpo_path_star.py", ["--warm_start_steps=1"]),
        ("grpo_path_star.py", ["--objective=mtp", "--warm_start_steps=1"]),
        ("grpo_tasks.py", ["--warm_start_steps=1", "--task_size=64", "--test_prompts=2"]),
    ],
)
def test_the_seed_makes_another_tiny_model_which_is_kept(name, options, tmp_path, monkeypatch):
    if name == "grpo_tasks.py":
        pytest.importorskip("reasoning_gym")
    monkeypatch.setenv("GRPO_CREDIT_CACHE", str(tmp_path))
    recipe = runpy.run_path(str(RECIPES / name))["RECIPE"]

    def made(seed):
        return prepare(recipe, [*options, f"--warm_start_seed={seed}"]).task.tiny()

    zero, one = made(0), made(1)
    described = json.loads((one / "complete.json").read_text())
    assert described["metrics"]["settings"]["seed"] == 1
    weights = [(folder / "model.safetensors").read_bytes() for folder in (zero, one)]
    assert weights[0] != weights[1]
    assert made(1) == one
    assert prepare(recipe, options).task.tiny() == zero


def test_the_format_recipe_hands_its_seed_on(monkeypatch):
    monkeypatch.setattr("grpo_credit.tiny.warm_start", lambda seed: Path(str(seed)))
    recipe = runpy.run_path(str(RECIPES / "grpo_regex.py"))["RECIPE"]
    assert prepare(recipe, ["--warm_start_seed=5"]).task.tiny() == Path("5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--warm_start_seed=-1"], "--warm_start_seed is -1, expected 0 or more"),
        (
            ["--warm_start_seed=1", "--model_name_or_path=mine"],
            "is of the tiny model, but --model_name_or_path is 'mine', whose weights no seed",
        ),
    ],
)
def test_a_seed_that_nothing_would_read_is_refused(options, message):
    recipe = runpy.run_path(str(RECIPES / "grpo_path_star.py"))["RECIPE"]
    with pytest.raises(ValueError, match=message):
        prepare(recipe, options)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "No run recorded the weights"),
        ([[0, 1, 2]], "start from the same weights: they vary sampling and data, not the init"),
        ([[0], [1], [2]], "Each seed starts from weights of its own"),
        ([[0, 2], [1]], "Some seeds start from the same weights (0, 2; 1)"),
    ],
)
def test_what_seeds_vary_is_said(groups, words):
    assert words in seeds_vary(Pairing([], [], groups))
