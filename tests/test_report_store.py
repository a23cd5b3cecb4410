"""The data of a report on disk: it comes back as it was, or says what is wrong."""

import json
import math
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_helpers import collected, copied, make_study

from grpo_credit import CreditError
from grpo_credit.experiments.report.data import Report
from grpo_credit.experiments.report.store import CURVES, REPORT, dump, load, write
from grpo_credit.experiments.study.collect import collect


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    out, credits = tmp_path_factory.mktemp("store") / "study", ("uniform", "nan")
    return collected(out, credits, (0, 1), states={("nan", 1): "failed"})


@pytest.fixture
def out(original, tmp_path):
    return copied(original, tmp_path / "study")


def test_a_report_comes_back_as_it_was(out, tmp_path):
    report = load(out)
    (tmp_path / "again").mkdir()
    write(report, tmp_path / "again")
    assert load(tmp_path / "again") == report
    for name in (
        "report.json",
        "runs.csv",
        "curves.parquet",
        "credit.parquet",
        "completions.parquet",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_what_is_collected_is_what_is_loaded(tmp_path):
    out = make_study(tmp_path / "study", ("uniform",), (0, 1))
    collected = collect(out)
    assert load(out) == collected
    assert [*load(out).curves.tables()] == [*collected.curves.tables()]


def test_a_strategy_may_be_called_nan(out):
    assert list(load(out).curves.runs("reward", "nan")) == [0, 1]
    assert [cell.credit for cell in load(out).cells] == ["uniform"] * 2 + ["nan"] * 2


def test_no_nan_reaches_the_json(out):
    report = load(out)
    cells = [replace(report.cells[0], value=math.nan, seconds=math.inf), *report.cells[1:]]
    text = dump(replace(report, cells=cells, threshold=-math.inf))
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert content["cells"][0]["value"] is None
    assert content["cells"][0]["seconds"] is None
    assert content["threshold"] is None


def test_the_comparison_is_in_the_json_for_other_programs(out):
    content = json.loads((out / REPORT).read_text())
    assert content["schema"] == 2
    assert content["comparison"]["verdict"].startswith("Against uniform: too few seeds to tell")
    assert content["comparison"]["results"][1]["n"] == 1


def damage(out, path, value):
    """Set an entry of report.json, or remove it."""
    content = json.loads((out / REPORT).read_text())
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    (out / REPORT).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 0, r"report\.json has schema 0, expected 2\. Run the study's command again"),
        (["schema"], ..., "has schema None, expected 2"),
        (["study"], ..., r"report\.json is damaged: it lacks 'study'\. Run the study's"),
        (["study", "seeds"], "0 1", r"study\.seeds is damaged: got '0 1', expected tuple\[int, "),
        (["study", "seeds", 1], True, r"study\.seeds\[1\] is damaged: got True, expected"),
        (["cells", 0, "value"], "0.5", r"cells\[0\]\.value is damaged: got '0.5', expected"),
        (["cells", 0, "seed"], ..., r"cells\[0\] is damaged: it lacks 'seed'"),
        (["cells", 0, "sneed"], 1, r"cells\[0\] is damaged: it has an unknown 'sneed'"),
        (["cells"], [], "its cells are not those of the study"),
        (["cells", 0, "seed"], 7, "its cells are not those of the study"),
        (["study", "baseline"], "seq", "the baseline 'seq' is none of the strategies: uniform"),
        (["examples"], 3, "examples is damaged: got 3, expected"),
        (["pairing", "alike"], None, r"pairing\.alike is damaged: got None"),
    ],
)
def test_damage_is_named_by_its_place(out, path, value, message):
    damage(out, path, value)
    with pytest.raises(CreditError, match=message):
        load(out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON .Expecting value"),
        ('{"schema": 1', "is not valid JSON .Expecting ',' delimiter"),
        ("[1]", "has schema None, expected 2"),
    ],
)
def test_a_torn_report_is_refused(out, content, message):
    (out / REPORT).write_text(content)
    with pytest.raises(CreditError, match=message):
        load(out)


@pytest.mark.parametrize("name", ["curves.parquet", "credit.parquet", "completions.parquet"])
def test_a_missing_table_is_named(out, name):
    (out / name).unlink()
    with pytest.raises(CreditError, match=rf"{name} cannot be read: .*No such file"):
        load(out)


def test_a_damaged_table_is_named(out):
    (out / "credit.parquet").write_bytes(b"PAR1")
    with pytest.raises(CreditError, match=r"credit\.parquet cannot be read"):
        load(out)
    shutil.copy(out / "completions.parquet", out / "credit.parquet")
    with pytest.raises(CreditError, match=r"credit\.parquet has columns credit, seed, step"):
        load(out)


def test_damaged_curves_are_named(out):
    pq.write_table(pa.table({"credit": ["a"], "name": ["reward"]}), out / CURVES)
    with pytest.raises(CreditError, match="has columns credit, name; expected credit, seed, step"):
        load(out)


def test_an_empty_study_comes_back(tmp_path):
    out = make_study(
        tmp_path / "study", ("uniform",), (0, 1),
        states={("uniform", 0): "waiting", ("uniform", 1): "waiting"},
    )  # fmt: skip
    report = collect(out)
    assert load(out) == report
    assert isinstance(report, Report)
    assert (report.examples, report.credit, report.completions) == (None, [], [])
    assert (report.threshold, report.study.metric) == (None, None)
