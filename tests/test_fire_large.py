"""Big studies, steps and runs: what is read, written and drawn is bounded. Counts, no times."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from run_helpers import write_metrics
from study_helpers import make_study

from grpo_credit import CreditError, Rollouts
from grpo_credit.credit import saved
from grpo_credit.credit.saved import load_rollouts, save_rollouts
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.page import page
from grpo_credit.experiments.report.series import COLUMNS, Curves
from grpo_credit.experiments.report.store import CURVES, load
from grpo_credit.experiments.report.view_curves import learning
from grpo_credit.experiments.show.command import page as html
from grpo_credit.experiments.show.picture import picture
from grpo_credit.experiments.show.terminal import print_picture
from grpo_credit.experiments.study.collect import collect
from grpo_credit.records import directory, files
from grpo_credit.trainer.credit_tables import EXACT, load_credit, save_credit
from grpo_credit.trainer.window import Generation, Window

# ---- studies ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = make_study(tmp_path_factory.mktemp("large") / "study", ("uniform", "seq"), (0, 1))
    collect(out)
    return out


def long_curve(credit, seed, name, count=500):
    steps = np.arange(count)
    columns = {"credit": [credit] * count, "seed": [seed] * count, "step": steps,
               "tokens": steps * 10.0, "seconds": steps * 1.0, "name": [name] * count,
               "value": np.sin(steps)}  # fmt: skip
    return pa.table(columns, COLUMNS)


@pytest.fixture
def copied(study, tmp_path):
    for path in study.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_curves_are_read_in_any_order_of_their_rows(copied):
    table = pa.concat_tables(load(copied).curves.tables())
    table.to_pandas().sample(frac=1, random_state=0).to_parquet(copied / CURVES, index=False)
    assert pa.concat_tables(load(copied).curves.tables()) == table


def test_curves_that_statistics_cannot_square_are_refused(copied):
    frame = pq.read_table(copied / CURVES).to_pandas()
    frame.loc[3, "value"] = -1e308
    frame.to_parquet(copied / CURVES)
    with pytest.raises(CreditError, match=r"curves\.\w+ holds -1e\+308, expected at most 1e\+100"):
        load(copied)


def test_more_points_than_a_study_may_have_are_not_read(copied, monkeypatch):
    monkeypatch.setattr("grpo_credit.experiments.report.store._POINTS", 7)
    with pytest.raises(CreditError, match=r"curves\.parquet has \d+ points, expected at most 7"):
        load(copied)


def test_damaged_tokens_cost_a_study_the_rows_of_their_step(tmp_path):
    out = make_study(tmp_path / "study", ("uniform",), (0, 1))
    whole = collect(out)
    path = max(out.glob("cells/s0/seed-0/rollouts/*.parquet"))
    table = pq.read_table(path)
    place = table.schema.get_field_index("tokens")
    pq.write_table(table.set_column(place, "tokens", pa.array(["[1]"] * len(table))), path)
    report = collect(out)
    (problem,) = report.problems
    assert problem.startswith(f"{path.relative_to(out)} is damaged (tokens[")
    assert {row["step"] for row in report.credit} < {row["step"] for row in whole.credit}


def test_a_page_has_a_few_points_of_a_long_curve_and_says_so(study):
    report = load(study)
    long = Curves.join(long_curve(cell.credit, cell.seed, "reward") for cell in report.cells)
    report, few = replace(report, curves=long), report
    panels = learning(report, Limits())[0].axes["step"]
    assert max(len(curve.x) for panel in panels for curve in panel.curves) == 48
    assert "Of longer curves 48 points are drawn" in page(report)
    assert "Of longer curves" not in page(few)


def test_the_axes_of_a_runs_curves_are_held_once():
    found = Curves.join([long_curve("a", 0, "reward"), long_curve("a", 0, "loss")])
    runs = [found._points[name, "a"][0] for name in ("reward", "loss")]
    assert runs[0].step is runs[1].step
    assert runs[0].tokens is runs[1].tokens


def test_of_very_many_tables_some_are_read_and_that_is_said(study, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "grpo_credit.experiments.study.collect.trained.TABLES", 8
    )  # two for each of four runs
    out = make_study(tmp_path / "study", ("uniform", "seq"), (0, 1))
    for folder in out.glob("cells/*/*/credit"):
        for step in (2, 3):
            (folder / f"credit_0000{step}.parquet").write_bytes(b"is not read")
    report = collect(out)
    assert report.problems == []
    assert report.curves.runs("length/right", "seq")[0][0].tolist() == [1, 4]
    assert "Read at 2 of 4 logged steps." in page(report)


def test_collecting_without_rollouts_needs_no_torch(tmp_path):
    out = make_study(tmp_path / "study", ("uniform",), (0, 1))
    for path in out.glob("cells/*/*/rollouts/*"):
        path.unlink()
    code = (
        "import sys, pathlib; from grpo_credit.experiments.study.collect import collect; "
        "collect(pathlib.Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_lines_are_parsed_some_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}}}\n' for n in range(3000)) + '{"torn')
    parsed, loads = [], json.loads
    monkeypatch.setattr(files.json, "loads", lambda text: parsed.append(text) or loads(text))
    assert [line["step"] for line in files.iterate_lines(path)] == [*range(3000)]
    assert len(parsed) == 3


@pytest.mark.parametrize("text", ['{"a": 1}, {"b": 2}\n', "\n", '{"a": [1\n2]}\n'])
def test_a_line_that_is_not_one_value_is_refused(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(CreditError, match=r"x\.jsonl:1 is not valid JSON \((Extra data|Expecting)"):
        files.read_lines(tmp_path / "x.jsonl")


# ---- resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 64])
def test_lines_come_from_the_end_whatever_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(files, "_BLOCK", block)
    content = b"one\n\ntwo and more\nthree\ntorn"
    (tmp_path / "x").write_bytes(content)
    found = list(files.lines_from_end(tmp_path / "x"))
    assert [line for _, line in found] == content.splitlines(keepends=True)[::-1]
    assert all(content[:end].endswith(line) for end, line in found)
    (tmp_path / "x").write_bytes(b"")
    assert list(files.lines_from_end(tmp_path / "x")) == []


def test_of_a_log_of_a_terabyte_the_end_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
        file.seek(0, 2)
        file.write(("\n" + "".join(lines)).encode())
    directory._drop_later_lines(path, 2)
    assert path.stat().st_size == (1 << 40) + 1 + len(lines[0] + lines[1])
    assert path.with_name("metrics.jsonl.bak-1").read_text() == lines[2]


@pytest.mark.parametrize("torn", ["torn", '{"step": 1}', "\x00\x00"])
def test_what_is_torn_at_the_end_is_moved_aside(tmp_path, torn):
    kept = write_metrics(tmp_path, 1, 2)
    write_metrics(tmp_path, 1, 2, torn=torn)
    directory._drop_later_lines(tmp_path / "metrics.jsonl", 2)
    assert (tmp_path / "metrics.jsonl").read_text() == kept
    assert (tmp_path / "metrics.jsonl.bak-1").read_text() == torn


@pytest.mark.parametrize("damage", ["[1]\n", "7\n", '{"step": "x"}\n', "\x00\x00\n", "\n", "7\r\n"])
@pytest.mark.parametrize("torn", ["", "torn"])
def test_a_damaged_line_is_told_and_nothing_is_cut_off(tmp_path, damage, torn):
    write_metrics(tmp_path, 1, 2, torn=damage + torn)
    text = (tmp_path / "metrics.jsonl").read_bytes()
    number = 1 + bool(torn)
    with pytest.raises(CreditError, match=rf"metrics\.jsonl, line {number} from its end, is "):
        directory._drop_later_lines(tmp_path / "metrics.jsonl", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == text


def test_an_endless_line_is_told_before_it_is_held(tmp_path):
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(CreditError, match="a line that is longer than 1,048,576 bytes"):
        directory._drop_later_lines(tmp_path / "metrics.jsonl", 2)
    with pytest.raises(CreditError, match="1 is longer than 1,048,576 bytes"):
        files.read_lines(tmp_path / "metrics.jsonl")


def test_nothing_is_cut_before_it_is_kept(tmp_path, monkeypatch):
    text = write_metrics(tmp_path, 1, 2, 3)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "replace_content", full)
    with pytest.raises(OSError, match="No space left"):
        directory._drop_later_lines(tmp_path / "metrics.jsonl", 1)
    assert (tmp_path / "metrics.jsonl").read_text() == text


# ---- show -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Save 600 completions of 64 tokens."""
    folder = tmp_path_factory.mktemp("run") / "rollouts"
    folder.mkdir()
    rollouts = Rollouts.from_lists(
        [64] * 600, [0.0, 1.0] * 300, num_generations=2, max_completion_length=64
    )
    texts = [[f" <{row}>"] * 64 for row in range(600)]
    save_rollouts(folder / "rollouts_00001.parquet", rollouts, ["?"] * 600, texts, "seq")
    return folder.parent


