"""`grpo_credit.rewards`: ours, whatever else is called `rewards`."""

import os
import pickle
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import grpo_credit.rewards as second
import rewards as first
from grpo_credit import CreditError
from grpo_credit.credit.registry import import_object
from grpo_credit.own_rewards import hider

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "rewards").glob("[a-z]*.py"))
SCRIPT = """
import pickle, sys
import rewards
from datasets import Dataset
from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.rewards import RegexReward, check_format, guard
from grpo_credit.rewards.formats import RegexReward as same
from grpo_credit.tiny import build_model, build_tokenizer

assert same is RegexReward and callable(check_format)
digits = pickle.loads(pickle.dumps(guard(RegexReward(r"[0-9]+", name="digits"), timeout=60.0)))
assert digits(["12", "a"]) == [1.0, 0.0]  # in processes of its own
trainer = CreditGRPOTrainer(
    build_model(build_tokenizer(), hidden_size=16, layers=1), [digits, MINE],
    CreditGRPOConfig(
        sys.argv[1], credit="decided/seq", max_steps=1, per_device_train_batch_size=4,
        num_generations=2, max_completion_length=4, use_cpu=True, bf16=False, report_to=[],
    ),
    train_dataset=Dataset.from_dict({"prompt": ["1+1=", "2+2="]}),
    processing_class=build_tokenizer(),
)
trainer.train()
print(rewards.__file__, RegexReward.__module__, trainer.state.global_step)
"""


def run(code, *arguments, cwd, path=()):
    (cwd / "script.py").write_text(code)
    # before what is installed, as a folder of site-packages would be
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    done = subprocess.run(
        [sys.executable, "script.py", *arguments], capture_output=True, text=True, timeout=280,
        cwd=cwd, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1].split()


def test_both_names_give_the_same_modules():
    code = (
        "import importlib, sys, rewards\n"
        f"for name in {MODULES}:\n"
        "    a, b = (importlib.import_module(f'{p}rewards.{name}') for p in ('grpo_credit.', ''))\n"
        "    assert a is b and b.__spec__.name == b.__name__ == f'rewards.{name}', (a, b)\n"
        "print(callable(rewards.check_format), callable(rewards.gate))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 2


def test_both_names_give_the_same_objects():
    assert hider() is None
    for name in first.__all__:
        assert getattr(second, name) is getattr(first, name)
    reward = second.RegexReward("a+")
    assert type(pickle.loads(pickle.dumps(reward))) is first.RegexReward


@pytest.mark.slow
def test_a_script_beside_a_file_of_that_name_trains(tmp_path):
    (tmp_path / "rewards.py").write_text("def mine(completions, **_): return [0.0] * 4\n")
    code = SCRIPT.replace("MINE", "rewards.mine")
    file, module, steps = run(code, str(tmp_path / "out"), cwd=tmp_path)
    assert file == str(tmp_path / "rewards.py")
    assert (module, steps) == ("grpo_credit.rewards.formats", "1")


@pytest.mark.parametrize("shape", ["package", "namespace"])
def test_another_distribution_of_that_name_may_come_first(tmp_path, shape):
    other = tmp_path / "other" / "rewards"
    other.mkdir(parents=True)
    (other / "formats.py").write_text("raise ImportError('not this one')\n")
    if shape == "package":
        (other / "__init__.py").write_text("")
    code = "from grpo_credit.rewards import RegexReward as r; print(r.__module__, r('a')(['a']))"
    found = "grpo_credit.rewards.formats" if shape == "package" else "rewards.formats"
    assert run(code, cwd=tmp_path, path=[tmp_path / "other"]) == [found, "[1.0]"]


def test_another_distribution_may_have_overwritten_files_of_ours(tmp_path):
    site = tmp_path / "site"
    shutil.copytree(ROOT / "grpo_credit", site / "grpo_credit")
    for folder in "rewards", "grpo_credit/_rewards":  # as in the wheel
        shutil.copytree(ROOT / "rewards", site / folder)
    code = (
        "import grpo_credit.rewards as r\n"
        "print(r.__file__, r.RegexReward.__module__, r.guard(r.RegexReward('a'), timeout=60)(['a']))"  # noqa: E501
    )
    untouched = run(code, cwd=tmp_path, path=[site])
    assert untouched == [str(site / "rewards/__init__.py"), "rewards.formats", "[1.0]"]
    (site / "rewards/formats.py").write_text("")
    overwritten = run(code, cwd=tmp_path, path=[site])
    own = site / "grpo_credit/_rewards/__init__.py"
    assert overwritten == [str(own), "grpo_credit.rewards.formats", "[1.0]"]


def test_the_wheel_holds_the_copy():
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert built["targets"]["wheel"]["force-include"] == {
        "recipes": "grpo_credit/_recipes",
        "rewards": "grpo_credit/_rewards",
    }


def test_nothing_of_the_package_or_the_recipes_needs_the_public_name():
    files = [*(ROOT / "grpo_credit").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    needs = [line for line in lines if line.startswith(("from rewards", "import rewards"))]
    assert needs == ["from rewards import *  # noqa: F403"]  # of type checkers


@pytest.mark.parametrize("path", ["rewards:RegexReward", "rewards.formats:RegexReward"])
def test_where_ours_is_wanted_and_hidden_the_error_says_so(tmp_path, monkeypatch, path):
    (tmp_path / "rewards.py").write_text("")
    monkeypatch.chdir(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "rewards"]:
        monkeypatch.delitem(sys.modules, name)
    module = path.partition(":")[0]
    with pytest.raises(
        CreditError, match=rf"'rewards' is {tmp_path}/rewards.py here.*use grpo_credit.{module}\.$"
    ):
        import_object(path, "reward")
    sys.modules.pop("rewards")
