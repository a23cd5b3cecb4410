"""The run directory: one run, claimed once, resumed only by the same configuration.

A run directory holds `manifest.json`, `metrics.jsonl` and the trainer's `checkpoint-<step>`
directories. Nothing that is found there is overwritten; what a resumed run would write a second
time is first set aside under another name.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError, safe_open
from transformers import utils as names
from transformers.trainer_utils import get_last_checkpoint

from grpo_credit.run.files import (
    HELD_OUT,
    METRICS,
    lines_from_end,
    parse_line,
    read_json,
    replace_content,
)
from grpo_credit.run.jsonfile import plain, write_json
from grpo_credit.run.manifest import read_manifest
from grpo_credit.run.provenance import MANIFEST, host
from grpo_credit.run.ranks import on_main

TABLES = ("completions", "credit", "rollouts")  # of the trainer: <name>_<step>.parquet

# What may differ between the attempts at one run: where it writes, what it shows and how often it
# records. None of these reaches a gradient.
MAY_CHANGE = frozenset(
    {
        *(
            "resume",
            "preflight",
            "dry_run",
            "traceback",
            "resume_from_checkpoint",
            "output_dir",
            "run_name",
        ),
        *("project", "report_to"),
        *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "hub_token"),
        *("disable_tqdm", "log_level", "log_level_replica", "log_on_each_node"),
        *("logging_steps", "logging_first_step", "save_steps", "save_total_limit"),
        *("log_completions", "log_completions_hub_repo", "log_unique_prompts"),
        "num_completions_to_print",
    }
)

_OURS = re.compile(rb'\{"step": (\d{1,15}),[ -~]*\}\n')  # a line as we write it
_WEIGHTS = (
    names.SAFE_WEIGHTS_NAME,
    names.SAFE_WEIGHTS_INDEX_NAME,
    names.WEIGHTS_NAME,
    names.WEIGHTS_INDEX_NAME,
    names.ADAPTER_SAFE_WEIGHTS_NAME,
    names.ADAPTER_WEIGHTS_NAME,
    "*/" + names.ADAPTER_SAFE_WEIGHTS_NAME,  # several adapters: one directory each
    "pytorch_model_fsdp*",
    "global_step*",  # DeepSpeed
)


class RunExists(ValueError):
    """The directory holds something that this run must not touch."""


def claim(output_dir: Path | str, manifest: dict[str, Any], resume: bool) -> Path | None:
    """Take a directory for a run, or go on with the run that is in it.

    Call it on every rank, before the trainer is constructed: TRL's may write into the directory.
    A resumed run keeps the manifests of its earlier attempts under "earlier"; lines of
    metrics.jsonl beyond the checkpoint move to metrics.jsonl.bak-<n>, completions and credit tables
    beyond it to completions.bak-<n> and credit.bak-<n>; half-written checkpoints become
    incomplete-checkpoint-<step>.

    Args:
        output_dir: the directory; made if it is not there.
        manifest: from `manifest.manifest`; written as manifest.json.
        resume: whether to go on with the run in the directory.

    Returns:
        The last complete checkpoint of a resumed run; None to begin at the first step.

    Raises:
        RunExists: the directory is taken: by another run, by a run that is still going on, or by
            files of unknown origin.
        ValueError: with `resume`, if there is no run, it is finished, or it was configured
            differently; the message lists the keys.
    """
    return on_main(_resume if resume else _start, Path(output_dir), manifest)


def _start(directory: Path, manifest: dict[str, Any]) -> None:
    if found := _found(directory):
        raise RunExists(f"{directory} holds {found}; {_way_out(directory)}")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        (directory / MANIFEST).touch(exist_ok=False)  # of two runs started at once, one wins
    except FileExistsError as error:
        raise RunExists(f"{directory} was just taken by another run") from error
    write_json(directory / MANIFEST, manifest)


def release(output_dir: Path | str, named: bool) -> None:
    """Give back a directory that was just claimed, before anything was trained in it.

    The manifest goes, and what the trainer's constructor made, if it is empty; then the directory
    can be claimed again, under whatever configuration. Call it on every rank.

    Args:
        output_dir: the directory.
        named: whether the user named it; it stays then, empty.
    """
    on_main(_release, Path(output_dir), named)


def _release(directory: Path, named: bool) -> None:
    (directory / MANIFEST).unlink()
    for folder in [*(directory / name for name in TABLES), *([] if named else [directory])]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _found(directory: Path) -> str:
    """Say what a directory holds; empty if it is free."""
    if not directory.exists():
        return ""
    if not directory.is_dir():
        return "no directory: it is a file"
    entries = sorted(path.name for path in directory.iterdir())
    ours = [name for name in (MANIFEST, METRICS) if name in entries]
    checkpoints = [name for name in entries if name.startswith("checkpoint-")]
    if ours or checkpoints:
        return "another run (" + ", ".join(ours + checkpoints[-1:]) + ")"
    more = ", ..." if len(entries) > 3 else ""
    return "other files (" + ", ".join(entries[:3]) + more + ")" if entries else ""


def _way_out(directory: Path) -> str:
    if (directory / MANIFEST).is_file():
        return "use --resume to go on with it, or another --output_dir"
    return "use another --output_dir"


def _resume(directory: Path, manifest: dict[str, Any]) -> Path | None:
    old = _resumable(directory)
    _refuse_other_configuration(directory, old, manifest)
    checkpoint = _last_complete_checkpoint(directory)
    for name in (METRICS, HELD_OUT):
        _drop_later_lines(directory / name, _step_of(checkpoint))
    for name in TABLES:
        _set_later_tables_aside(directory / name, _step_of(checkpoint))
    earlier = [*old.pop("earlier", []), old]
    write_json(directory / MANIFEST, {**manifest, "earlier": earlier})
    return checkpoint


def _resumable(directory: Path) -> dict[str, Any]:
    if not (directory / MANIFEST).is_file():
        raise ValueError(f"nothing to resume: {directory} has no {MANIFEST}")
    old = read_manifest(directory, whole=True)
    if old["status"] == "finished":
        raise ValueError(f"nothing to resume: the run in {directory} is finished")
    if is_going_on(old):
        raise RunExists(f"the run in {directory} is going on as process {old['process']['pid']}")
    return old


def is_going_on(manifest: dict[str, Any]) -> bool:
    """Whether another process of this machine is still at work on the run.

    A killed run leaves the status "running", so the process itself is looked up. A process that
    is younger than the manifest only inherited the number.
    """
    process = manifest["process"]
    if manifest["status"] != "running" or process["host"] != host():
        return False
    if process["pid"] == os.getpid():
        return False
    started = datetime.fromisoformat(manifest["started"]).timestamp()
    try:
        found = psutil.Process(process["pid"])
        return found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= started
    except psutil.NoSuchProcess:
        return False


def _refuse_other_configuration(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    compared = ("world_size", "seed", "config")
    different = differences(
        {key: old[key] for key in compared}, {key: plain(new[key]) for key in compared}
    )
    if different:
        listed = "\n  ".join(different)
        raise ValueError(
            f"the run in {directory} was configured differently:\n  {listed}\n"
            "resume with the same values, or start a new run in another --output_dir"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the keys of two configurations that differ and are not in `MAY_CHANGE`.

    Example:
        >>> differences({"learning_rate": 0.001, "run_name": "a"}, {"learning_rate": 0.0001})
        ['learning_rate: 0.001 in the run, 0.0001 now']
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key, 'not set')} in the run, {after.get(key, 'not set')} now"
        for key in keys
        if key.rpartition(".")[2] not in MAY_CHANGE and before.get(key) != after.get(key)
    ]


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys and values as JSON text, which tells 1 from True and "1"."""
    for key, value in config.items():
        name = f"{prefix}{key}".removeprefix("config.")
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, json.dumps(value)


