"""A checkpoint is whole, or it is none.

The trainer writes a checkpoint in place, because what it keeps of it (the path of the best one, an
upload) names that place. What makes it whole is `files.json`: a list of its files, written last and
in one step, when all of them are on disk. Without the list it was not finished; a file that is not
as listed is damaged.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo_credit.records.files import free, read_json, replace_text, sync

LIST = "files.json"
REPLACED = "replaced-"  # the old one, while a checkpoint of the same step is written anew
UNFINISHED = f"it was not finished: it has no {LIST}"
BLOCK, BLOCKS = 2**20, 64  # bytes; read of each file at most

_NAME = re.compile(r"(?:replaced-)?checkpoint-(\d+)")
_OF_THE_OPTIMIZER = ("*optimizer*", "global_step*")
_OF_THE_SCHEDULER = ("scheduler.pt", "global_step*")


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def found_in(directory: Path) -> list[Path]:
    """List the checkpoints of a run, whole or not, the last step first."""
    paths = [path for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: (step_of(path), path.name[0] == "c"), reverse=True)


def seal(checkpoint: Path) -> None:
    """Make a checkpoint whole: list its files, once all of them are on disk.

    A file is listed with its size and the sha256 of its content; where it is longer than 64 MiB,
    of 64 blocks of 1 MiB that are evenly spread over it, the first and the last included.
    """
    _sync_all(checkpoint)
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p != checkpoint / LIST)
    listed = {path.relative_to(checkpoint).as_posix(): _described(path) for path in files}
    replace_text(checkpoint / LIST, json.dumps({"format": 1, "files": listed}, indent=1) + "\n")
    sync(checkpoint)
    sync(checkpoint.parent)


def save_model(trainer: Any, folder: Path) -> None:
    """Save the final model whole: beside its place, then renamed; an older one stays until then.

    Args:
        trainer: has the model; call it on every rank.
        folder: where the model goes.
    """
    aside = folder.with_name(f"partial-{folder.name}")
    replaced = folder.with_name(REPLACED + folder.name)
    if trainer.args.should_save:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(aside), _internal_call=True)  # a push would upload it by this name
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        _sync_all(aside)
        if folder.exists():
            folder.rename(replaced)
        aside.rename(folder)
        sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def damage(checkpoint: Path) -> str | None:
    """Return which file of a checkpoint is not as its list has it; None if all are.

    Where there is no list, as in a checkpoint of TRL's trainer, nothing is known to be wrong.
    """
    if not (checkpoint / LIST).exists():
        return None
    try:
        return _unlike(checkpoint)
    except (OSError, ValueError) as error:
        return str(error)


def missing_state(checkpoint: Path, ranks: int) -> str | None:
    """Return what an exact resume needs and a checkpoint lacks; None if it lacks nothing.

    Args:
        checkpoint: an undamaged one.
        ranks: processes of the run; each has random states of its own.
    """
    random = [f"rng_state_{rank}.pth" for rank in range(ranks)] if ranks > 1 else ["rng_state.pth"]
    kinds = (
        ("optimizer", any(map(list, map(checkpoint.glob, _OF_THE_OPTIMIZER)))),
        ("scheduler", any(map(list, map(checkpoint.glob, _OF_THE_SCHEDULER)))),
        ("random", all((checkpoint / name).is_file() for name in random)),
    )
    lacking = [kind for kind, there in kinds if not there]
    return f"it has no {' and no '.join(lacking)} state" if lacking else None


def lost_best(checkpoint: Path) -> str | None:
    """Return that the best checkpoint which a checkpoint refers to is not whole, if so."""
    state = read_json(checkpoint / "trainer_state.json", 2**31)
    best = Path(state.get("best_model_checkpoint") or checkpoint).name
    if best == checkpoint.name:
        return None
    other = checkpoint.with_name(best)
    wrong = damage(other) if (other / LIST).exists() else "it is gone"
    return f"the best one so far, {best}, is needed at the end: {wrong}" if wrong else None


def choose(directory: Path, run: Mapping[str, Any], tell: Callable[[str], None]) -> Path | None:
    """Return the last checkpoint of a run that can be resumed, and set the later ones aside.

    None where none was ever whole: begin at the first step. `tell` is given a sentence for each one
    that is passed over.

    Raises:
        ValueError: if there were whole checkpoints, and all are damaged now, or the run is so old
            that nothing tells which are whole; nothing is changed.
    """
    passed: dict[Path, str] = {}
    for checkpoint in found_in(directory):
        if (wrong := _wrong_with(checkpoint, run)) is None:
            _set_aside(passed, f"going on from {checkpoint.name}", tell)
            return _named(checkpoint)
        passed[checkpoint] = wrong
    listed = "checkpoints" in run["extra"]  # since each whole checkpoint of a run has a list
    if any(wrong != UNFINISHED or not listed for wrong in passed.values()):
        reasons = "; ".join(f"{path.name}: {wrong}" for path, wrong in passed.items())
        raise ValueError(
            f"no checkpoint in {directory} can be resumed ({reasons}). Nothing was changed. Start "
            "a new run in another --output_dir; or, to train this one again from its first step, "
            "move its checkpoints away."
        )
    _set_aside(passed, "beginning at the first step", tell)
    return None


def _wrong_with(checkpoint: Path, run: Mapping[str, Any]) -> str | None:
    if not (checkpoint / LIST).exists():
        return UNFINISHED
    best = run["config"].get("load_best_model_at_end")
    return (
        damage(checkpoint)
        or missing_state(checkpoint, run["world_size"])
        or (lost_best(checkpoint) if best else None)
    )


def _named(checkpoint: Path) -> Path:
    """Give a checkpoint its own name, and drop the one that it replaced."""
    named = checkpoint.rename(checkpoint.with_name(checkpoint.name.removeprefix(REPLACED)))
    shutil.rmtree(named.with_name(REPLACED + named.name), ignore_errors=True)
    return named


def _set_aside(passed: dict[Path, str], instead: str, tell: Callable[[str], None]) -> None:
    # Not "checkpoint-...": the trainer would take such a name for one to resume or rotate.
    for path, wrong in passed.items():
        aside = free(path.with_name(f"incomplete-{path.name}"))
        path.rename(aside)
        tell(f"{path.name} is left out, and is now {aside.name}: {wrong}; {instead}")


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _described(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    count = min(BLOCKS, math.ceil(size / BLOCK))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in range(count):
            file.seek(block * max(size - BLOCK, 0) // max(count - 1, 1))
            digest.update(file.read(BLOCK))
    return {"bytes": size, "sha256": digest.hexdigest()}


def _unlike(checkpoint: Path) -> str | None:
    try:
        listed = read_json(checkpoint / LIST)["files"].items()
        files = {name: (int(then["bytes"]), then) for name, then in listed}
    except (TypeError, KeyError, AttributeError):
        return f"{LIST} is no list of files"
    for name, (size, then) in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if (now := path.stat().st_size) != size:
            return f"{name} has {now:,} bytes, {size:,} were written"
        if _described(path) != then:
            return f"the content of {name} is not what was written"
    return None