@pytest.mark.parametrize("rows", [8, 600])
def test_a_page_is_bounded_and_says_what_it_leaves_out(run, monkeypatch, rows):
    monkeypatch.setattr("grpo_credit.experiments.show.picture.LARGEST", 60_000)
    drawn = picture(run, rows=rows)
    text = html(drawn)
    assert len(text.encode()) < 60_000 + 5_000  # its head
    assert len(drawn.completions) + drawn.left_out == rows
    short = sum(completion.left_out for completion in drawn.completions)
    assert short == 64 * len(drawn.completions) - sum(len(c.tokens) for c in drawn.completions)
    assert drawn.left_out or short
    assert "Left out, to keep this below 0.06 MB" in text
    console = Console(width=80, record=True, file=io.StringIO())
    print_picture(drawn, console)
    assert "load_rollouts reads all" in " ".join(console.export_text().split())


def test_what_fits_is_shown_without_a_word(run):
    drawn = picture(run, rows=8)
    assert (drawn.left_out, drawn.notice) == (0, "")
    assert [len(completion.tokens) for completion in drawn.completions] == [64] * 8


def test_tokens_are_read_where_they_are_shown(run, monkeypatch):
    read, original = [], saved.read_table
    monkeypatch.setattr(
        saved, "read_table", lambda *given: read.append(given[2:]) or original(*given)
    )
    tokens = load_rollouts(run / "rollouts" / "rollouts_00001.parquet").tokens
    assert read == [()]  # all but the tokens
    assert tokens[599][0] == tokens[-1][0] == " <599>"
    assert [texts[0] for texts in tokens[0:2]] == [" <0>", " <1>"]
    assert read[1:] == [(2,), (0,)]  # of three groups of rows, each once