def _last_complete_checkpoint(directory: Path) -> Path | None:
    while (last := get_last_checkpoint(str(directory))) is not None:
        if is_complete(Path(last)):
            return Path(last)
        # Not "checkpoint-...": the trainer would take such a name for one to resume or rotate.
        Path(last).rename(_free(directory / f"incomplete-{Path(last).name}"))
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint can be resumed: a readable trainer state and undamaged weights.

    The trainer writes weights first and trainer_state.json last. Of safetensors files the length
    is checked against the header; of other formats only the presence.
    """
    try:
        read_json(checkpoint / "trainer_state.json", 2**31)  # it holds what was logged so far
    except (OSError, ValueError):
        return False
    weights = [path for name in _WEIGHTS for path in checkpoint.glob(name)]
    return bool(weights) and all(_is_whole(path) for path in weights)


def _is_whole(weights: Path) -> bool:
    if weights.name.endswith(".index.json"):
        shards = set(read_json(weights)["weight_map"].values())
        return all(
            (weights.parent / name).is_file() and _is_whole(weights.parent / name)
            for name in shards
        )
    if weights.suffix != ".safetensors":
        return True
    try:
        with safe_open(weights, "pt"):
            return True
    except SafetensorError:
        return False


def _step_of(checkpoint: Path | None) -> int:
    return -1 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])


def _drop_later_lines(path: Path, step: int) -> None:
    """Cut a file after its last line up to a step; what is cut off goes to a file beside it first.

    Only the end of the file is read. A process that is killed in between leaves the lines in both.

    Raises:
        CreditError: if a line among them is none of a run; nothing is cut off then.
    """
    if not path.is_file():
        return
    lines = enumerate(lines_from_end(path), 1)
    later = ((end, _is_up_to(line, step, path, n)) for n, (end, line) in lines)
    kept = next((end for end, is_up_to in later if is_up_to), 0)
    if kept < path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(kept)
            replace_content(_free(path.with_name(f"{path.name}.bak"), first=1), file)
            file.truncate(kept)
            os.fsync(file.fileno())


def _set_later_tables_aside(folder: Path, step: int) -> None:
    """Move the files of steps beyond the checkpoint away; the trainer would overwrite them."""
    files = [(path, re.search(r"_(\d+)\.", path.name)) for path in folder.glob("*_*.*")]
    later = [path for path, number in files if number and int(number[1]) > step]
    if later:
        aside = _free(folder.with_name(f"{folder.name}.bak"), first=1)
        aside.mkdir()
        for path in later:
            path.rename(aside / path.name)


def _is_up_to(line: bytes, step: int, path: Path, number: int) -> bool:
    """Whether a line belongs to the steps so far, the last one being number 1.

    A torn last line does not.

    Raises:
        CreditError: if it is whole, and no line of a run.
    """
    ours = _OURS.fullmatch(line)
    if ours and int(ours[1]) > step:
        return False  # without a look at the rest: a million lines may have to go
    if number == 1 and not line.endswith(b"\n"):
        return False
    return parse_line(line, f"{path}, line {number} from its end,")["step"] <= step


def _free(path: Path, first: int | None = None) -> Path:
    """First name that is not taken among path, path-2, path-3 (or path-1, path-2 ...)."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(first or 2))
    candidates = numbered if first else itertools.chain([path], numbered)
    return next(candidate for candidate in candidates if not candidate.exists())


