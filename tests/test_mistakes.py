"""An error in one line: what the user is told, and where the rest is to be seen."""

import json
import re
import sys
from pathlib import Path

import pytest

from grpo_credit import CreditError
from grpo_credit.errors import in_one_line
from grpo_credit.experiments.study.commandline import make_parser
from grpo_credit.records.files import read_yaml
from grpo_credit.run.commandline import mistakes_in_one_line


def told(capsys, function, *arguments, script=""):
    with pytest.raises(SystemExit) as stopped, mistakes_in_one_line("x.py", arguments, script):
        function()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def raising(error):
    def function():
        raise error

    return function


def written(folder, source):
    """Run a file; return its function `go`."""
    file = folder / "theirs.py"
    file.write_text(source)
    names = {}
    exec(compile(source, str(file), "exec"), names)
    return names["go"]


def test_what_is_written_for_the_user_is_told_as_it_is(capsys):
    assert told(capsys, raising(CreditError("a\n  b"))) == "x.py: error: a b"
    assert told(capsys, lambda: make_parser().error("no such option")) == (
        "x.py: error: no such option"
    )


def test_a_file_that_is_missing_needs_no_place(capsys):
    assert told(capsys, lambda: Path("none.yaml").read_text()) == (
        "x.py: error: [Errno 2] No such file or directory: 'none.yaml'"
    )


def test_an_error_of_a_library_says_where_it_was_raised(capsys):
    from datasets import Dataset

    line = told(capsys, lambda: Dataset.from_dict({"a": [1], "b": [1, 2]}))
    assert "(raised at " in line
    assert line.endswith("--traceback shows the way there)")


def test_the_place_is_not_in_pythons_own_library(capsys):
    line = told(capsys, lambda: json.loads("{"))
    assert "JSONDecodeError: Expecting property name enclosed in double quotes" in line
    assert "raised at tests/test_mistakes.py:" in line or f"raised at {__file__}:" in line


def test_an_error_of_our_own_that_nobody_wrote_has_a_place(capsys):
    line = told(capsys, lambda: read_yaml(Path("\0")))
    assert re.search(r"ValueError: .*embedded null .*\(raised at ", line)
    assert "grpo_credit/records/" in line


def test_a_recipes_own_words_need_no_place_and_its_accidents_do(tmp_path, capsys):
    script = str(tmp_path / "theirs.py")
    go = written(tmp_path, "def go():\n    raise ValueError(\n        'no pattern')\n")
    assert told(capsys, go, script=script) == "x.py: error: no pattern"
    assert f"ValueError: no pattern (raised at {script}:2;" in told(capsys, go)
    go = written(tmp_path, "def go():\n    return int('x')\n")
    assert f"(raised at {script}:2; --traceback" in told(capsys, go, script=script)


def test_the_traceback_passes_whole():
    def hides():
        try:
            int("x")
        except ValueError:
            raise CreditError("not a number") from None

    with pytest.raises(CreditError) as raised, mistakes_in_one_line("x.py", ["--traceback"]):
        hides()
    assert isinstance(raised.value.__context__, ValueError)
    assert not raised.value.__suppress_context__


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("x"), ZeroDivisionError()])
def test_what_is_no_mistake_keeps_its_traceback(error):
    with pytest.raises(type(error)), mistakes_in_one_line("x.py"):
        raise error


def test_an_error_that_was_never_raised_is_told():
    assert in_one_line(CreditError("x")) == "x"


def test_torch_is_not_needed_to_tell(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grpo_credit.records.ranks", None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert told(capsys, raising(CreditError("x"))) == "x.py: error: x"


def test_only_the_main_rank_tells(monkeypatch, capsys):
    import torch  # noqa: F401

    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), mistakes_in_one_line("x.py"):
        raise CreditError("x")
    assert capsys.readouterr().err == ""


def test_a_recipe_takes_the_switch(tmp_path, monkeypatch, capsys):
    from grpo_credit.credit.userfile import load_recipe
    from grpo_credit.run.training import run_recipe

    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "grpo_path_star.py")
    with pytest.raises(ValueError, match="--test_prompts is 0"):
        run_recipe(recipe, ["--test_prompts=0", "--traceback"])
    with pytest.raises(SystemExit):
        run_recipe(recipe, ["--test_prompts=0"])
    assert "--test_prompts is 0, expected 1 or more.\n" in capsys.readouterr().err
    run_recipe(recipe, ["--help"])
    assert "--traceback" in capsys.readouterr().out
