"""What the commands do, from Python, and what a notebook shows of it."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest
from ablate_helpers import FAKE
from study_helpers import collected

from grpo_credit import check, cli, lab
from grpo_credit.credit.conformance import Laws, examine
from grpo_credit.credit.parse import resolve_credit
from grpo_credit.errors import CreditError
from grpo_credit.experiments import report, study
from grpo_credit.preflight.findings import Finding, Findings, ordered

SMALL = {"alphabet": "ab", "length": 2, "num_generations": 2, "completions": 2, "pattern": "a+b|b+"}
SHADED = "background:rgba(194,74,0,.25)"


def by_rows(rollouts):
    return rollouts.advantages[:, None] * rollouts.mask / len(rollouts.mask)


# ---- laws ---------------------------------------------------------------------------------------


def test_laws_are_those_of_the_command():
    laws = check("trace/seq", decay=0.5)
    assert laws == list(examine(resolve_credit("trace/seq", decay=0.5)))
    assert laws.broken == []
    assert f"0 of {len(laws)} broken" in laws._repr_html_()


def test_a_broken_law_is_shaded_and_its_counterexample_is_shown():
    laws = check(by_rows)
    assert laws.broken
    table = laws.to_pandas().set_index("law")
    assert (table["verdict"] == "fails").sum() == len(laws.broken)
    page = laws._repr_html_()
    assert page.count("<tr>") == len(laws) + 1
    assert page.count(SHADED) == 3 * len(laws.broken)


def test_what_a_rule_says_is_escaped():
    (verdict, *_) = examine(resolve_credit("seq"))
    assert "<b>" not in Laws("<b>", [verdict])._repr_html_()


def test_a_rule_that_looks_at_rewards_is_refused_for_documents():
    with pytest.raises(CreditError, match="of a document only its token ids"):
        check("decided/seq", stage="supervised")


# ---- the lab ------------------------------------------------------------------------------------


def test_the_lab_finds_what_its_command_finds(tmp_path, monkeypatch):
    words = ["lab", "exact", "--credit", "seq", "length", "--alphabet", "ab", "--length", "2",
             "--num_generations", "2", "--completions", "2", "--pattern", "a+b|b+"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["grpo-credit", *words])
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "lab.json").read_text())
    found = lab.exact(["seq", "length"], **SMALL)
    assert written["sentences"] == list(found.sentences)
    assert written["tables"]["exact"] == list(found.tables[0].rows)
    assert written["command"].startswith("grpo-credit lab exact")
    assert found.command == (
        "grpo_credit.lab.exact(['seq', 'length'], alphabet='ab', length=2, num_generations=2, "
        "completions=2, pattern='a+b|b+')"
    )


def test_the_lab_takes_functions():
    def starts_with_a(completions, **_):
        return [float(text.startswith("a")) for text in completions]

    found = lab.exact(["seq", by_rows], reward=starts_with_a, **SMALL).to_pandas()
    assert found["credit"].tolist() == ["seq", "by_rows", "truth"]
    assert set(found["pattern"]) == {"starts_with_a"}
    assert found["variance"][0] == pytest.approx(found["variance"][1])  # the same rule, by hand


def test_the_lab_has_rules_for_tools():
    found = lab.exact(task="tool", length=2, windows=2, completions=2, num_generations=2)
    assert "turns/seq" in set(found.to_pandas()["credit"])


def test_a_notebook_shows_sentences_tables_and_figures():
    found = lab.exact(["seq"], **SMALL)
    page = found._repr_html_()
    assert page.count("<svg") == len(found.figures)
    for name in ("page", "text", "dim"):
        assert f"--{name}:#" in page  # the colours that the drawings name
    assert "signed cosine" in page
    with pytest.raises(KeyError, match="none"):
        found.to_pandas("none")


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="lenght"):
        lab.exact(["seq"], lenght=3)


# ---- findings of a preflight --------------------------------------------------------------------


def test_findings_are_shown_errors_first():
    found = ordered([Finding("note", "pace", "<slow>"), Finding("error", "reward", "constant")])
    assert isinstance(found, Findings)
    assert found.to_pandas()["severity"].tolist() == ["error", "note"]
    page = found._repr_html_()
    assert page.index("constant") < page.index("&lt;slow&gt;")
    assert page.count(SHADED) == 4  # a row


# ---- studies ------------------------------------------------------------------------------------


def test_a_study_shows_its_verdicts_and_its_runs(tmp_path):
    found = report.read(collected(tmp_path / "study", ("uniform", "seq")))
    assert "better by 0.1" in found._repr_html_()
    means = found.to_pandas().groupby("credit")["value"].mean().to_dict()
    assert means == pytest.approx({"uniform": 0.51, "seq": 0.61})
    assert report.pictures(found)["results"]._repr_html_().count("<svg") == 2


@pytest.mark.slow
def test_a_study_is_run_gone_on_with_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    out = tmp_path / "study"
    found = study.run(study.Study(str(FAKE), ("seq",), (0, 1), ("--max_steps=1",)), out, jobs=2)
    assert found.statuses == {"finished": 2}
    command = json.loads((out / "study.json").read_text())["command"]
    assert command.startswith("grpo-credit ablate --recipe=")
    assert command.endswith("-- --max_steps=1")
    more = study.run(study.Study(str(FAKE), ("seq",), (0, 1, 2), ("--max_steps=1",)), out)
    assert [cell.attempts for cell in more.cells] == [1, 1, 1]
    (out / "report.html").unlink()
    assert report.write(out, report.read(out)).is_file()


def test_a_study_that_cannot_be_run_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"none\.py"):
        study.run(study.Study(str(tmp_path / "none.py"), ("seq",), (0, 1)), tmp_path / "study")
    assert not (tmp_path / "study").exists()


# ---- imports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["grpo_credit", "grpo_credit.lab", "grpo_credit.experiments.report",
               "grpo_credit.experiments.study"],
)  # fmt: skip
def test_a_package_is_imported_without_what_its_functions_need(module):
    heavy = "{'torch', 'pandas', 'matplotlib', 'trl'}"
    code = f"import sys, {module}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", [lab, report, study])
def test_an_unknown_name_of_a_package_is_told(package):
    with pytest.raises(AttributeError, match="has no attribute 'exakt'"):
        _ = package.exakt
    assert all(callable(getattr(package, name)) for name in package.__all__)


# ---- what is public says how it is used ---------------------------------------------------------

ROOMS = ("grpo_credit", "grpo_credit.rewards", "grpo_credit.lab", "grpo_credit.experiments.study",
         "grpo_credit.experiments.report")  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_object_has_an_example(room):
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    public = {name: getattr(module, name) for name in names}
    made = {n: o for n, o in public.items() if inspect.isclass(o) or inspect.isfunction(o)}
    assert made
    assert [n for n, o in made.items() if "Example" not in (inspect.getdoc(o) or "")] == []
