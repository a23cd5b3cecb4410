"""Whether a launcher stands between the terminal and this process, and what that means on Ctrl-C.

* `accelerate launch` with one process starts the script as a child and waits. On Ctrl-C both get
  SIGINT, and the launcher gives up after 0.25 s; on SIGTERM, sent to it alone, it dies at once.
  Either way the script runs on without a parent, out of reach of a second Ctrl-C; where the
  launcher itself led the terminal session (`ssh -t`, `docker run -it`), SIGHUP follows.
* `torchrun` (and `accelerate launch` with several processes) passes SIGINT and SIGTERM on to every
  rank, so that a Ctrl-C arrives twice, and kills the ranks that are still there after 30 s.
"""

import os
from pathlib import Path

import psutil

_PROGRAMS = {"accelerate", "accelerate-launch", "torchrun", "trl"}
_MODULES = {"accelerate.commands.launch", "accelerate.commands.accelerate_cli"}
_MODULES |= {"torch.distributed.run", "torch.distributed.launch"}


def launcher_pid() -> int | None:
    """Process id of the launcher that started this process, None if something else did.

    The parent's command line decides. Environment variables would not do: they are inherited by
    everything below a launcher, and a parent that is a shell may end while its `nohup` child is
    meant to go on.
    """
    parent = os.getppid()
    try:
        words = psutil.Process(parent).cmdline()[:4]  # python -m module, or python path/program
    except psutil.Error:
        return None
    known = any(word in _MODULES or Path(word).name in _PROGRAMS for word in words)
    return parent if known else None


def how_to_insist(launcher: int | None) -> str:
    """Tell how to stop at once, after a first signal, under the launcher that is there."""
    if launcher is None:
        return "press again to stop at once"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "press again to stop at once (torchrun ends what is left after 30 s)"
    return f"`kill {os.getpid()}` to stop at once"
