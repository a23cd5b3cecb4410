"""Run a script on several gloo processes."""

import gc
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def begin():
    """In a rank that trains many times: spare the collection that ends each the imports."""
    gc.freeze()


def leave():
    """In a rank: wait for the others, and end at once.

    Gloo's threads, one set per trainer, now and then abort the interpreter's own exit.
    """
    import torch.distributed

    torch.distributed.barrier()
    os._exit(0)


def command(processes, script, *arguments):
    """Return the command line; a script without a folder is one beside this file."""
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}",
        "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", str(TESTS / script),
        *map(str, arguments),
    ]  # fmt: skip


def ended(processes, script, *arguments, cwd=TESTS, **environment):
    """Run a script to its end, whichever that is."""
    return subprocess.run(
        command(processes, script, *arguments), capture_output=True, text=True, timeout=280,
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def launch(processes, script, *arguments, cwd=TESTS, **environment):
    """Run a script to its good end, and return what it printed."""
    done = ended(processes, script, *arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
