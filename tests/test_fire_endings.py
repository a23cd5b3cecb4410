"""Every phase of a recipe ends in one line and with the right code, alone and launched."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import forked, strike
from test_recipe import PATTERN, RECIPE, SHORT, flags, user_folder

from grpo_credit.cli import main
from grpo_credit.credit.userfile import load_recipe
from grpo_credit.records import manifest, summary
from grpo_credit.run import callbacks, evaluation, lifecycle, recipe, training, wrapper

ROOT = Path(__file__).parent.parent
RUN = "to go on: the same command with --resume --output_dir run"
BEGUN = "nothing was begun"


# ---- a recipe, at each of its phases ----------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("user"))


def command(**more):
    own = {"pattern": PATTERN, "model_name_or_path": "../model", "dataset_name": "../data.jsonl"}
    return flags(SHORT | own | {"max_steps": 2, "output_dir": "run"} | more)


def recipe_in(folder, options, *struck, read=True):
    """Run the recipe in a fork whose program it is; return its code, stdout and stderr."""

    def act():
        sys.modules["__main__"].__file__ = str(RECIPE)
        if struck:
            strike(*struck)
        return training.run_recipe(load_recipe(RECIPE), options)

    return forked(folder, act, read=read)


@pytest.fixture
def folder(own, request):
    path = own / re.sub(r"\W", "", request.node.name)
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("owner", "name", "call", "signum", "left"),
    [
        (recipe, "_read", 1, signal.SIGINT, BEGUN),
        (recipe.Setup, "model", 1, signal.SIGTERM, BEGUN),
        (training, "train", 1, signal.SIGINT, RUN),
        (lifecycle.Run, "_look_first", 1, signal.SIGTERM, RUN),
        (evaluation, "measure", 2, signal.SIGHUP, RUN),
        (summary, "before_after", 1, signal.SIGINT, "the run in run is finished"),
    ],
)
def test_a_signal_ends_a_phase_in_one_line(folder, owner, name, call, signum, left):
    code, _, err = recipe_in(folder, command(preflight="off"), owner, name, signum, call)
    assert code == 128 + signum
    lines = [line for line in err.splitlines() if line and not line.startswith("step ")]
    assert lines == [f"{signum.name}: stopped; {left}"]
    if left == BEGUN:
        assert not (folder / "run").exists()
    elif left == RUN:
        assert json.loads((folder / "run" / "manifest.json").read_text())["status"] == "interrupted"
        if name != "measure":
            return  # each costs a second
        code, out, err = recipe_in(folder, command(preflight="off", resume=True))
        assert code == 0, err
        assert "manifest         | run/manifest.json" in out
        assert not (folder / "run" / ".lock").exists()
    else:
        assert json.loads((folder / "run" / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("owner", "name"), [(evaluation, "measure"), (callbacks.MetricsJsonl, "on_log")]
)
def test_a_signal_in_training_is_told_where_it_comes_and_where_it_ends(folder, owner, name):
    """The first evaluation is part of it."""
    struck = (owner, name, signal.SIGINT)
    code, out, err = recipe_in(folder, command(preflight="off", max_steps=30), *struck)
    assert code == 130
    assert [line for line in err.splitlines() if line.startswith("SIG")] == [
        "SIGINT: stopping after this step; the checkpoint and the run directory stay usable; press "
        "again to stop at once"
    ]
    assert out.splitlines()[-1].startswith("stopped at step ")
    assert out.splitlines()[-1].endswith(f"; {RUN}")
    assert "before" not in out, "a table of nothing"


def test_a_signal_in_training_leaves_a_checkpoint_also_when_nobody_reads(folder):
    """In `recipe | tee log` the terminal's Ctrl-C ends `tee` first."""
    struck = (callbacks.MetricsJsonl, "on_log", signal.SIGINT)
    code, *_ = recipe_in(folder, command(preflight="off", max_steps=30), *struck, read=False)
    assert code == 130
    assert json.loads((folder / "run" / "manifest.json").read_text())["status"] == "interrupted"
    assert len(list((folder / "run").glob("checkpoint-*/files.json"))) == 1


# ---- what is told before anything is claimed ---------------------------------------------------


