"""The run directory: one run, claimed once, resumed only by the same configuration.

A run directory holds `manifest.json`, `metrics.jsonl` and the trainer's `checkpoint-<step>`
directories. Nothing that is found there is overwritten; what a resumed run would write a second
time is first set aside under another name.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from grpo_credit.records import checkpoints
from grpo_credit.records.files import (
    ANSWERS,
    HELD_OUT,
    METRICS,
    free,
    lines_from_end,
    parse_line,
    refuse_unwritable,
    replace_content,
    sweep,
)
from grpo_credit.records.jsonfile import plain, write_json
from grpo_credit.records.lock import Busy, entries, held_if_well, is_held, let_go
from grpo_credit.records.manifest import read_manifest
from grpo_credit.records.provenance import MANIFEST
from grpo_credit.records.ranks import decided_by_main
from grpo_credit.records.shape import fit
from grpo_credit.text import in_line

TABLES = ("completions", "credit", "rollouts")  # of the trainer: <name>_<step>.parquet

# What may differ between the attempts at one run: where it writes, what it shows and how often it
# records. None of these reaches a gradient.
MAY_CHANGE = frozenset({
    "resume", "preflight", "dry_run", "traceback", "resume_from_checkpoint", "output_dir",
    "run_name", "project", "report_to", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "hub_token", "disable_tqdm", "log_level", "log_level_replica",
    "log_on_each_node", "logging_steps", "logging_first_step", "save_steps", "save_total_limit",
    "log_completions", "log_completions_hub_repo", "log_unique_prompts", "num_completions_to_print",
})  # fmt: skip

_OURS = re.compile(rb'\{"step": (\d{1,15}),[ -~]*\}\n')  # a line as we write it
_HEAD = '{\n  "format": '  # of a manifest


class RunExists(ValueError):
    """The directory holds something that this run must not touch."""


@decided_by_main
def claim(output_dir: Path | str, manifest: dict[str, Any], resume: bool) -> Path | None:
    """Take a directory for a run, or go on with the run that is in it.

    Call it on every rank, before the trainer is constructed: TRL's may write into the directory.
    From then on the main process holds its lock, until `lock.let_go` or its end. A resumed run
    keeps the manifests of its earlier attempts under "earlier"; lines of metrics.jsonl and
    held_out.jsonl beyond the checkpoint move to metrics.jsonl.bak-<n> and so on, tables beyond it
    to completions.bak-<n>, credit.bak-<n> and rollouts.bak-<n>; checkpoints that are not whole
    become incomplete-checkpoint-<step>, which is told.

    Args:
        output_dir: the directory; made if it is not there.
        manifest: from `manifest.manifest`; written as manifest.json.
        resume: whether to go on with the run in the directory.

    Returns:
        The last whole checkpoint of a resumed run; None to begin at the first step.

    Raises:
        RunExists: the directory is taken: by another run, by a run that is still going on, or by
            files of unknown origin.
        ValueError: with `resume`, if there is no run, it is finished, it was configured
            differently (the message lists the keys), its data have changed, or every checkpoint is
            damaged.
    """
    directory = Path(output_dir)
    _refuse(directory, resume)  # before a lock file is left in what is not ours
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with held_if_well(directory):
            _refuse(directory, resume)
            for folder in filter(Path.is_dir, (directory, *(directory / name for name in TABLES))):
                sweep(folder)
            return (_resume if resume else _start)(directory, manifest)
    except Busy as other:
        process = f"process {other}" if str(other) else "another process"
        raise RunExists(
            f"the run in {directory} is going on as {process}; wait for it, or stop it"
        ) from None


def _refuse(directory: Path, resume: bool) -> None:
    """Refuse a directory that is no place to begin, or holds nothing to go on with."""
    if resume and not (directory / MANIFEST).is_file():
        raise ValueError(f"nothing to resume: {directory} has no {MANIFEST}")
    if resume and _never_began(directory):
        raise ValueError(
            f"nothing to resume: the run in {directory} never began, its {MANIFEST} is "
            "half written; start it without --resume"
        )
    if not resume and (content := _found(directory)):
        go_on = "--resume to go on with it, or " if (directory / MANIFEST).is_file() else ""
        raise RunExists(f"{directory} holds {content}; use {go_on}another --output_dir")


def _never_began(directory: Path) -> bool:
    """Whether a start died while it wrote the manifest, of which there may be a beginning."""
    if entries(directory) != [MANIFEST]:
        return False
    text = (directory / MANIFEST).read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    if not (text.startswith(_HEAD) or _HEAD.startswith(text)):
        return False  # not ours
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def _start(directory: Path, manifest: dict[str, Any]) -> None:
    if (directory / MANIFEST).exists():
        print(
            f"note: {in_line(directory)} was claimed by a start that died; it is taken over",
            file=sys.stderr,
        )
    write_json(directory / MANIFEST, manifest)


@decided_by_main
def release(output_dir: Path | str, named: bool) -> None:
    """Give back a directory that was claimed, before anything was trained; call it on every rank.

    Where an earlier attempt trained, its manifest comes back. Elsewhere the manifest goes, and what
    the trainer's constructor made, if it is empty; then the directory can be claimed again, under
    whatever configuration. It stays, empty, if the user `named` it.
    """
    directory = Path(output_dir)
    if (directory / METRICS).exists():
        *before, last = read_manifest(directory)["earlier"]
        write_json(directory / MANIFEST, last | ({"earlier": before} if before else {}))
        return
    (directory / MANIFEST).unlink()
    let_go(directory, remove=True)
    for folder in [*(directory / name for name in TABLES), *([] if named else [directory])]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _found(directory: Path) -> str:
    """Return what a directory holds; empty if it is free."""
    if not directory.exists():
        return ""
    if not directory.is_dir():
        return "no directory: it is a file"
    names = entries(directory)
    ours = [name for name in (MANIFEST, METRICS) if name in names]
    checkpoints = [name for name in names if name.startswith("checkpoint-")]
    if ours or checkpoints:
        described = ", ".join(ours + checkpoints[-1:])
        return "" if _never_began(directory) else f"another run ({described})"
    more = ", ..." if len(names) > 3 else ""
    return f"other files ({', '.join(names[:3])}{more})" if names else ""


def _resume(directory: Path, manifest: dict[str, Any]) -> Path | None:
    old = read_manifest(directory, whole=True)
    if old["status"] == "finished":
        raise ValueError(f"nothing to resume: the run in {directory} is finished")
    _refuse_other_configuration(directory, old, manifest)
    _refuse_other_data(directory, old, manifest)
    checkpoint = checkpoints.choose(directory, old, partial(print, file=sys.stderr, flush=True))
    step = -1 if checkpoint is None else checkpoints.step_of(checkpoint)
    for name in (METRICS, HELD_OUT, ANSWERS):
        _drop_later_lines(directory / name, step)
    for name in TABLES:
        _set_later_tables_aside(directory / name, step)
    earlier = [*old.pop("earlier", []), old]
    write_json(directory / MANIFEST, {**manifest, "earlier": earlier})
    return checkpoint


def _refuse_other_configuration(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    compared = ("world_size", "seed", "config")
    different = differences(
        {key: old[key] for key in compared}, {key: plain(new[key]) for key in compared}
    )
    if different:
        listed = ";\n  ".join(different)
        raise ValueError(
            f"the run in {directory} was configured differently:\n  {listed}.\n"
            "Resume with the same values, or start a new run in another --output_dir"
        )


def _refuse_other_data(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse rows that are not those of the run, though their place is; runs of old tell none."""
    before, now = _contents(old), _contents(new)
    if changed := [name for name in before if now.get(name, before[name]) != before[name]]:
        raise ValueError(
            f"the data of the run in {directory} have changed since it began: {', '.join(changed)}."
            " Resume with the rows as they were, or start a new run in another --output_dir"
        )


