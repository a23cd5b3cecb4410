"""One writer a directory: a lock that the system lets go of, however its process ends.

It is `flock`, through filelock, on the file `.lock` in the directory, which stays when the lock is
gone. A forked child does not keep it. Where a file system has no locks (some network ones) that is
said, and nothing stops a second writer; one that only pretends to have them cannot be told.
"""

import errno
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from grpo_credit.records.files import is_temporary
from grpo_credit.text import in_line

LOCK = ".lock"
PATIENCE_S = 0.3  # somebody may just be asking whether the lock is held
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)

_held: dict[Path, FileLock] = {}  # by this process


class Busy(ValueError):
    """Another process is at work on the directory; the argument is its number, where known."""


def hold(directory: Path, name: str = LOCK) -> bool:
    """Take a directory for this process, until `let_go` or its end; False if it has it already.

    Raises:
        Busy: another process has it.
        OSError: the lock file cannot be opened.
    """
    path = _path(directory, name)
    if _is_ours(path):
        return False
    lock = _lock(path, _sign)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(path.read_text(encoding="utf-8", errors="replace").strip()) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"warning: the file system of {in_line(directory)} has no locks ({error.strerror}); "
            "see to it that nothing else writes there.",
            file=sys.stderr,
        )
    _held[path] = lock
    return True


@contextmanager
def held_if_well(directory: Path) -> Generator[None, None, None]:
    """Hold a directory from here on, unless the body fails; see `hold`."""
    new = hold(directory)
    try:
        yield
    except BaseException:
        if new:
            let_go(directory)
        raise


def let_go(directory: Path, name: str = LOCK, *, remove: bool = False) -> None:
    """Let others have the directory; who waits for a lock file that is removed makes a new one."""
    path = _path(directory, name)
    if lock := _held.pop(path, None):
        if remove:
            path.unlink(missing_ok=True)
        lock.release()


def is_held(directory: Path) -> bool:
    """Return whether another process is at work on a directory, by trying its lock."""
    path = _path(directory, LOCK)
    if not path.is_file() or _is_ours(path):
        return False
    lock = _lock(path)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # no locks there, or not ours to write: who wants to write will be told
        return False
    lock.release()
    return False


def entries(directory: Path) -> list[str]:
    """List what a directory holds besides what a writer that was killed may have left."""
    paths = directory.iterdir() if directory.exists() else ()
    return sorted(path.name for path in paths if path.name != LOCK and not is_temporary(path))


def _is_ours(path: Path) -> bool:
    return path in _held and _held[path].is_locked  # a forked child has let go of its parent's


def _path(directory: Path, name: str) -> Path:
    return directory.resolve() / name


def _lock(path: Path, on_acquired: Callable[[int], None] | None = None) -> FileLock:
    """Make a lock that is never a mere file, and that any thread may let go of."""
    return FileLock(
        path,
        timeout=PATIENCE_S,
        thread_local=False,
        fallback_to_soft=False,
        on_acquired=on_acquired,
    )


def _sign(descriptor: int) -> None:
    """Leave the number of this process for who is refused; it decides nothing."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
