"""Runs to claim and to resume, made by hand."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from grpo_credit.records import checkpoints, directory, manifest

HUB_TOKEN = "hf_" + "a1B2" * 8
WITHOUT_SYSTEM_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def describe(**config):
    extra = {"checkpoints": checkpoints.LIST}
    return manifest.manifest(["recipe.py", "--steps", "3"], config, {"train": None}, 0, extra)


def add_checkpoint(run: Path, step: int, *, listed: bool = True) -> Path:
    checkpoint = run / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"w": torch.zeros(3)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if listed:
        checkpoints.seal(checkpoint)
    return checkpoint


def write_metrics(run: Path, *steps: int, torn: str = "") -> str:
    text = "".join(json.dumps({"step": step, "time_s": step / 2}) + "\n" for step in steps) + torn
    (run / "metrics.jsonl").write_text(text)
    return text


def interrupted_run(run: Path, **config) -> None:
    directory.claim(run, describe(**config), resume=False)
    manifest.set_status(run, "interrupted", 2)


def strike(owner, name, signum, call=1):
    """Have this process get a signal in the call-th call of a function."""
    struck, calls = getattr(owner, name), []

    def function(*args, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signum)
        return struck(*args, **options)

    setattr(owner, name, function)


def forked(folder, act, *, read=True):
    """Call a function in a fork, in a folder; return its code, and what it printed to be read."""
    if (child := os.fork()) == 0:
        for fd, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            if not read:
                reader, fd_of_pipe = os.pipe()
                os.close(reader)
                os.dup2(fd_of_pipe, fd)
        code = 1
        try:
            os.chdir(folder)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
            code = act() or 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, (folder / "out").read_text(), (folder / "err").read_text()
