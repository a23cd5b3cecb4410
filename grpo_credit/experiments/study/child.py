"""Become the process of a cell: hold its lock, end with the parent, then be the recipe.

    python child.py LOCK PARENT_PID COMMAND...

The lock belongs to the process, through `exec` and until it is gone, however it ends; so nobody can
start a second one on the same cell. A lock of the `lockf` kind, since that is not inherited by what
the recipe forks. This file imports the standard library only.
"""

import ctypes
import fcntl
import os
import signal
import sys

BUSY = 75  # exit code: another process has the cell (EX_TEMPFAIL of sysexits.h)
PR_SET_PDEATHSIG = 1


def hold(lock: str) -> bool:
    """Take the lock for this process and what it executes; return whether that went well."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(file, True)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(lock: str) -> bool:
    """Return whether a process holds the lock."""
    try:
        file = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def end_with_parent(parent: int) -> None:
    """Get SIGTERM, which leaves a checkpoint, when the parent is gone; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before we asked
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[2]))
    if not hold(sys.argv[1]):
        sys.exit(BUSY)
    os.execvp(sys.argv[3], sys.argv[3:])
