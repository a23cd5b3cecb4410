"""The versions whose private pieces are used: one number in every place, and in the message."""

import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from grpo_credit.trainer.seams import TESTED, SeamError, check_attributes, piece

ROOT = Path(__file__).parent.parent


def test_the_ranges_hold_what_was_tested_and_no_later_minor():
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"trl=={TESTED}" in pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {r.name: r for r in map(Requirement, project["dependencies"])}
    for name in ("trl", "transformers", "regex"):  # whose private parts are used
        (line,) = (line for line in pinned if line.startswith(f"{name}=="))
        tested = Version(line.partition("==")[2])
        assert tested in required[name].specifier
        assert Version(f"{tested.major}.{tested.minor + 1}") not in required[name].specifier


def constraints(name):
    """Return the pins of a constraints file."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_vllm_resolves_to_the_newest_that_trl_takes():
    """Which wants an older transformers than the newest one of this package's range."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [Requirement(line) for line in extras["optional-dependencies"]["vllm"]]
    theirs = map(Requirement, metadata.requires("trl"))
    (taken,) = (r for r in theirs if r.name == "vllm" and r.marker.evaluate({"extra": "vllm"}))
    (newest,) = (s.version for s in taken.specifier if s.operator == "<=")
    (asked,) = (r for r in ours if r.name == "vllm")
    assert newest in asked.specifier & taken.specifier
    assert Version(newest) == max(Version(s.version) for s in asked.specifier)
    pinned = constraints("constraints-vllm.txt")
    assert pinned["vllm"] == newest
    needed = {r.name: r for r in map(Requirement, extras["dependencies"])}
    assert {name: pin for name, pin in pinned.items()
            if name in needed and pin not in needed[name].specifier} == {}  # fmt: skip
    assert not {"trl", "torch", "accelerate", "peft", "datasets"} & {
        name for name, pin in constraints("constraints.txt").items() if pinned.get(name, pin) != pin
    }


def test_an_untested_version_is_told_which_to_install():
    told = r"^TRL 1\.17\.0 has no x, which .* builds on\. It works .*: pip install trl==1\.16\.0$"
    with pytest.raises(SeamError, match=told):
        raise SeamError("x", "1.17.0")


def test_the_tested_version_that_was_patched_is_not_sent_in_a_circle():
    told = rf"TRL {TESTED} has no x.* something has changed .*--force-reinstall --no-deps trl=="
    with pytest.raises(SeamError, match=told):
        raise SeamError("x", TESTED)


def test_a_missing_function_or_attribute_is_named():
    with pytest.raises(SeamError, match=r"no trl\.trainer\.utils\.no_such_thing, which"):
        piece("no_such_thing")
    with pytest.raises(SeamError, match="no attribute 'model' of GRPOTrainer, which"):
        check_attributes(SimpleNamespace(args=None))
