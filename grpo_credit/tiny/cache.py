"""Folders that are built once, verified at each use, and shared by processes."""

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from grpo_credit.records.files import read_json

VARIABLE = "GRPO_CREDIT_CACHE"
MANIFEST = "complete.json"


def cache_root() -> Path:
    """Return `$GRPO_CREDIT_CACHE`, or else the user's cache folder of this platform."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "grpo-credit"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "grpo-credit"


def cached(entry: Path, build: Callable[[Path], dict[str, Any]]) -> Path:
    """Return the folder `entry`, building it first if it is absent or damaged.

    A folder is used only if its manifest `complete.json` holds the right sha256 of its files. It is
    built aside and moved into place in one step. Of several processes one builds, the others
    wait; a complete folder is used without a lock, hence also from a read-only place.

    Args:
        entry: The folder; its name must identify what `build` writes.
        build: Fills an empty folder and returns metrics, which the manifest keeps.

    Raises:
        OSError: If a build is needed and the parent of `entry` cannot be written.
    """
    if entry.exists() and damage(entry) is None:
        return entry
    _require_writable(entry.parent)
    with FileLock(f"{entry}.lock"):
        for left in entry.parent.glob(f".{glob.escape(entry.name)}-*"):
            shutil.rmtree(left)  # by a builder that was killed; nobody builds beside us
        if _absent_or_damaged(entry):
            _publish(entry, build)
    return entry


def damage(entry: Path) -> str | None:
    """Return what is wrong with a cached folder, None if every file is as it was built."""
    try:
        intact = read_json(entry / MANIFEST)["sha256"] == _digest(entry)
    except (OSError, ValueError, TypeError, KeyError):
        return f"{MANIFEST} is missing or damaged"
    return None if intact else f"its files are not those of {MANIFEST}"


def _absent_or_damaged(entry: Path) -> bool:
    if not entry.exists():
        return True
    reason = damage(entry)
    if reason:
        print(f"grpo-credit: rebuilding {entry}: {reason}", file=sys.stderr, flush=True)
    return reason is not None


def _publish(entry: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=entry.parent) as scratch:
        built = Path(scratch, "entry")
        built.mkdir()
        metrics = build(built)
        manifest = {"sha256": _digest(built), "metrics": metrics}
        (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if entry.exists():  # os.replace refuses to replace a folder that has files
            shutil.rmtree(entry)
        os.replace(built, entry)


def _digest(folder: Path) -> str:
    """Return a sha256 over the names and the bytes of all files but the manifest."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the cache folder {root} ({error.strerror}); "
            f"set {VARIABLE} to a folder that can be written"
        ) from error
