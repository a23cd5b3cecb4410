"""A recipe that trains nothing, in milliseconds, but keeps the contract of the real ones.

A run directory with manifest, metrics and checkpoints, --resume, a checkpoint on SIGTERM. Every
step is a line of the file that $LEDGER names, so that a step done twice is two lines. Options that
make trouble at a seed: --fail, --full (disk), --kill (as if memory were short), --lie (exit 0),
--hang (until it is killed).
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from grpo_credit.records.files import replace_text
from grpo_credit.records.lock import hold
from grpo_credit.records.provenance import now

STRATEGIES = ("uniform", "length", "seq", "dapo", "delta_l")


def parse(arguments):
    def fail(message):
        raise ValueError(message)

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.error = fail
    for name in ("seed", "max_steps", "logging_steps", "test_samples"):
        parser.add_argument(f"--{name}", type=int, default=6)
    for name in ("fail", "full", "kill", "lie", "hang"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--credit")
    parser.add_argument("--credit_kwargs")
    parser.add_argument("--preflight")
    parser.add_argument("--hub_token")
    parser.add_argument("--pause", type=float, default=0.01)
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.credit not in STRATEGIES:
        raise ValueError(f"unknown strategy {asked.credit!r}.")
    return asked


class Recipe:
    def check(self, arguments):
        return [f"mean@{parse(arguments).test_samples}", "form (greedy)"]


RECIPE = Recipe()


def note(asked, what):
    line = f"{asked.credit} {asked.seed} {what} {os.getpid()} {sys.argv[0]}\n"
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(line)


def write(path, value):
    replace_text(path, json.dumps(value))


def describe(asked, status, step):
    config = {"max_steps": asked.max_steps}
    extra = {"metric": f"mean@{asked.test_samples}"}
    write(
        asked.output_dir / "manifest.json",
        {"status": status, "started": now(), "ended": now(), "config": config, "step": step,
         "extra": extra},
    )  # fmt: skip


def claim(asked):
    """Return the step and the state to go on from."""
    out = asked.output_dir
    if not asked.resume:
        if (out / "manifest.json").exists():
            raise ValueError("it is taken")
        return 0, asked.seed
    if json.loads((out / "manifest.json").read_text())["status"] == "finished":
        raise ValueError("nothing to resume")
    steps = [int(path.stem.rpartition("-")[2]) for path in out.glob("checkpoint-*.json")]
    if not steps:
        (out / "metrics.jsonl").unlink(missing_ok=True)
        return 0, asked.seed
    last = json.loads((out / f"checkpoint-{max(steps)}.json").read_text())
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    replace_text(out / "metrics.jsonl", "".join(lines[: last["step"]]))
    return last["step"], last["state"]


def trouble(asked):
    if asked.fail == asked.seed:
        raise RuntimeError("no \x1b[31mweights")
    if asked.full == asked.seed:
        raise OSError(28, "No space left on device")
    if asked.kill == asked.seed:
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.hang == asked.seed:
        time.sleep(600)
    if asked.lie == asked.seed:
        sys.exit(0)


def train(asked, stop):
    out = asked.output_dir
    out.mkdir(parents=True, exist_ok=True)
    hold(out)
    step, state = claim(asked)
    describe(asked, "running", step)
    trouble(asked)
    while step < asked.max_steps and not stop:
        time.sleep(asked.pause)
        step += 1
        state = (state * 31 + len(asked.credit)) % 1009
        note(asked, step)
        norm = len(asked.credit) * (1 + step % 2)
        line = {"step": step, "reward": state / 1009, "grad_norm": norm, "time_s": step / 10}
        with (out / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps(line) + "\n")
        if step % 2 == 0:
            write(out / f"checkpoint-{step}.json", {"step": step, "state": state})
    if stop and step:
        write(out / f"checkpoint-{step}.json", {"step": step, "state": state})
    code = 128 + stop[0] if stop else 0
    if not code:
        line = {"step": step, f"mean@{asked.test_samples}": state / 1009}
        (out / "held_out.jsonl").write_text(json.dumps(line) + "\n")
    describe(asked, "interrupted" if code else "finished", step)
    return code


def main(arguments):
    stop = []
    signal.signal(signal.SIGTERM, lambda signum, frame: stop.append(signum))
    asked = parse(arguments)
    note(asked, "start")
    with open(f"{asked.output_dir}.alone", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two at once would be a mistake
        code = train(asked, stop)
    note(asked, "interrupted" if code else "finished")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
