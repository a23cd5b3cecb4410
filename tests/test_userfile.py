"""A user's file is read before it is run, and not run where it would train."""

import subprocess
import sys
from pathlib import Path

import pytest

from grpo_credit import CreditError, cli
from grpo_credit.credit.userfile import load_recipe
from grpo_credit.experiments.study.check import answer

ROOT = Path(__file__).parent.parent
NOTE = 'open("ran", "w").close()\n'
PLAIN = f"""{NOTE}
from trl import GRPOConfig, GRPOTrainer

trainer = GRPOTrainer("m", [len], GRPOConfig("out"))
trainer.train()
"""
TRAINS = {
    "a script": "RECIPE = 1\nrun_recipe(RECIPE, [])",
    "a trainer": "RECIPE = 1\ntrainer.train()",
    "its own function": "RECIPE = 1\ndef go():\n    trainer.train()\ngo()",
    "two functions": "RECIPE = 1\ndef a():\n    b()\ndef b():\n    a()\n    run_recipe(1, [])\na()",
    "as an exit code": "RECIPE = 1\nimport sys\nsys.exit(main(sys.argv[1:]))",
    "in a block": "RECIPE = 1\ntry:\n    x = [m.train() for m in models]\nfinally:\n    pass",
    "where it is imported": "RECIPE = 1\nif __name__ == '__main__':\n    x\nelse:\n    t.train()",
    "in a class body": "class A:\n    RECIPE = 1\n    x = t.train()\nRECIPE = 1",
}
HARMLESS = {
    "guarded": "RECIPE = R()\nif __name__ == '__main__':\n    run_recipe(RECIPE, [])",
    "guarded, the other way round": "if '__main__' == __name__:\n    R.train()\nRECIPE = R()",
    "in a function": "def main():\n    R.train()\nRECIPE = R()",
    "in a method": "class A:\n    def go(self):\n        R.train()\nRECIPE = R()",
    "annotated": "RECIPE: R = R()",
    "imported": "from elsewhere import RECIPE",
    "imported by another name": "from elsewhere import other as RECIPE",
    "in a block": "try:\n    RECIPE = R()\nfinally:\n    pass",
    "unpacked": "RECIPE, x = R(), 1",
}
R = "class R:\n    def check(self, arguments):\n        return ['m']\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder; leave no trace in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("verb", ["plan", "preflight"])
def test_a_script_that_trains_is_not_run(verb, folder, capsys):
    (folder / "train.py").write_text(PLAIN)
    assert cli.main([verb, "train.py", "--credit=seq"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "train.py is no recipe: it assigns no RECIPE, and nothing of it was run" in err
    assert "`preflight(trainer)` before `trainer.train()`" in err
    assert [path.name for path in folder.iterdir()] == ["train.py"]


def test_a_study_of_a_script_that_trains_does_not_run_it(folder):
    (folder / "train.py").write_text(PLAIN)
    assert "assigns no RECIPE" in answer("train.py", [["--credit=seq"]])["wrong"]
    assert [path.name for path in folder.iterdir()] == ["train.py"]


@pytest.mark.parametrize("case", TRAINS)
def test_a_recipe_that_trains_on_import_is_not_run(case, folder):
    (folder / "eager.py").write_text(NOTE + TRAINS[case])
    with pytest.raises(CreditError, match=r"eager\.py:\d+ would train as soon as the file is imp"):
        load_recipe(Path("eager.py"))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("case", HARMLESS)
def test_a_recipe_is_recognised(case, folder):
    (folder / "elsewhere.py").write_text(f"{R}RECIPE = other = R()")
    (folder / "mine.py").write_text(R + HARMLESS[case])
    assert load_recipe(Path("mine.py")).check([]) == ["m"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda p: p.name)
def test_every_recipe_of_the_repository_is_one(path, folder):
    assert load_recipe(path).name == path.name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trian.py", None, r"there is no file trian\.py\. Did you mean 'train\.py'\?"),
        (".", None, r"\. is a folder, expected a Python file"),
        ("notes.txt", b"hello", r"notes\.txt is no Python file, whose name ends in \.py"),
        ("torn.py", b"x = 1\ndef f(:\n", r"torn\.py:2 is no Python: "),
        ("binary.py", b"\x00\x01", r"binary\.py is no Python: .*null bytes"),
        ("latin.py", b"x = '\xff'", r"latin\.py:1 is no Python: .*utf-8"),
        (
            "number.py",
            b"RECIPE = 3",
            r"RECIPE of number\.py is of type int, expected a grpo_credit",
        ),
        ("typo.py", b"\nRECIPE = x", r"typo\.py cannot be imported: NameError: .*\(typo\.py:2\)"),
        ("exits.py", b"RECIPE = 1\nraise SystemExit(3)", r"imported: SystemExit: 3 \(exits\.py:2"),
    ],
)
def test_what_is_no_recipe_costs_one_line(name, content, message, folder):
    (folder / "train.py").write_text("")
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CreditError, match=message) as raised:
        load_recipe(Path(name))
    assert "\n" not in str(raised.value)


def test_a_file_in_another_encoding_is_read(folder):
    (folder / "mine.py").write_bytes(
        f"# coding: latin-1\n{R}RECIPE = R()  # \xe9".encode("latin-1")
    )
    assert load_recipe(Path("mine.py")).check([]) == ["m"]


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "grpo_credit", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("grpo-credit 0.2.0 (trl 1.")
    assert done.returncode == 0
