"""The set-up script: what it finds half made, gone or too old, and what it says.

The interpreters are shell scripts, and nothing is installed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REMEDY = "install Python 3.11 or newer, or name one: PYTHON=/path/to/python3.11 bash demo.sh"

# An interpreter of $VERSION: says it, compares it, makes a .venv of a copy of itself. The file
# `pip` beside it is its pip, and `venv` what its `-m venv` does.
PYTHON = r"""#!/bin/sh
here="$(dirname "$0")"
echo "$0 $*" >> "$LEDGER"
case "$*" in
    *print*) echo "VERSION" ;;
    *version_info*) [ "$(printf '%s\n' 3.11 VERSION | sort -V | head -1)" = 3.11 ] ;;
    "-m venv --clear .venv")
        rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
        [ -z "$INTERRUPTED" ] || exit 1
        touch .venv/bin/pip ;;
    "-m ensurepip") [ -n "$MENDED" ] && touch "$here/pip" ;;
    "-m pip --version") [ -e "$here/pip" ] ;;
    "-m pip install"*) echo "WARNING: noise" >&2; [ -z "$OFFLINE" ] && [ -e "$here/pip" ] ;;
    *) exit 99 ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A checkout as far as the script looks at it; its `bin` is the whole PATH."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "environment.sh", tmp_path / "scripts")
    (tmp_path / "demo.sh").write_text("source scripts/environment.sh\necho ready\n")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "sh", "dirname", "cat", "cksum", "tr", "sort", "head", "rm", "mkdir", "cp",
                 "tail", "touch", "printf"):  # fmt: skip
        (tools / tool).symlink_to(shutil.which(tool))
    return tmp_path


def interpreter(folder, version, name="python3"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON.replace("VERSION", version))
    path.chmod(0o755)
    return path


def set_up(project, **env):
    """Run the script; return exit code, stdout, stderr, and how often pip installed."""
    ledger = project / "ledger"
    ledger.write_text("")
    env = {"PATH": str(project / "bin"), "LEDGER": str(ledger), **env}
    done = subprocess.run(
        ["bash", "demo.sh"], cwd=project, env=env, text=True, capture_output=True, check=False
    )
    return done.returncode, done.stdout, done.stderr, ledger.read_text().count("-m pip install")


def test_a_venv_is_made_and_filled_once(project):
    interpreter(project / "bin", "3.12")
    code, out, err, installs = set_up(project)
    assert (code, err, installs) == (0, "", 2)
    assert out.splitlines() == [
        f"making .venv with Python 3.12 ({project / 'bin' / 'python3'})",
        "installing (a few minutes the first time; what pip says is in .venv/install.log)",
        "ready",
    ]
    assert set_up(project) == (0, "ready\n", "", 0)
    assert (project / ".venv" / "install.log").read_text().count("noise") == 2


def test_what_pip_said_is_shown_where_it_fails(project):
    interpreter(project / "bin", "3.12")
    code, _, err, installs = set_up(project, OFFLINE="yes")
    assert (code, installs) == (1, 1)
    assert err == (
        "error: pip could not install torch; the end of .venv/install.log:\nWARNING: noise\n"
    )
    (project / "constraints.txt").write_text("changed")
    assert set_up(project)[3] == 2


@pytest.mark.parametrize(
    ("version", "named", "told"),
    [
        (None, None, "there is no interpreter python3; "),
        ("3.12", "/nonexistent", "there is no interpreter /nonexistent; "),
        ("3.10", None, "{bin}/python3 is Python 3.10; "),
        ("2.7", "python3", "{bin}/python3 is Python 2.7; "),
        ("broken", "broken", "{bin}/broken does not run; "),
    ],
)
def test_a_python_that_will_not_do_is_named(project, version, named, told):
    tools = project / "bin"
    if version == "broken":
        (tools / "broken").write_text("#!/bin/sh\nexit 1\n")
        (tools / "broken").chmod(0o755)
    elif version:
        interpreter(tools, version)
    code, out, err, installs = set_up(project, **({"PYTHON": named} if named else {}))
    assert (code, out, installs) == (1, "", 0)
    assert err == f"error: {told.format(bin=tools)}{REMEDY}\n"
    assert not (project / ".venv").exists()


def half_made(project):
    interpreter(project / ".venv" / "bin", "3.12", "python")


def python_gone(project):
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(project / "gone")


def empty(project):
    (project / ".venv").mkdir()


def too_old(project):
    interpreter(project / ".venv" / "bin", "3.8", "python")
    (project / ".venv" / "bin" / "pip").touch()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (half_made, "the .venv that is there is half made"),
        (python_gone, "the .venv that is there has no Python that runs"),
        (empty, "the .venv that is there has no Python that runs"),
        (too_old, "the .venv that is there has Python 3.8, too old"),
    ],
)
def test_a_venv_that_is_of_no_use_is_told_and_made_anew(project, damage, told):
    damage(project)
    interpreter(project / "bin", "3.12")
    code, out, err, installs = set_up(project)
    assert (code, err, installs) == (0, "", 2)
    assert out.splitlines()[:2] == [
        told, f"making .venv with Python 3.12 ({project / 'bin' / 'python3'})"
    ]  # fmt: skip
    assert set_up(project) == (0, "ready\n", "", 0)


def test_a_venv_without_pip_gets_one_and_keeps_what_is_in_it(project):
    half_made(project)
    (project / ".venv" / "mine").touch()
    code, out, err, installs = set_up(project, MENDED="yes")  # there is not even a python3
    assert (code, err, installs) == (0, "", 2)
    assert "making" not in out
    assert (project / ".venv" / "mine").exists()


def test_what_an_interruption_left_is_mended_by_the_same_command(project):
    interpreter(project / "bin", "3.12")
    code, _, err, installs = set_up(project, INTERRUPTED="yes")
    assert (code, installs) == (1, 0)
    assert err.startswith("error: python3 -m venv: ")
    assert not (project / ".venv" / "bin" / "pip").exists()
    assert set_up(project)[::3] == (0, 2)


def test_ctrl_c_while_it_is_made_is_one_line(project):
    python = interpreter(project / "bin", "3.12")
    # as a terminal would, to the whole group
    slow = python.read_text().replace("rm -rf .venv;", "kill -INT 0; sleep 5; rm -rf .venv;")
    python.write_text(slow)
    (project / "bin" / "sleep").symlink_to(shutil.which("sleep"))
    done = subprocess.run(
        ["bash", "demo.sh"], cwd=project, text=True, capture_output=True, check=False,
        env={"PATH": str(project / "bin"), "LEDGER": os.devnull}, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr == "stopped; the same command goes on\n"
    assert "ready" not in done.stdout


def test_what_only_tests_need_is_installed_for_tests_alone(project):
    interpreter(project / "bin", "3.12")
    tested = (project / "demo.sh").read_text()

    def ledgered(text):
        (project / "demo.sh").write_text(text)
        code, *_, installs = set_up(project)
        assert code == 0
        last = [line for line in (project / "ledger").read_text().splitlines() if "edit" in line]
        return installs, [line.endswith("--editable .[dev]") for line in last]

    assert ledgered('extras=""\n' + tested) == (2, [False])
    assert ledgered('extras=""\n' + tested) == (0, [])
    assert ledgered(tested) == (2, [True])
    assert ledgered('extras=""\n' + tested) == (0, [])  # more is there than it needs
