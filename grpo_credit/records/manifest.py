"""What was run, on what, and how it ended: the content of manifest.json.

No environment variable is recorded. Strings under a key or command-line flag that names a token,
secret, password or API key are replaced by "<hidden>", and so is anything that looks like a Hub
token or like a password in a URL, wherever it stands.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from datasets import Dataset
from torch import nn

from grpo_credit.records.files import read_object
from grpo_credit.records.jsonfile import plain, qualified_name, write_json
from grpo_credit.records.provenance import (
    MANIFEST,
    describe_command,
    git_state,
    hide_secrets,
    now,
    one_line,
)
from grpo_credit.records.ranks import decided_by_main, is_main, rank, world_size
from grpo_credit.records.shape import fit

Status = Literal["running", "finished", "interrupted", "failed"]
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "grpo-credit")
SAMPLED_VALUES = 1024  # per parameter, for the fingerprint
SAMPLED_ROWS = 4096  # of a data set, likewise


def manifest(
    command: Sequence[str],
    config: Mapping[str, Any],
    datasets: Mapping[str, Any],
    seed: int,
    extra: Mapping[str, Any] | None = None,
    *,
    recipe: Path | str | None = None,
) -> dict[str, Any]:
    """Describe a run before it starts, as a dictionary that strict JSON can hold.

    Args:
        command: the command line, usually `sys.argv`.
        config: the full configuration, nested as the caller likes; any values.
        datasets: name -> data set (`datasets.Dataset`, an iterable one, a list or None).
        seed: the seed of the run.
        extra: more entries of the caller's, under "extra".
        recipe: file whose repository is recorded; `command[0]` by default.
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    described = {
        "format": 1,
        "status": "running",
        "started": now(),
        "command": describe_command(command),
        "world_size": world_size(),
        "seed": seed,
        "git": git_state(Path(recipe or command[0])),
        "versions": versions(),
        "hardware": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": gpus or None,
        },
        "model": None,  # see `set_model`
        "datasets": {name: dataset_fingerprint(data) for name, data in datasets.items()},
        "config": config,
        "extra": extra or {},
    }
    return hide_secrets(plain(described))


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that shape a run; null where not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def model_fingerprint(model: nn.Module) -> dict[str, Any]:
    """Identify the weights a run starts from, cheaply.

    The sha256 runs over the parameters in the order of `named_parameters()` (a tied one counts
    once; buffers do not): the line "name shape dtype", then the bytes of up to 1,024 of its
    values, evenly spaced over the flattened parameter, first and last included. Parameters of up
    to 1,024 values are thus covered in full; a change of a few weights of a larger one may go
    unseen. Parameters on the meta device have no values.
    """
    parameters = dict(model.named_parameters())
    return {
        "class": qualified_name(type(model)),
        "name_or_path": getattr(model, "name_or_path", None),
        "parameters": sum(p.numel() for p in parameters.values()),
        "trainable": sum(p.numel() for p in parameters.values() if p.requires_grad),
        "dtypes": sorted({str(p.dtype) for p in parameters.values()}),
        "sha256": _weights_hash(parameters),
    }


def _weights_hash(parameters: dict[str, nn.Parameter]) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters.items():
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}\n".encode())
        if not parameter.is_meta:
            digest.update(_sampled_bytes(parameter.detach()))
    return digest.hexdigest()


def _sampled_bytes(values: torch.Tensor) -> bytes:
    flat = values.flatten()
    count = min(len(flat), SAMPLED_VALUES)
    # Integers, because float32 positions would repeat beyond 2**24 values.
    index = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
    return flat[index].contiguous().view(torch.uint8).cpu().numpy().tobytes()


def dataset_fingerprint(data: Any) -> dict[str, Any] | None:
    """Identify a data set: rows and columns (null where unknown), fingerprint and content.

    The fingerprint is that of `datasets`, which covers how the data were made, the times of files
    included, and is random where a transform cannot be hashed: an unequal one proves nothing. The
    sha256 is of up to 4,096 rows, evenly spaced, first and last included; null of an iterable one.
    """
    if data is None:
        return None
    return {
        "class": qualified_name(type(data)),
        "rows": len(data) if hasattr(data, "__len__") else None,
        "columns": getattr(data, "column_names", None),
        "fingerprint": getattr(data, "_fingerprint", None),
        "sha256": _rows_hash(data) if hasattr(data, "__len__") else None,
    }


def _rows_hash(data: Any) -> str:
    digest = hashlib.sha256()
    stored = data.with_format("arrow") if isinstance(data, Dataset) else data  # decodes no image
    for i in np.linspace(0, len(data) - 1, min(len(data), SAMPLED_ROWS)).round().astype(int):
        row = stored[int(i)].to_pylist() if isinstance(data, Dataset) else stored[int(i)]
        digest.update(json.dumps(row, sort_keys=True, default=_said).encode())
    return digest.hexdigest()


