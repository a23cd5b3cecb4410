"""What is needed to repeat a study: what its manifests have in common, and where they differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_credit.report.data import Cell
from grpo_credit.run.files import read_json
from grpo_credit.run.manifest import MANIFEST

# Of a run by its nature, or named beside it already.
_OWN = ("started", "ended", "status", "global_step", "error", "command", "process", "seed", "extra")
_OWN_OPTIONS = ("output_dir", "logging_dir", "run_name", "seed", "data_seed", "credit",
                "credit_kwargs", "resume", "resume_from_checkpoint")  # fmt: skip


def describe(out: Path, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return "runs", how many manifests were read; "common", what all say; "differs".

    Entries are flat: "versions.torch", "config.learning_rate". What differs is given as text -> the
    runs that say it.
    """
    manifests = {f"{cell.credit}, seed {cell.seed}": _manifest(out, cell) for cell in cells}
    flat = {run: _flat(found) for run, found in manifests.items() if found}
    names = list(dict.fromkeys(name for entries in flat.values() for name in entries))
    said = {name: _said(flat, name) for name in names}
    return {
        "runs": len(flat),
        "common": {n: json.loads(next(iter(s))) for n, s in said.items() if len(s) == 1},
        "differs": {n: s for n, s in said.items() if len(s) > 1},
    }


def _manifest(out: Path, cell: Cell) -> dict[str, Any]:
    if cell.path is None:
        return {}
    try:
        found = read_json(out / cell.path / MANIFEST)
    except (OSError, ValueError):
        return {}  # the cell says so already
    return found if isinstance(found, dict) else {}


def _flat(manifest: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, entry in manifest.items():
        if name in _OWN:
            continue
        if isinstance(entry, dict):
            inner = {n: v for n, v in entry.items() if name != "config" or n not in _OWN_OPTIONS}
            found |= {f"{name}.{n}": json.dumps(v) for n, v in inner.items()}
        else:
            found[name] = json.dumps(entry)
    return found


def _said(flat: Mapping[str, Mapping[str, str]], name: str) -> dict[str, list[str]]:
    """Return what the runs say of an entry -> the runs that say it."""
    said: dict[str, list[str]] = {}
    for run, entries in flat.items():
        said.setdefault(entries.get(name, "null"), []).append(run)
    return said