def choose(root: Path | str, stem: str, given: Path | str | None, resume: bool) -> Path:
    """Choose a run directory: the given one, the one to resume, or a new one under `root`.

    Raises:
        ValueError: with `resume` and nothing given, if no run of this stem is unfinished.
    """
    if given is not None:
        return Path(given)
    if not resume:
        return fresh_name(root, stem)
    found = latest_unfinished(root, stem)
    if found is None:
        raise ValueError(f"no unfinished run {Path(root) / stem}-*; start one without --resume.")
    return found


def fresh_name(root: Path | str, stem: str) -> Path:
    """Name a new run directory, the same on every rank: root/stem-YYYYmmdd-HHMMSS, local time.

    The directory is not made; `-2`, `-3` is appended when the name is taken.
    """
    return on_main(_fresh_name, Path(root), stem)


def _fresh_name(root: Path, stem: str) -> Path:
    return _free(root / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}")


def latest_unfinished(root: Path | str, stem: str) -> Path | None:
    """Find the newest run of a stem to resume, the same on every rank; None if there is none.

    Finished runs, runs that are still going on and directories without a readable manifest are
    passed over.
    """
    return on_main(_latest_unfinished, Path(root), stem)


def _latest_unfinished(root: Path, stem: str) -> Path | None:
    name = re.compile(re.escape(stem) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    runs = [(match, path) for path in root.glob("*") if (match := name.fullmatch(path.name))]
    runs.sort(key=lambda run: (run[0][1], int(run[0][2] or 1)), reverse=True)
    return next((path for _, path in runs if _is_unfinished(path)), None)


def _is_unfinished(directory: Path) -> bool:
    try:
        manifest = read_manifest(directory, whole=True)
    except (OSError, ValueError):
        return False
    return manifest["status"] != "finished" and not is_going_on(manifest)