def _contents(run: dict[str, Any]) -> dict[str, str]:
    data = fit(dict[str, dict[str, Any] | None], run.get("datasets", {}), "datasets").items()
    return {name: about["sha256"] for name, about in data if about and about.get("sha256")}


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
    end_kept = next((end for end, is_up_to in later if is_up_to), 0)
    if end_kept < path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(end_kept)
            replace_content(free(path.with_name(f"{path.name}.bak"), first=1), file)
            file.truncate(end_kept)
            os.fsync(file.fileno())


def _set_later_tables_aside(folder: Path, step: int) -> None:
    """Move the files of steps beyond the checkpoint away; the trainer would overwrite them."""
    files = [(path, re.search(r"_(\d+)\.", path.name)) for path in folder.glob("*_*.*")]
    later = [path for path, number in files if number and int(number[1]) > step]
    if later:
        aside = free(folder.with_name(f"{folder.name}.bak"), first=1)
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


def choose(root: Path | str, stem: str, given: Path | str | None, resume: bool) -> Path:
    """Choose a run directory: the given one, the one to resume, or a new one under `root`.

    Raises:
        ValueError: with `resume` and nothing given, if no run of this stem is unfinished; a name
            that not every library can write to.
    """
    if given is not None:
        refuse_unwritable(given, "--output_dir")
        return Path(given)
    if not resume:
        return fresh_name(root, stem)
    unfinished = latest_unfinished(root, stem)
    if unfinished is None:
        raise ValueError(f"no unfinished run {Path(root) / stem}-*; start one without --resume.")
    return unfinished


@decided_by_main
def fresh_name(root: Path | str, stem: str) -> Path:
    """Name a new run directory, the same on every rank: root/stem-YYYYmmdd-HHMMSS, local time.

    The directory is not made; `-2`, `-3` is appended when the name is taken.
    """
    return free(Path(root) / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}")


@decided_by_main
def latest_unfinished(root: Path | str, stem: str) -> Path | None:
    """Find the newest run of a stem to resume, the same on every rank; None if there is none.

    Finished runs, runs that are still going on and directories without a readable manifest are
    passed over.
    """
    name = re.compile(re.escape(stem) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    runs = [(m, path) for path in Path(root).glob("*") if (m := name.fullmatch(path.name))]
    runs.sort(key=lambda run: (run[0][1], int(run[0][2] or 1)), reverse=True)
    return next((path for _, path in runs if _is_unfinished(path)), None)


def _is_unfinished(directory: Path) -> bool:
    try:
        manifest = read_manifest(directory, whole=True)
    except (OSError, ValueError):
        return False
    return manifest["status"] != "finished" and not is_held(directory)
