"""The benchmark of a step compares what it says it compares. Nothing here is timed."""

import json
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

SCRIPTS = str(Path(__file__).parent.parent / "scripts")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import bench_step

    tiny = LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, dtype="float32",
    )  # fmt: skip
    monkeypatch.setitem(bench_step.MODELS, "cpu", tiny)
    return bench_step


def run(bench, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["bench_step.py", *arguments])
    bench.main()


def test_both_trainers_run_the_same_rollouts(bench, monkeypatch, tmp_path, capsys):
    load = bench.Workload([3] * 8, [[4, 5, 6, 7, 8, 9, 10, 11]] * 8, dead=7)
    monkeypatch.setattr(bench, "workload", lambda name, scale: load)
    target = tmp_path / "found.json"
    arguments = "--workload dead --credit seq length --repeats 1 --json"
    run(bench, monkeypatch, [*arguments.split(), str(target)])
    assert "dead" in capsys.readouterr().out
    found = json.loads(target.read_text())["workloads"]["dead"]
    host, ours = found["trl"], found["ours"]
    assert (host["tokens"], host["passes"]) == (64 * (3 + 11), 8)
    assert (host["tokens_no_grad"], host["passes_no_grad"]) == (64 * (3 + 11), 8)
    assert found["needed"] == 2 + sum(range(4, 12)) <= ours["tokens"] <= 8 * (3 + 11)
    assert found["ideal"] == pytest.approx(62 / 896)
    assert max(found["gradients"][credit] for credit in ("seq", "length")) <= 1e-5
    assert ours["peak_bytes"] < host["peak_bytes"]
    assert len(host["seconds"]) == len(ours["seconds_no_grad"]) == 1


def test_a_completion_that_scores_the_mean_of_its_group_needs_no_pass(bench):
    load = bench.workload("equal", 1)
    group = [[sum(load.completion(g, m)) % 7 for m in range(8)] for g in range(8)]
    at_the_mean = sum(score * 8 == sum(scores) for scores in group for score in scores)
    assert at_the_mean == 1
    assert load.needed == 8 * (32 - 1) + (64 - at_the_mean) * 128


@pytest.mark.parametrize("scale", [1, 4])
def test_workloads_have_the_lengths_that_they_are_named_for(bench, scale):
    loads = {name: bench.workload(name, scale) for name in bench.WORKLOADS}
    flat = {name: [n for group in w.completions for n in group] for name, w in loads.items()}
    assert {name: w.dead for name, w in loads.items() if w.dead} == {"reference": 3, "dead": 7}
    for name in ("reference", "dead"):
        assert loads[name].longest == 256 * scale
        assert sum(flat[name]) / 64 == pytest.approx(0.36 * 256 * scale, rel=0.01)
    assert set(flat["equal"]) == {128 * scale}
    assert set(flat["long_prompt"]) == {64 * scale}
    assert set(loads["long_prompt"].prompts) == {512 * scale}
    assert set(loads["agent"].prompts) == {1500 * scale}
    assert (loads["agent"].group, loads["agent"].rows, min(flat["agent"]) // scale) == (16, 64, 31)
    tail = sorted(flat["long_tail"])
    assert tail[-1] == 256 * scale >= 4 * tail[-2]
    assert sum(tail[:-1]) / 63 == pytest.approx(32 * scale, rel=0.03)


def test_completions_end_where_the_limit_does_not_cut_them(bench):
    load = bench.Workload([2] * 8, [[3] * 7 + [5]] * 8)
    end = bench.TOKENIZER.eos_token_id
    assert load.completion(0, 0)[-1] == end != load.completion(0, 7)[-1]
    assert [len(load.completion(0, m)) for m in (0, 7)] == [3, 5]
    assert bench.reward([[1, 2], [3]], [True, False]) == [0.0, 3 / 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats is 0, expected 1 or more"),
        (["--json", __file__], "exists; name another file"),
        (["--device", "cuda"], "--device cuda needs a GPU"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(bench, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        run(bench, monkeypatch, arguments)
    assert message in capsys.readouterr().err
