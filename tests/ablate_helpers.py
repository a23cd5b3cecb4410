"""Studies of the recipe that trains nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ABLATE = ROOT / "scripts" / "ablate.py"
FAKE = ROOT / "tests" / "fake_recipe.py"
WAIT_S = 240.0  # below pytest's own limit; a busy machine takes minutes for what takes seconds


IN_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$0" "$@"']  # as a shell starts a job with `&`


def start(folder, *options, recipe=FAKE, out="study", wrapper=()):
    """Start a runner in a folder; its cells note their steps in the file `ledger` there."""
    command = [*wrapper, sys.executable, ABLATE, "--recipe", recipe, "--out", out, *options]
    return subprocess.Popen(
        list(map(str, command)), cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "LEDGER": str(folder / "ledger")},
    )  # fmt: skip


def ablate(folder, *options, **more):
    """Run a study to its end; return exit code, stdout, stderr."""
    process = start(folder, *options, **more)
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def ledger(folder):
    """Return what the cells did so far, as words: strategy, seed, step or event, pid, script."""
    file = folder / "ledger"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def steps_done(folder):
    """Return every step of every cell that was done, once for each time."""
    return sorted((credit, int(seed), int(what)) for credit, seed, what, *_ in ledger(folder)
                  if what.isdigit())  # fmt: skip


def wait_for(condition, seconds=WAIT_S):
    """Wait until something is the case; return it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.005)
    return value


def records(study):
    """Return the record of every cell by strategy and seed."""
    found = [json.loads(path.read_text()) for path in study.glob("cells/*/seed-*.json")]
    return {(record["credit"], record["seed"]): record for record in found}


def results(study):
    """Return what the finished runs left, by path below the study."""
    return {
        str(path.relative_to(study)): path.read_text()
        for path in sorted(study.glob("cells/*/seed-*/metrics.jsonl"))
    }
