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

_WAITING = {"grpo-credit", "grpo_credit"}
_PROGRAMS = {"accelerate", "accelerate-launch", "torchrun", "trl"}
_MODULES = {"accelerate.commands.launch", "accelerate.commands.accelerate_cli"}
_MODULES |= {"torch.distributed.run", "torch.distributed.launch"}


def launcher_pid() -> int | None:
    """Process id of the launcher that started this process, None if something else did.

    The parent's command line decides. Environment variables would not do: they are inherited by
    everything below a launcher, and a parent that is a shell may end while its `nohup` child is
    meant to go on.
    """
    words = _parents_words()
    waits = any(Path(word).name in _WAITING for word in words[:4])  # see `wrapper`
    return None if waits or _launching(words) is None else os.getppid()


def fewer_than_asked(processes: int) -> str | None:
    """Return that `accelerate launch` started one process where several were meant, if it did.

    It starts several where it finds accelerators, or is given a `--mpirun_hostfile`; on the CPU it
    ignores `--num_processes`, and that of its configuration file, without a word.
    """
    words = _parents_words()
    program = _launching(words)
    if processes > 1 or program is None or not Path(words[program]).name.startswith("accelerate"):
        return None
    meant = _processes_meant([word for word in words[program + 1 :] if word != "launch"])
    if meant <= 1:
        return None
    return (
        f"warning: one process runs, though accelerate launch was to start {meant}: without "
        f"accelerators it starts one. On the CPU use torchrun --nproc_per_node={meant} SCRIPT "
        "--use_cpu ..."
    )


def _processes_meant(options: list[str]) -> int:
    """Read what `accelerate launch` was told, on its command line or in its configuration."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    args, _ = launch_command_parser().parse_known_args(options)
    file = args.config_file or default_config_file
    if args.num_processes is None and os.path.isfile(file):
        return load_config_from_file(file).num_processes
    return args.num_processes or 1


def _parents_words() -> list[str]:
    try:
        return psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []


def _launching(words: list[str]) -> int | None:
    """Find the word that is a launcher: python -m module, or python path/program."""
    at = (i for i, w in enumerate(words[:5]) if w in _MODULES or Path(w).name in _PROGRAMS)
    return next(at, None)
