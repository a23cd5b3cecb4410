"""A user's own rules: their source in the manifest, in the report's data, on the page."""

import functools
import hashlib
import importlib
import json

import pytest
from study_helpers import make_study

from grpo_credit.credit.parse import chain, resolve_credit
from grpo_credit.credit.sources import LIMIT, own_sources
from grpo_credit.credit.strategy import Rule
from grpo_credit.experiments.report.data import RunResult, Source
from grpo_credit.experiments.report.markdown import markdown
from grpo_credit.experiments.report.page import page
from grpo_credit.experiments.report.store import load
from grpo_credit.experiments.study.collect import collect
from grpo_credit.experiments.study.collect.cells import other_ends

TEXT = '''"""Mine."""
from grpo_credit import allocation

@allocation
def {name}(rollouts):
    """</pre><script>alert(1)</script>"""
    return rollouts.advantages[:, None] * rollouts.mask

class Whole:
    def __call__(self, rollouts, *, share=0.5):
        return share * rollouts.mask
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of rules, in the current folder."""
    name = f"rules_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    (tmp_path / f"{name}.py").write_text(TEXT.format(name=f"mine_{name}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_the_source_of_a_rule_is_kept_with_the_hash_of_its_file(module, tmp_path):
    strategy = resolve_credit(f"even+{module}:mine_{module}/seq")
    [found] = own_sources(strategy.rules)
    content = (tmp_path / f"{module}.py").read_bytes()
    assert found["rule"] == f"mine_{module}"
    assert found["file"] == f"{module}.py"
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["module"] == content.decode()
    assert found["function"].startswith(f"@allocation\ndef mine_{module}(rollouts):")


def test_within_a_partial_and_of_an_object_the_source_is_found(module):
    whole = importlib.import_module(module).Whole()
    for given in (whole, functools.partial(functools.partial(whole), share=0.2)):
        [found] = own_sources([Rule("credit", given, "whole")])
        assert found["function"].startswith("class Whole:")


def test_rules_of_the_package_are_not_kept():
    assert own_sources(resolve_credit(chain("even", "decided")).rules) == []


def test_what_has_no_file_says_so():
    scope = {"__name__": "__main__"}
    exec("def typed(rollouts): return rollouts.mask", scope)
    [found] = own_sources([Rule("credit", scope["typed"], "typed")])
    assert found == {
        "rule": "typed", "file": None, "sha256": None, "function": None, "module": None,
    }  # fmt: skip


def test_a_long_source_is_cut_and_its_hash_is_not(module, tmp_path):
    path = tmp_path / f"{module}.py"
    path.write_text(path.read_text() + "#" * LIMIT)
    [found] = own_sources(resolve_credit(f"{module}:mine_{module}").rules)
    assert found["module"].endswith(f"# … {len(path.read_text()) - LIMIT:,} more characters\n")
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


# ---- in a study -------------------------------------------------------------------------------


def version(number):
    text = TEXT.format(name=f"half_{number}")
    return {"rule": "half", "file": "my.py", "sha256": str(number) * 64, "function": text,
            "module": text}  # fmt: skip


def study(tmp_path, versions):
    """Make a study of `half` whose runs have the given versions, by seed."""
    rules = {("half", seed): [version(number)] for seed, number in enumerate(versions)}
    return make_study(tmp_path / "study", ("seq", "half"), range(len(versions)), rules=rules)


def test_the_page_shows_the_source_as_text_and_marks_nothing_where_all_agree(tmp_path):
    out = study(tmp_path, [1, 1, 1])
    report = collect(out)
    assert report.sources == [Source(**version(1), runs=[f"half, seed {n}" for n in range(3)])]
    assert load(out).sources == report.sources
    text = page(report)
    assert text.count("&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "half: my.py, sha256 111111111111" in text
    assert "Trained by it: half: seed 0, 1, 2." in text
    assert "Not comparable" not in text + markdown(report)
    assert f"* rule half: my.py, sha256 {'1' * 64}" in markdown(report)


def test_runs_whose_rule_is_not_that_of_the_others_are_marked(tmp_path):
    report = collect(study(tmp_path, [1, 2, 1]))
    marked = {(c.credit, c.seed): c.unlike for c in report.cells if c.unlike}
    told = "trained, or partly so, by another half (my.py with sha256 222222222222) than 2 runs"
    assert marked == {("half", 1): told}
    text = page(report)
    assert text.count(f"half, seed 1: {told}") == 2  # below the verdict, and of the cell
    assert text.count("≠ 0.610") == 1
    assert "half: my.py, sha256 111111111111" in text
    assert "half: my.py, sha256 222222222222" in text
    assert f"* half, seed 1: {told}" in markdown(report)


def test_a_run_that_was_resumed_after_a_change_is_marked(tmp_path):
    out = study(tmp_path, [1, 1])
    path = out / "cells/s1/seed-0/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "earlier": [{"extra": {"rules": [version(2)]}}]}))
    report = collect(out)
    assert [cell.seed for cell in report.cells if cell.unlike] == [0]
    assert [(each.sha256[0], each.runs) for each in report.sources] == [
        ("2", ["half, seed 0"]),
        ("1", ["half, seed 0", "half, seed 1"]),
    ]
    assert "earlier" not in report.manifest["differs"]


def test_runs_of_another_number_of_steps_are_marked_on_page_and_markdown_and_in_the_data(tmp_path):
    out = study(tmp_path, [1, 1])
    for name in ("metrics.jsonl", "held_out.jsonl"):
        path = out / "cells/s1/seed-0" / name
        path.write_text(path.read_text().replace('"step": 4,', '"step": 5,'))
    report = collect(out)
    marked = {(c.credit, c.seed): c.unlike for c in load(out).cells if c.unlike}
    told = "it ended at step 5, others at step 4"
    assert marked == {("half", 0): told}
    assert page(report).count(f"half, seed 0: {told}") == 2  # below the verdict, and of the cell
    assert page(report).count("≠ 0.6") == 1
    assert f"* half, seed 0: {told}" in markdown(report)


def test_where_no_number_of_steps_is_that_of_most_runs_all_are_marked():
    ends = {("seq", 0): 4, ("seq", 1): 4, ("dapo", 0): 5, ("dapo", 1): 5}
    cells = [RunResult(*run, "finished", step=step) for run, step in ends.items()]
    assert list(other_ends(cells)) == list(ends)
    assert other_ends(cells[:2]) == other_ends([RunResult("seq", 0, "failed", step=9)]) == {}
