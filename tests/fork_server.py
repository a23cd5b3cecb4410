"""Run a recipe again and again, and kill it: the imports are paid once, each run is a fork.

    python tests/fork_server.py RECIPE

reads a request a line, as `ForkServer.run` writes it, and answers each with a line when the run is
over.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PRELOADED = """
pandas pyarrow.parquet datasets peft trl.trainer.grpo_trainer grpo_credit.trainer.trainer
grpo_credit.run.callbacks grpo_credit.records.checkpoints grpo_credit.records.directory
grpo_credit.run.evaluation grpo_credit.records.manifest grpo_credit.run.models
grpo_credit.run.lifecycle grpo_credit.run.training transformers.models.llama.modeling_llama
grpo_credit.preflight.early grpo_credit.preflight.verdict
"""


class ForkServer:
    """The side of the tests."""

    def __init__(self, recipe, folder):
        self.folder, self.number = Path(folder), 0
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(recipe)], cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, *arguments, **how):
        """Run the recipe to its end; see `_child` and `_ended` for what may befall it.

        Returns:
            Its exit code (or minus the signal), the seconds of CPU that it took, what it printed.
        """
        self.number += 1
        log = self.folder / f"log-{self.number}.txt"
        request = {"number": self.number, "arguments": arguments, "log": str(log), **how}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        number = code = cpu = None
        while (
            number != self.number
        ):  # after a test that gave up, the answer that it left comes first
            number, code, cpu = json.loads(self.process.stdout.readline())
        return code, cpu, log.read_text()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _strike(at, nth=1, matching="", how="SIGKILL", cut=False, late=False):
    """Send this process a signal at the nth call of a function.

    Args:
        at: the function, as module:name or module:Class.name.
        nth: 1 for the first call, of those that match.
        matching: a part of one of the arguments.
        how: the signal.
        cut: whether the file that is the first argument loses its second half before.
        late: whether the signal comes after the call.
    """
    module, _, path = at.partition(":")
    *parents, name = path.split(".")
    holder = importlib.import_module(module)
    for parent in parents:
        holder = getattr(holder, parent)
    original, calls = getattr(holder, name), []

    def struck(*args, **kwargs):
        hit = matching in " ".join(map(str, args)) and not calls.append(1) and len(calls) == nth
        if hit and cut:
            os.truncate(args[0], os.path.getsize(args[0]) // 2)
        if hit and not late:
            os.kill(os.getpid(), getattr(signal, how))
        result = original(*args, **kwargs)
        if hit and late:
            os.kill(os.getpid(), getattr(signal, how))
        return result

    setattr(holder, name, struck)


def _child(recipe, arguments, log, strikes=(), **_):
    """Be a process of the recipe, with default signal handlers."""
    from grpo_credit.run.training import run_recipe

    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [recipe.file, *arguments]
    for strike in strikes:
        _strike(**strike)
    try:
        return run_recipe(recipe, arguments)
    except SystemExit as stopped:
        return stopped.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


def _ended(pid, kill_at=None, **_):
    """Wait for a child, or kill it once it has used `kill_at` seconds of CPU."""
    import psutil

    process = psutil.Process(pid)
    while kill_at is not None:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        if sum(process.cpu_times()[:2]) >= kill_at:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    _, status, usage = os.wait4(pid, 0)
    return status, usage


def main():
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from grpo_credit.credit.userfile import load_recipe

    torch.set_num_threads(1)
    recipe = load_recipe(Path(sys.argv[1]))
    for name in PRELOADED.split():
        importlib.import_module(name)
    get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns, once
    gc.freeze()  # the imports stay shared, and out of the collection that ends a training
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _child(recipe, **request)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status, usage = _ended(pid, **request)
        cpu = usage.ru_utime + usage.ru_stime
        answer = [request["number"], os.waitstatus_to_exitcode(status), cpu]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
