"""What comes with the package to be copied: recipes, configurations, starts of one's own."""

import runpy
import subprocess
import sys

import pytest
from datasets import Dataset
from harness import reference

from grpo_credit import cli
from grpo_credit.run import shipped
from grpo_credit.run.recipe import prepare
from grpo_credit.tiny import build_tokenizer


def test_every_recipe_and_configuration_is_listed_by_what_it_says_of_itself(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["recipes"]) == 0
    out = capsys.readouterr().out
    folder = shipped.PACKAGE.parent / "recipes"
    assert set(shipped.files()) == {p.stem for s in ("*.py", "*/*.yaml") for p in folder.glob(s)}
    assert all(name in out for name in shipped.files())
    assert "GRPO for word problems with a number as their answer" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_recipe_is_printed_copied_once_and_never_over_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = shipped.files()["grpo_math"].read_text()
    assert cli.main(["recipe", "grpo_math.py"]) == 0
    assert capsys.readouterr().out == there
    assert cli.main(["recipe", "grpo_math", "--copy"]) == 0
    assert cli.main(["recipe", "one_gpu_lora", "--copy"]) == 0
    assert (tmp_path / "grpo_math.py").read_text() == there
    (tmp_path / "grpo_math.py").write_text("mine")
    assert cli.main(["recipe", "grpo_math", "--copy"]) == 2
    assert "grpo_math.py is there already; nothing was written" in capsys.readouterr().err
    assert (tmp_path / "grpo_math.py").read_text() == "mine"
    assert cli.main(["recipe", "grpo_mth"]) == 2
    assert "there is no recipe 'grpo_mth'. Did you mean 'grpo_math'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rule.txt", "my-rule.py"])
def test_a_start_has_a_name_that_can_be_imported(name, tmp_path, capsys):
    assert cli.main(["new", "rule", str(tmp_path / name)]) == 2
    assert f"{name} cannot be imported by its name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_start_of_a_rule_keeps_the_laws_and_shows_its_credit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "rule", "first_rule.py"]) == 0
    assert "grpo-credit check first_rule:later/seq" in (tmp_path / "first_rule.py").read_text()
    checked = [sys.executable, "-m", "grpo_credit", "check", "first_rule:later/seq"]
    done = subprocess.run(checked, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([sys.executable, "first_rule.py"], capture_output=True, text=True)
    # advantages ±1/√2, N = 2; weights 1 : 2 and 1 : 2 : 3 : 4
    assert "0.2357,  0.4714" in done.stdout.replace("0.4713", "0.4714"), done.stdout
    assert "-0.1414, -0.2828, -0.4242, -0.5656" in done.stdout.replace("0.5657", "0.5656")


def test_the_start_of_a_recipe_knows_data_model_and_judge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "recipe", "mine.py"]) == 0
    recipe = runpy.run_path("mine.py")["RECIPE"]
    with pytest.raises(ValueError, match="--dataset_name and --model_name_or_path are needed"):
        prepare(recipe, [])
    build_tokenizer().save_pretrained(reference())
    rows = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(90)]
    Dataset.from_list(rows).to_json("sums.jsonl")
    options = ["--dataset_name=sums.jsonl", "--model_name_or_path", reference(), "--dry_run"]
    setup = prepare(recipe, [*options, "--tolerance=1"])
    assert setup.task.check(r"so \boxed{6}", {"answer": "5"}) == {"right": 1.0}
    assert setup.task.check("5", {"answer": "5"}) == {"right": 0.0}


def test_a_copied_recipe_is_planned_and_compared_where_it_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipe", "grpo_regex", "--copy"]) == 0
    assert cli.main(["plan", "grpo_regex.py", "--credit=decided/seq"]) == 0
    assert "decided/seq" in capsys.readouterr().out
    asked = ["ablate", "--recipe", "grpo_regex.py", "--credit", "seq", "sqe", "--seeds", "2"]
    assert cli.main([*asked, "--out", "study"]) == 2
    assert "grpo_regex.py: unknown strategy 'sqe'. Did you mean 'seq'?" in capsys.readouterr().err
