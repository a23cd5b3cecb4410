"""What is printed reaches any terminal: ASCII, with lone surrogates, with escapes in paths."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from saved_helpers import PROMPTS, TOKENS, rollouts
from study_helpers import make_study

from grpo_credit import cli
from grpo_credit.credit.saved import save_rollouts
from grpo_credit.experiments.report.terminal import say
from grpo_credit.experiments.study.ablate import write_report
from grpo_credit.experiments.study.cells import Cell, State
from grpo_credit.experiments.study.view import View, failures, table
from grpo_credit.terminal import print_anything
from grpo_credit.text import encodable, to_cell

ROOT = Path(__file__).parents[1]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HF_HUB_OFFLINE": "1"}
HOSTILE = "\x1b[31m\x07\u202e\udcff"  # bytes of a name that are no UTF-8 are such surrogates
VERBS = [
    ["list"], ["list", "trace", "decided", "potential"], ["check", "decided/seq", "--long"],
    ["show", "run"], ["show", "run", "--credit", "nothing"],
    ["lab", "exact", "--credit", "seq", "decided/seq", "--length", "2", "--windows", "20"],
    ["plan", str(ROOT / "recipes" / "grpo_regex.py"), "--credit=decided/seq"],
]  # fmt: skip


def make_run(folder):
    (folder / "rollouts").mkdir(parents=True)
    path = folder / "rollouts" / "rollouts_00001.parquet"
    save_rollouts(path, rollouts(), PROMPTS, TOKENS, "even/seq")
    return folder


@pytest.mark.slow
def test_an_ascii_terminal_is_enough_for_every_verb(tmp_path):
    make_run(tmp_path / "run")
    script = (
        "import sys; from grpo_credit.cli import main\n"
        f"print('codes', [main(words) for words in {VERBS!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False,
        env={**os.environ, **ASCII, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert out.splitlines()[-1:] == ["codes [0, 0, 0, 0, 2, 0, 0]"], err
    assert "A[i, t] = A_i * w[i, t]" in out  # a dot is a star
    assert "lambda" in out
    assert "Traceback" not in err


def test_every_recipe_lets_an_ascii_terminal_be(monkeypatch, capsys):
    from grpo_credit.credit.userfile import load_recipe
    from grpo_credit.run.training import run_recipe

    recipe = load_recipe(ROOT / "recipes" / "grpo_regex.py")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run_recipe(recipe, ["--help"]) == 0
    print("λ·\ud800 é")
    stream.flush()
    assert stream.buffer.getvalue().decode().endswith("lambda*\\ud800 \\xe9\n")


def test_a_stream_that_cannot_be_changed_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    print_anything()
    print("λ")
    assert sys.stdout.getvalue() == "λ\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_a_reader_that_is_gone_would_get_goes_nowhere(monkeypatch, name):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, name, stream)
        for _ in range(2):  # a verb may be called twice in a process
            print_anything()
            print("λ" * 100_000, file=stream)
            print("λ", file=stream, flush=True)
        Console(file=stream).print("λ")


def raw(text):
    """Give the characters that would steer a terminal, or that it has no bytes for."""
    return [char for char in text if char != "\n" and not char.isprintable()]


def test_what_steers_a_terminal_in_a_path_is_seen_and_not_obeyed(tmp_path, capsys):
    run = make_run(tmp_path / f"run{HOSTILE}")
    assert cli.main(["show", str(run)]) == 0
    html = run / f"{HOSTILE}.html"
    assert cli.main(["show", str(run), "--html", str(html)]) == 0
    assert raw(html.read_text(encoding="utf-8")) == []
    assert cli.main(["show", str(run), "--step", "7"]) == 2
    assert cli.main(["show", str(run / "none")]) == 2
    assert cli.main(["report", str(run)]) == 2
    seen = capsys.readouterr()
    assert raw(seen.out + seen.err) == []
    assert "run␛[31m␇⟨U+202E⟩⟨U+DCFF⟩" in seen.out


def test_a_study_at_a_hostile_path_is_told_and_reported(tmp_path, capsys):
    out = make_study(tmp_path / "study", ("uniform", "seq"), (0, 1))
    out = out.rename(tmp_path / f"study{HOSTILE}")
    print_anything()
    assert write_report(out) == 0
    assert cli.main(["report", str(out)]) == 0
    seen = capsys.readouterr()
    assert raw(seen.out + seen.err) == []
    assert "wrote" in seen.out
    for name in ("report.html", "report.md"):
        assert set(raw((out / name).read_text(encoding="utf-8"))) <= {"\t"}, name


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_of_a_study_obeys_no_name(terminal, tmp_path):
    cell = Cell(tmp_path / HOSTILE, f"r{HOSTILE}.py", f"seq{HOSTILE}", 0, (f"--pattern={HOSTILE}",))
    states = {cell: State("failed", [], [f"it broke: {HOSTILE}"])}
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, no_color=True)
    view = View(states, [], 1, console)
    view.tell(f"{cell.run} is damaged")
    view.close()
    for line in failures(states):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(table(view, 5))
    assert not {"\x07", "\u202e", "\udcff"} & set(stream.getvalue())
    assert "\x1b[31m" not in stream.getvalue()


def test_a_line_of_a_study_is_one_that_is_seen(capsys):
    print_anything()
    say(f"report: {HOSTILE}")
    assert raw(capsys.readouterr().out) == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "'a", "", "seq", "＝1"])
def test_a_cell_of_csv_comes_back_and_is_no_formula(text):
    assert to_cell(text)[:1] not in ("=", "+", "-", "@", "\t", "\r", "＝")
    assert to_cell(text).removeprefix("'") == text


def test_what_no_encoding_has_is_escaped():
    assert encodable("é\ud800") == "é\\ud800"
    assert to_cell(-1.5) == -1.5
    assert to_cell(None) is None


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pytest", __file__], check=True)