def test_tokens_that_do_not_fit_are_told_when_they_are_read(run, tmp_path):
    table = pq.ParquetFile(run / "rollouts" / "rollouts_00001.parquet").read()
    texts = table["tokens"].to_pylist()
    texts[7] = '["only one"]'
    place = table.schema.get_field_index("tokens")
    pq.write_table(table.set_column(place, "tokens", pa.array(texts)), tmp_path / "x.parquet")
    tokens = load_rollouts(tmp_path / "x.parquet").tokens
    assert len(tokens[6]) == 64
    with pytest.raises(CreditError, match="completion 7 has the text of 1 tokens; expected 64"):
        tokens[7]


# ---- credit tables ----------------------------------------------------------------------------


class Words:
    def decode(self, ids):
        return "".join(f" w{i}" for i in ids)


def credit_file(path, credit):
    rows, columns = credit.shape
    rng = np.random.default_rng(0)
    phrases = np.minimum(rng.zipf(1.2, (1024, 4)), 50_000)
    ids = phrases[rng.integers(0, 1024, (rows, columns // 4))].reshape(rows, columns)
    made = Rollouts.from_lists(
        [columns] * rows, [0.0, 1.0] * (rows // 2), num_generations=2, max_completion_length=columns
    )
    made = replace(made, completion_ids=torch.tensor(ids))
    texts = ["?"] * rows
    generation = Generation(made, made.advantages[:, None], texts, texts, [])
    save_credit(path, Window.join([generation], torch.arange(rows)), credit, Words(), 3)
    return ids


def test_dense_credit_takes_less_than_two_bytes_a_token(tmp_path):
    torch.manual_seed(0)
    credit = torch.randn(128, 1) * torch.rand(128, 4096)
    ids = credit_file(tmp_path / "credit.parquet", credit)
    assert (tmp_path / "credit.parquet").stat().st_size <= 2 * credit.numel()
    table = load_credit(tmp_path / "credit.parquet")
    assert np.stack(table["token_ids"]).tolist() == ids.tolist()
    assert table["tokens"][5][:2] == [f" w{ids[5, 0]}", f" w{ids[5, 1]}"]
    found = torch.tensor(np.stack(table["credit"]))
    assert ((found - credit).abs() <= credit.abs() / 16).all()


def test_credit_of_few_values_is_exact(tmp_path):
    torch.manual_seed(0)
    values = torch.randn(8, EXACT)
    credit = values.repeat_interleave(64, dim=1)
    credit_file(tmp_path / "credit.parquet", credit)
    found = np.stack(load_credit(tmp_path / "credit.parquet")["credit"])
    assert torch.equal(torch.tensor(found), credit)


def test_a_credit_table_of_an_earlier_version_is_read(tmp_path):
    old = pd.DataFrame({"row": [0], "token_ids": [[1, 2]], "tokens": [["a", "b"]],
                        "counted": [[True, False]], "credit": [[0.1, 0.0]]})  # fmt: skip
    old.to_parquet(tmp_path / "credit.parquet")
    found = load_credit(tmp_path / "credit.parquet")
    assert found["tokens"][0].tolist() == ["a", "b"]
