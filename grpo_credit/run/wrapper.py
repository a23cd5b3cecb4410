"""Run `accelerate launch` or `torchrun` so that it ends as what it launched, without a traceback.

By itself `accelerate launch` gives up a quarter of a second after Ctrl-C, with a traceback, while
the script is still writing its checkpoint; `torchrun` ends with a report on each signal and on each
mistake that the script has told in one line. Here the launcher waits, and the script speaks.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from types import FrameType

import psutil

from grpo_credit.errors import TRACEBACK
from grpo_credit.run import ending

LAUNCHERS = ("accelerate", "torchrun")


def run_launcher(args: argparse.Namespace) -> int:
    """Run a launcher's command line in this process; return the exit code of what it launched.

    It is 128 + signal if a signal ended that.

    Raises:
        ValueError: another program.
    """
    words = [*args.words, *([TRACEBACK] if args.traceback else [])]
    if not words or words[0] not in LAUNCHERS:
        raise ValueError(
            f"expected the command line of {' or '.join(LAUNCHERS)}, such as: "
            f"accelerate launch RECIPE.py; got {' '.join(words) or 'nothing'}."
        )
    for signum in ending.SIGNALS:
        if signal.getsignal(signum) not in (None, signal.SIG_IGN):
            signal.signal(signum, _pass_on)
    (program,) = entry_points(group="console_scripts", name=words[0])
    # torchrun tells of each signal and each rank that ended; some of its loggers ask LOGLEVEL.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    before, os.environ["LOGLEVEL"] = os.environ.get("LOGLEVEL"), "CRITICAL"
    try:
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        main = program.load()
    finally:
        os.environ.pop("LOGLEVEL")
        os.environ.update({} if before is None else {"LOGLEVEL": before})
    sys.argv = words
    try:
        return main() or 0
    except subprocess.CalledProcessError as error:
        return _code(error.returncode)
    except ChildFailedError as error:
        return _code(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return 128 + error.sigval


def _code(returned: int) -> int:
    """Return a child's code as a shell gives it; of a signal nobody else says anything."""
    if returned >= 0:
        return returned
    if -returned not in ending.SIGNALS:
        print(f"grpo-credit: killed by {signal.Signals(-returned).name}", file=sys.stderr)
    return 128 - returned


def _pass_on(signum: int, frame: FrameType | None) -> None:
    """Hand a signal to what was launched, which says so; before there is any, end at once."""
    launched = psutil.Process().children()
    if not launched:
        ending.say(f"{signal.Signals(signum).name}: stopped; nothing was begun")
        os._exit(128 + signum)
    for child in launched:
        child.send_signal(signum)
