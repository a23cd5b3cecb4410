"""What is needed to repeat a study: what its manifests share, where they differ, its own rules."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from grpo_credit.experiments.report.data import RunResult, Source
from grpo_credit.experiments.study.collect.cells import read_run

# Of a run by its nature, or named beside it already.
_OWN = ("started", "ended", "status", "global_step", "error", "command", "process", "seed", "extra",
        "earlier")  # fmt: skip
_OWN_OPTIONS = ("output_dir", "logging_dir", "run_name", "seed", "data_seed", "credit",
                "credit_kwargs", "resume", "resume_from_checkpoint")  # fmt: skip
_WEIGHTS = "model.sha256"  # what differs of it is said of the pairs
Run = tuple[str, int]  # strategy, seed
Manifests = Mapping[Run, Mapping[str, Any]]


def read_manifests(out: Path, cells: Sequence[RunResult]) -> dict[Run, dict[str, Any]]:
    """Read the manifests that there are."""
    manifests = {(c.credit, c.seed): read_run(out / c.path) for c in cells if c.path is not None}
    return {
        run: manifest for run, manifest in manifests.items() if manifest
    }  # the cell tells of it


def describe(manifests: Manifests) -> dict[str, Any]:
    """Return "runs", how many manifests were read; "common", what all say; "differs".

    Entries are flat: "versions.torch", "config.learning_rate". What differs is given as text -> the
    runs that say it.
    """
    entries = {_named(r): flat(m, _OWN, _OWN_OPTIONS) for r, m in manifests.items()}
    names = list(dict.fromkeys(name for each in entries.values() for name in each))
    answers = {name: _said(entries, name) for name in names}
    return {
        "runs": len(entries),
        "common": {n: json.loads(next(iter(s))) for n, s in answers.items() if len(s) == 1},
        "differs": {n: s for n, s in answers.items() if len(s) > 1 and n != _WEIGHTS},
    }


def own_rules(manifests: Manifests) -> tuple[list[Source], dict[Run, str]]:
    """Return each version of each rule that is a user's own, and how runs deviate.

    A run that was resumed after a change has both versions.

    Returns:
        The versions, those of one rule together; and run -> a sentence, of the runs that were
        trained by another version than most.
    """
    versions: dict[str, dict[str | None, tuple[Mapping[str, Any], list[Run]]]] = {}
    for run, manifest in manifests.items():
        for entry in _rules(manifest):
            of_rule = versions.setdefault(entry["rule"], {})
            runs = of_rule.setdefault(entry["sha256"], (entry, []))[1]
            runs.extend([run] if run not in runs else [])
    deviating: dict[Run, str] = {}
    for of_rule in versions.values():
        usual, *others = sorted(of_rule.values(), key=lambda version: -len(version[1]))
        for entry, runs in others:
            deviating |= dict.fromkeys(runs, _deviation(entry, len(usual[1])))
    every = (version for of_rule in versions.values() for version in of_rule.values())
    return [_source(*version) for version in every], deviating


def _rules(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the user's own rules of every attempt at a run."""
    for attempt in (*manifest["earlier"], manifest):
        yield from attempt["extra"]["rules"]


def _deviation(entry: Mapping[str, Any], usual: int) -> str:
    version = f"{entry['file']} with sha256 {(entry['sha256'] or 'unknown')[:12]}"
    return f"trained, or partly so, by another {entry['rule']} ({version}) than {usual} runs"


def _source(entry: Mapping[str, Any], runs: Sequence[Run]) -> Source:
    parts = {f.name: entry[f.name] for f in fields(Source) if f.name != "runs"}
    return Source(**parts, runs=[_named(run) for run in runs])


def weights(manifests: Manifests) -> dict[int, set[str]]:
    """Return seed -> fingerprints of the weights that its runs started from."""
    starts: dict[int, set[str]] = {}
    for (_, seed), manifest in manifests.items():
        if fingerprint := manifest["model"].get("sha256"):
            starts.setdefault(seed, set()).add(fingerprint)
    return starts


def _named(run: Run) -> str:
    return f"{run[0]}, seed {run[1]}"


def flat(
    manifest: Mapping[str, Any], without: Sequence[str] = (), options: Sequence[str] = ()
) -> dict[str, str]:
    """Return "versions.torch", "config.learning_rate" and so on -> JSON.

    Args:
        manifest: of a run.
        without: entries to leave out.
        options: of the entry "config", likewise.
    """
    entries = {}
    for name, entry in manifest.items():
        if name in without:
            continue
        if isinstance(entry, dict):
            inner = {n: v for n, v in entry.items() if name != "config" or n not in options}
            entries |= {f"{name}.{n}": json.dumps(v) for n, v in inner.items()}
        else:
            entries[name] = json.dumps(entry)
    return entries


def _said(runs: Mapping[str, Mapping[str, str]], name: str) -> dict[str, list[str]]:
    """Return what the runs say of an entry -> the runs that say it."""
    runs_by_text: dict[str, list[str]] = {}
    for run, entries in runs.items():
        runs_by_text.setdefault(entries.get(name, "null"), []).append(run)
    return runs_by_text
