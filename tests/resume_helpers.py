"""What a run leaves that must not depend on how often it was stopped."""

import hashlib
import json

TIMES = ("time_s", "step_time", "runtime", "per_second")


def lines(path):
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(run):
    """Return what was logged of steps and of evaluations, without times."""
    return [
        {name: value for name, value in line.items() if not name.endswith(TIMES)}
        for line in lines(run / "metrics.jsonl")
        if "train_runtime" not in line
    ]


def outcome(run):
    """Return all that a run leaves and that must not depend on how often it was killed."""
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"
    assert not list((run / "model").glob("*/*"))
    kept = [run / "held_out.jsonl", *(run / "model").glob("[!t]*")]  # training_args.bin: the path
    kept += [
        path for kind in ("credit", "completions", "rollouts") for path in (run / kind).iterdir()
    ]
    return logged(run), {str(path.relative_to(run)): digest(path) for path in kept}


def digest(path):
    """Return what two files share if they are the same; a difference names the file in a line."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def times(run):
    """Return when each file of a run was changed, but for the lock, which is opened to be tried."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}


def is_finished(run):
    manifest = run / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] == "finished"


def steps(run):
    return [line["step"] for line in logged(run) if "loss" in line]
