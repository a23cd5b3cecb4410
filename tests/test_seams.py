"""The versions whose private pieces are used: one number in every place, and in the message."""

import tomllib
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