def refused(folder, options):
    code, out, err = recipe_in(folder, options)
    assert (code, out) == (2, "")
    assert not (folder / "run").exists()
    assert err.count("\n") == 1
    return err


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_claimed(folder, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setenv("GRPO_CREDIT_CACHE", str(folder / "file" / "cache"))
    err = refused(folder, ["--credit=seq", "--output_dir=run"])
    assert f"error: cannot write to the cache folder {folder / 'file' / 'cache'} (" in err
    assert "set GRPO_CREDIT_CACHE to a folder that can be written\n" in err


def test_a_model_without_weights_is_told_before_anything_is_claimed(own, folder):
    (folder / "model").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((own / "model" / name).read_bytes())
    err = refused(folder, command(model_name_or_path="model"))
    assert "grpo_regex.py: error: the weights of 'model' (--model_name_or_path) cannot be" in err


def test_a_name_that_steers_the_terminal_is_shown_and_written_to(folder):
    name = "r\x1b[31m\nü"
    code, out, err = recipe_in(folder, command(preflight="off", output_dir=name, max_steps=1))
    assert code == 0, err
    assert "\x1b[31m" not in out + err
    assert "run directory: r␛[31m⏎ ü\n" in out
    assert manifest.read_manifest(folder / name)["status"] == "finished"
    code, _, err = recipe_in(folder, command(output_dir=name))
    assert (code, err) == (2, (
        "grpo_regex.py: error: r␛[31m ü holds another run (manifest.json, metrics.jsonl, "
        "checkpoint-1); use --resume to go on with it, or another --output_dir\n"
    ))  # fmt: skip


@pytest.mark.parametrize("name", ["a\udcffb", "a\0b"])
def test_a_name_that_no_library_can_write_to_is_refused(folder, name):
    code, _, err = recipe_in(folder, command(output_dir=name))
    assert code == 2
    assert err.startswith("grpo_regex.py: error: --output_dir 'a\\")
    assert err.endswith("b' is no UTF-8 name of a folder; use another.\n")


# ---- the handler alone ------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
from grpo_credit.run import ending
ending.REPEAT_S = 0
case = sys.argv[1]
if case == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with ending.Ending(__file__ if case != "not the program" else "elsewhere.py") as end:
    end.keep("there is something")
    if case == "forked":
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        print("child", os.waitstatus_to_exitcode(os.wait()[1]))
        sys.exit(5)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        print("goes on")
    except KeyboardInterrupt:
        if case == "again":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        print("closed")
        raise RuntimeError if case == "becomes another error" else KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("case", "code", "out", "err"),
    [
        ("plain", 130, "closed\n", "SIGINT: stopped; there is something"),
        ("becomes another error", 130, "closed\n", "SIGINT: stopped; there is something"),
        ("again", 130, "", "SIGINT: stopped; there is something"),
        ("ignored", 0, "goes on\n", ""),
        ("forked", 5, "child -15\n", ""),
        ("not the program", -2, "closed\n", None),
    ],
)
def test_the_handler_ends_the_program_and_nothing_else(tmp_path, case, code, out, err):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", case], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, out)
    if err is None:
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert done.stderr.strip() == err


# ---- under a launcher -------------------------------------------------------------------------

LAUNCHED = """
import os, signal, sys, time
def stop(signum, frame):
    signal.signal(signum, signal.SIG_IGN)  # launchers pass on what the terminal sends, too
    time.sleep(1)
    if os.environ.get("RANK", "0") == "0":
        print("the last table", flush=True)
    os._exit(128 + signum)
signal.signal(signal.SIGINT, stop)
if "--wrong" in sys.argv:
    sys.exit(2)
os.write(1, b"ready\\n")  # the signal may come while print is still at it, which then refuses
time.sleep(300)
"""


def on_a_terminal(words, folder, ranks):
    """Run a command on a terminal, press Ctrl-C when it is ready; return its code and the rest.

    What comes later than the prompt would is not read.
    """
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", "grpo_credit", "run", *words],
                  {**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    shown = b""
    while shown.count(b"ready\r\n") < ranks:
        shown += os.read(fd, 4096)
    os.write(fd, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.set_blocking(fd, False)
    after = os.read(fd, 65536).decode()
    os.close(fd)
    return os.waitstatus_to_exitcode(status), after.replace("^C", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [(["accelerate", "launch"], 1), (["torchrun", "--nproc_per_node=2", "--master_port=0"], 2)],
)
def test_a_launcher_waits_for_the_last_line_and_adds_none(tmp_path, launcher, ranks):
    (tmp_path / "script.py").write_text(LAUNCHED)
    code, after = on_a_terminal([*launcher, "script.py"], tmp_path, ranks)
    assert (code, after) == (130, "the last table\r\n")


@pytest.mark.slow
def test_a_mistake_is_told_by_the_script_alone(tmp_path):
    (tmp_path / "script.py").write_text(LAUNCHED)
    done = subprocess.run(
        [sys.executable, "-m", "grpo_credit", "run", "accelerate", "launch", "--num_processes=1",
         "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "script.py", "--wrong"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("words", [[], ["python", "script.py"]])
def test_what_is_no_launcher_is_refused(words, capsys):
    assert main(["run", *words]) == 2
    assert "error: expected the command line of accelerate or torchrun" in capsys.readouterr().err


def test_ctrl_c_ends_a_verb_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(
        "grpo_credit.credit.catalogue.print_rules", lambda *_: signal.raise_signal(2)
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main(["list"]) == 130
    signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "\ngrpo-credit: stopped\n"


def test_a_signal_that_nobody_told_of_is_named(capsys):
    assert [wrapper._code(code) for code in (0, 2, -2, -15, -9)] == [0, 2, 130, 143, 137]
    assert capsys.readouterr().err == "grpo-credit: killed by SIGKILL\n"