def _said(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(plain(value))


_RESUMED = {
    "status": str, "world_size": int, "seed": int, "config": dict[str, Any],
    "extra": dict[str, Any],
}  # fmt: skip


def read_manifest(directory: Path | str, *, whole: bool = False) -> dict[str, Any]:
    """Read the manifest of a run directory, `whole` if it must say what decides about going on.

    Raises:
        CreditError: if it is damaged.
        OSError: if there is none.
    """
    path = Path(directory) / MANIFEST
    manifest = fit(_RESUMED if whole else {"status": str}, read_object(path), str(path))
    fit(list[dict[str, Any]], manifest.get("earlier", []), f"{path}.earlier")
    return manifest


class OtherWeights(ValueError):
    """A resumed run needs weights that are not there any more."""


@decided_by_main
def set_model(directory: Path | str, model: nn.Module, refers: bool = False) -> None:
    """Record the fingerprint of the model before training; call it on every rank.

    Args:
        directory: of the run.
        model: as it was before the training.
        refers: whether it is compared with all along, by a KL term or a rule.

    Raises:
        OtherWeights: if a resumed run needs weights that no checkpoint has (an adapter's base,
            a reference), and they are not those that it began with.
    """
    known, now_there = read_manifest(directory), model_fingerprint(model)
    began = [attempt["model"] for attempt in known.get("earlier", []) if attempt.get("model")]
    needed = now_there["trainable"] < now_there["parameters"] or refers
    if began and needed and began[0].get("sha256") != now_there["sha256"]:
        raise OtherWeights(
            f"the weights of {now_there['name_or_path']} are not those that the run in {directory} "
            "began with, and it needs them beside its checkpoint. Resume it with the old ones; "
            "nothing that it left is lost."
        )
    _write(directory, known | {"model": hide_secrets(plain(now_there))})


def set_preflight(directory: Path | str, errors: Sequence[str]) -> None:
    """Record, on the main process, that the preflight came to its end, and what errors it found."""
    if is_main():
        _write(directory, read_manifest(directory) | {"preflight": list(errors)})


@decided_by_main
def preflight_errors(directory: Path | str) -> list[str] | None:
    """Return the errors that the run's last preflight found; None if none came to its end."""
    known = read_manifest(directory)
    attempts = [known, *reversed(known.get("earlier", []))]
    return next((a["preflight"] for a in attempts if a.get("preflight") is not None), None)


def set_status(
    directory: Path | str,
    status: Status,
    global_step: int | None = None,
    error: BaseException | None = None,
) -> None:
    """Record how a run stands: on the main process, and on any rank that it failed.

    The first failure stays. What happens to other ranks comes of it: they lose the connection, and
    the main process may be killed while it waits for the rank that is gone. A rank of another
    machine may not see the directory. Of an `error` its kind and first line are kept, with the
    rank.
    """
    if not (is_main() or (status == "failed" and (Path(directory) / MANIFEST).is_file())):
        return
    known = read_manifest(directory)
    if known["status"] == "failed":
        return
    where = f"rank {rank()}: " if world_size() > 1 else ""
    changes = {
        "status": status,
        "global_step": global_step,
        "ended": None if status == "running" else now(),
        "error": None if error is None else where + one_line(error),
    }
    _write(directory, known | changes)


def _write(directory: Path | str, manifest: dict[str, Any]) -> None:
    write_json(Path(directory) / MANIFEST, manifest)


@contextmanager
def recorded(
    directory: Path | str, stop: Any, step: Callable[[], int | None], ending: Any = None
) -> Generator[None]:
    """Write how the body ended: "finished", "interrupted" by a signal, or "failed".

    Args:
        directory: the claimed run directory.
        stop: the `callbacks.StopOnSignal` in force; its `signum` tells an interruption.
        step: tells the optimizer steps done; None before there is a trainer.
        ending: the `ending.Ending` in force, if any; so does its own, whatever is raised then.
    """
    try:
        yield
    except BaseException as error:
        interrupted = (
            isinstance(error, KeyboardInterrupt)
            or (isinstance(error, SystemExit) and stop.signum is not None)
            or (ending is not None and ending.signum is not None)
        )
        status = "interrupted" if interrupted else "failed"
        try:
            set_status(directory, status, step(), None if interrupted else error)
        except OSError as unwritten:  # a full disk, which may be what ended the body
            error.add_note(f"{Path(directory) / MANIFEST} does not say so: {unwritten}")
        raise
    set_status(directory, "finished" if stop.signum is None else "interrupted", step())
