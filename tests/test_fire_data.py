"""Strangers' files: read within bounds, and told in a line where they are damaged.

Hundreds of damaged files of every kind go through every reader; what comes out is the right result,
or an error of the package's own that names the file.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import study_helpers
from fire_helpers import damaged, holds, mutations, saved_run
from study_helpers import make_study

from grpo_credit import CreditError
from grpo_credit.experiments.design import read_study
from grpo_credit.experiments.report.page import page
from grpo_credit.experiments.report.store import load
from grpo_credit.experiments.show.command import page as shown
from grpo_credit.experiments.show.picture import picture
from grpo_credit.experiments.study.cells import cells_of, look
from grpo_credit.experiments.study.collect import collect
from grpo_credit.experiments.study.progress import read_progress
from grpo_credit.records import directory, manifest, tables
from grpo_credit.records.files import read_json, read_lines, read_yaml
from grpo_credit.records.tables import read_table

ROOT = Path(__file__).parents[1]


# ---- bounds -----------------------------------------------------------------------------------


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 30)}]}}\n"
    for old, new in zip("abcde", "bcdef", strict=True)
)
YAML = {
    "alias bomb": (BOMB, "more than 10,000 entries, aliases written out"),
    "merge bomb": (MERGE_BOMB, "more than 10,000 entries"),
    "inside itself": ("a: &a [*a]", "more than 10,000 entries"),
    "NUL key": ('"a\\0b": 1', r"has the key 'a\\x00b', expected the name of an option"),
    "NUL": ("a\0b: 1", "is no YAML"),
    "a list as a key": ("? [1]\n: 2", "is no YAML"),
    "brackets": (f"a: {'[' * 3000}{']' * 3000}", "nests deeper than 64 levels"),
    "base 60": (f"a: 1{':1' * 300_000}", "endless word"),
    "no month": ("a: 2001-13-45", "is no YAML: month must be"),
    "no int": ("a: !!int ''", "is no YAML"),
    "no bool": ("a: !!bool maybe", "is no YAML"),
    "a tag that runs": ("a: !!python/object/apply:os.getcwd []", "could not determine a constr"),
    "a list": ("- a", "holds no mapping of options"),
    "large": (f"a: {'x' * 2**20}", "has 1,048,579 bytes, expected at most 1,048,576"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), YAML.values(), ids=YAML)
def test_yaml_is_read_within_bounds(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(CreditError, match=rf"a\.yaml .*{message}"):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_may_refer_to_itself_within_bounds(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: *a\nc: {<<: &m {d: 3}, e: 4}\n")
    expected = {"a": [1, 2], "b": [1, 2], "c": {"d": 3, "e": 4}}
    assert read_yaml(tmp_path / "a.yaml") == expected


WRONG = {"learning_rate: {a: {b: 1}}": "learning_rate in a.yaml is a dict, expected",
         "max_steps: [1, 2]": "max_steps in a.yaml is a list",
         "seed: true": "seed in a.yaml is a bool, expected <class 'int'>",
         f"max_steps: {'9' * 400}": "a number has more than 18 digits"}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=["dict", "list", "bool", "huge"])
def test_a_value_that_no_option_takes_is_told(text, message, tmp_path, monkeypatch):
    from grpo_credit.credit.userfile import load_recipe
    from grpo_credit.run.recipe import prepare

    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(load_recipe(ROOT / "recipes" / "grpo_regex.py"), ["--config", "a.yaml"])


def test_json_is_read_within_bounds(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    nested = "[" * 64 + "]" * 64
    path.write_text(nested)
    assert read_json(path)
    long = f"[1{'0' * 300}]"
    for text, message in ((f"[{nested}]", "deeper"), ("[" * 10**6, "too deep"), (long, "more th")):
        path.write_text(text)
        with pytest.raises(CreditError, match=rf"a\.json is not valid JSON .*{message}"):
            read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CreditError, match=r"a\.json is not UTF-8: invalid start byte at byte 7"):
        read_json(path)
    path.write_text("[1, 2]")
    with pytest.raises(CreditError, match=r"a\.json has 6 bytes, expected at most 5"):
        read_json(path, 5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CreditError, match="pipe is no regular file"):
        read_json(tmp_path / "pipe")


LINES = {b"[1]": "is .1., expected an object with a whole", b"{}": "expected an object",
         b'{"step": true}': "expected an object", b'{"step": 1e3}': "expected an object",
         b'{"step": -1}': "expected an object", b"\xff": "is not UTF-8", b"[[": "is not valid JSON",
         b'{"step": 1}' + b" " * 2**20: "is longer than 1,048,576 bytes"}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), LINES.items(), ids=range(len(LINES)))
def test_a_line_that_is_none_of_ours_is_named(line, message, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, "torn')
    assert read_lines(path) == [{"step": 0}]
    path.write_bytes(b'{"step": 0}\n' + line + b"\n")
    with pytest.raises(CreditError, match=rf"a\.jsonl:2 .*{message}"):
        read_lines(path)


def test_a_table_is_read_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SMALL", 2**20)
    path = tmp_path / "a.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 10**4])
    pq.write_table(pa.table({"a": text}), path, compression="zstd")
    with pytest.raises(CreditError, match=r"a\.parquet: 'a' is of type dictionary"):
        read_table(path)
    pq.write_table(pa.table({"a": text}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10**4
    with pytest.raises(CreditError, match=r"a\.parquet is a table of more than [\d,]+ bytes"):
        read_table(path)
    zeros = pa.ListArray.from_arrays(pa.array([0, 4 * 10**6], pa.int32()), np.zeros(4 * 10**6, "b"))
    pq.write_table(pa.table({"a": zeros}), path, compression="zstd")
    with pytest.raises(CreditError, match=r"has a num_values of 4,000,000, expected at most"):
        read_table(path)


# ---- every reader, damaged --------------------------------------------------------------------


@pytest.fixture(scope="module")
def rollouts_file(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("saved"), "even/seq", {})


def with_metadata(path, about):
    table = pq.read_table(path)
    text = json.dumps(about) if not isinstance(about, bytes) else about
    pq.write_table(table.replace_schema_metadata({b"grpo_credit": text}), path)


def draw_picture(run):
    drawn = picture(run)
    shown(drawn)


def test_no_metadata_of_rollouts_breaks_show(rollouts_file, tmp_path):
    run = shutil.copytree(rollouts_file, tmp_path / "run")
    path = run / "rollouts" / "rollouts_00001.parquet"
    about = json.loads(pq.read_table(path).schema.metadata[b"grpo_credit"])
    known = [("credit", 5), ("credit", None), ("options", []), ("options", "x"), ("tensors", []),
             ("values", None)]  # fmt: skip
    for name, value in known:
        with_metadata(path, about | {name: value})
        assert not holds(lambda: draw_picture(run), path.name)
    worked = 0
    for _, changed in mutations(about, 150):
        with_metadata(path, changed)
        worked += holds(lambda: draw_picture(run), path.name)
    assert worked < 75
    for content in damaged(json.dumps(about).encode()):
        with_metadata(path, content)
        assert not holds(lambda: draw_picture(run), path.name)


ODD_COLUMNS = (
    [None] * 6, ["x"] * 6, ["[" * 5000] * 6, [1.5] * 6, [10**18] * 6, [-1] * 6, [float("inf")] * 6,
    [[1] * 11] * 6, [[1]] * 6, [[None] * 11] * 6, [[2**62] * 11] * 6, [1e308] * 6, ["[1]"] * 6,
    ['["\\ud800"]'] * 6, [b"\xff"] * 6,
)  # fmt: skip


def test_no_column_of_rollouts_breaks_show(rollouts_file, tmp_path):
    run = shutil.copytree(rollouts_file, tmp_path / "run")
    path = run / "rollouts" / "rollouts_00001.parquet"
    table = pq.read_table(path)
    for place, name in enumerate(table.column_names):
        for values in ODD_COLUMNS:
            pq.write_table(table.set_column(place, name, pa.array(values)), path)
            holds(lambda: draw_picture(run), path.name)
    draw = random.Random(0)
    whole = (rollouts_file / "rollouts" / path.name).read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        holds(lambda: draw_picture(run), path.name)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out, credits = tmp_path_factory.mktemp("fire") / "study", ("uniform", "seq")
    return study_helpers.collected(out, credits, (0, 1), states={("seq", 1): "failed"})


@pytest.fixture
def collected(study, tmp_path):
    return study_helpers.copied(study, tmp_path / "study")


def read_page(folder):
    assert page(load(folder))


def test_no_leaf_of_report_json_breaks_the_page(collected):
    path = collected / "report.json"
    content = json.loads(path.read_text())
    del content["comparison"]  # of other programs
    worked = 0
    for _, changed in mutations(content, 120):
        path.write_text(json.dumps(changed))
        worked += holds(lambda: load(collected) and None, path.name)
        if worked % 8 == 0:
            holds(lambda: read_page(collected), path.name)
    assert 0 < worked < 90
    for broken in damaged(json.dumps(content).encode()):
        path.write_bytes(broken)
        assert not holds(lambda: load(collected), path.name)


def test_numbers_that_statistics_cannot_square_are_refused(collected):
    path = collected / "report.json"
    content = json.loads(path.read_text())
    content["cells"][0]["value"] = 1e308
    path.write_text(json.dumps(content))
    with pytest.raises(CreditError, match=r"cells\[0\].value is damaged: got 1e\+308, expected"):
        load(collected)


@pytest.mark.parametrize("name", ["credit", "completions", "curves"])
def test_no_table_of_a_report_breaks_the_page(name, collected):
    path = collected / f"{name}.parquet"
    table = pq.read_table(path)
    rows = table.num_rows
    for place, column in enumerate(table.column_names):
        for values in ODD_COLUMNS:
            changed = pa.array([values[0]] * rows)
            pq.write_table(table.set_column(place, column, changed), path)
            if holds(lambda: load(collected) and None, path.name) and place % 4 == 0:
                read_page(collected)


RUN_FILES = ("manifest.json", "metrics.jsonl", "held_out.jsonl")


def of_every_file(out):
    """Yield paths in a study, and what they hold: damaged, and with entries of other kinds."""
    run = out / "cells" / "s0" / "seed-0"
    record = run.with_name("seed-0.json")
    for path in [run / name for name in RUN_FILES] + [record]:
        content = path.read_bytes()
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        for _, changed in mutations(json.loads(lines[0]), 12):
            first = json.dumps(changed).encode()
            yield path, b"\n".join([first, *lines[1:]]) + b"\n"
        for broken in [*damaged(content)][:6]:
            yield path, broken
        path.write_bytes(content)


def test_a_damaged_file_of_a_run_costs_a_study_no_more_than_that_run(tmp_path, monkeypatch):
    from grpo_credit.experiments.study import collect as package

    monkeypatch.setattr(package, "_examples", lambda *_: (None, []))  # read above
    monkeypatch.setattr(package, "read_completions", lambda *_: [])
    out = make_study(tmp_path / "study", ("uniform", "seq"), (0, 1))
    for path, content in of_every_file(out):
        path.write_bytes(content)
        report = collect(out)
        assert [cell.status for cell in report.cells[1:]] == ["finished"] * 3
        load(out)
        read_progress(out / "cells" / "s0" / "seed-0")


def test_a_damaged_cell_is_set_aside_by_the_runner(tmp_path):
    out = make_study(tmp_path / "study", ("uniform",), (0, 1), own_warm_starts=False,
                     started="2026", git=None)  # fmt: skip
    cell = cells_of(read_study(out), out)[0]
    shutil.copytree(out / "cells" / "s0", cell.run.parent)
    pristine = shutil.copytree(cell.run.parent, tmp_path / "pristine")
    record = json.loads((pristine / "seed-0.json").read_text())
    for _, changed in mutations(record, 30):
        shutil.rmtree(cell.run.parent)
        shutil.copytree(pristine, cell.run.parent)
        cell.record.write_text(json.dumps(changed))
        (cell.run / "manifest.json").write_text(json.dumps(changed))
        state, _ = look(cell)
        assert state.status in ("waiting", "interrupted", "finished", "failed")


def test_no_leaf_of_study_json_breaks_the_reading_of_a_study(tmp_path):
    out = make_study(tmp_path / "study", ("uniform", "seq"), (0, 1), own_warm_starts=False,
                     started="2026", git=None)  # fmt: skip
    path = out / "study.json"
    content = json.loads(path.read_text())
    for _, changed in mutations(content, 60):
        path.write_text(json.dumps(changed))
        with contextlib.suppress(ValueError):  # of `Study` itself, too: a strategy named twice
            read_study(out)


RESUMED = {
    "a line that is a list": (
        "metrics.jsonl", b'{"step": 1}\n[1]\n', r"metrics\.jsonl, line 1 from its end, is \[1\]"),
    "no UTF-8": (
        "metrics.jsonl", b'{"step": 1, "a": "\xff"}\n{"step": 2}\n', "line 2 from its end, is not"),
    "held out": ("held_out.jsonl", b"7\n", r"held_out\.jsonl, line 1 from its end, is 7"),
    "a manifest that is a list": ("manifest.json", b"[]", r"manifest\.json is \[\], expected a"),
    "a manifest without a seed": (
        "manifest.json", b'{"status": "running", "world_size": 1}', "lacks 'seed'"),
    "a configuration that is a number": (
        "manifest.json", b'{"status": "", "world_size": 1, "seed": 1, "config": 1, "extra": {}}',
        r"manifest\.json\.config is damaged: got 1"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), RESUMED.values(), ids=RESUMED)
def test_a_damaged_run_is_not_resumed_and_nothing_of_it_is_lost(name, content, message, tmp_path):
    made = manifest.manifest(["x.py"], {}, {}, 0)
    directory.claim(tmp_path, made, resume=False)
    old = json.loads((tmp_path / "manifest.json").read_text())
    old["status"] = "interrupted"
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CreditError, match=message):
        directory.claim(tmp_path, made, resume=True)
    assert (tmp_path / name).read_bytes() == content


def test_no_leaf_of_a_manifest_breaks_a_resume(tmp_path):
    made = manifest.manifest(["x.py"], {"a": {"b": 1}}, {}, 0)
    whole = json.loads(json.dumps(made)) | {"status": "interrupted"}
    for _, changed in mutations(whole, 60):
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with contextlib.suppress(ValueError):  # of another configuration, too
            directory.claim(tmp_path, made, resume=True)


# ---- what goes out ----------------------------------------------------------------------------


def test_no_cell_of_a_csv_file_is_a_formula_and_the_names_come_back(tmp_path):
    out = make_study(tmp_path / "study", ("uniform", "=seq"), (0, 1),
                     states={("=seq", 1): "failed"})  # fmt: skip
    record = out / "cells" / "s1" / "seed-1.json"
    told = json.loads(record.read_text()) | {"tail": ['=HYPERLINK("http://x")']}
    record.write_text(json.dumps(told))
    report = collect(out)
    text = (out / "runs.csv").read_text()
    assert "=seq" in text
    for row in text.splitlines():
        assert not any(cell.strip('"')[:1] in ("=", "@", "+") for cell in row.split(","))
    assert '\'=HYPERLINK(""http://x"")' in text
    assert load(out) == report
    tables = pa.concat_tables(load(out).curves.tables())
    assert set(tables["credit"].to_pylist()) == {"uniform", "=seq"}


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pytest", __file__], check=True)
