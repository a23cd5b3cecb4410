"""The recipe of tools, and the tiny model that has to call a calculator twice."""

import json
import os
import random
import runpy
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from chat_model import save_chat_model
from trl.chat_template_utils import parse_response

from grpo_credit.run.recipe import prepare
from grpo_credit.tiny.calculator import (
    KINDS,
    build_tokenizer,
    calculate,
    dialogue,
    outline,
    questions,
)

RECIPE = Path(__file__).parent.parent / "recipes" / "grpo_tools.py"
TOKENIZER = build_tokenizer()
PAGE = runpy.run_path(str(RECIPE))


def called(expression, heard, answer):
    call = {"type": "function", "function": {"name": "calculate",
            "arguments": {"expression": expression}}}  # fmt: skip
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "calculate", "content": heard},
        {"role": "assistant", "content": answer},
    ]


def test_the_tool_does_one_operation():
    assert (calculate("7 * 8"), calculate("56 + 5")) == ("56", "61")
    for wrong in ("7 * 8 + 5", "7", "", "7 - 8", "a + b", "90 * 90"):
        with pytest.raises((ValueError, KeyError)):
            calculate(wrong)


def test_a_question_is_of_one_split():
    train, test = ({r["prompt"][0]["content"] for r in questions(2000, 0, split)}
                   for split in ("train", "test"))  # fmt: skip
    assert not train & test
    assert len(test) > 64
    row = questions(1, 3, "train")[0]
    assert eval(row["prompt"][0]["content"]) == int(row["answer"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taught_is_what_the_template_writes_and_trl_reads(kind):
    parts = dialogue(kind, 7, 8, 5, random.Random(0))
    messages, prefix, tool = [{"role": "user", "content": "7 * 8 + 5"}], [], None
    for text, own in parts:
        ids = TOKENIZER(text).input_ids
        assert TOKENIZER.unk_token_id not in ids
        if own:
            assert prefix == TOKENIZER.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
            wrote = parse_response(TOKENIZER, ids, prefix=prefix, tools=[calculate])
            messages.append(wrote)
            for call in wrote.get("tool_calls", ()):
                try:
                    tool = calculate(**call["function"]["arguments"])
                except ValueError as error:
                    tool = str({"error": str(error)})
                messages.append({"role": "tool", "name": "calculate", "content": tool})
        prefix += ids
    assert (messages[-1]["content"] == "61") == (kind == "twice")
    assert ("error" in str(tool)) == (kind == "whole")


def test_a_failed_call_costs_its_turn():
    right = PAGE["Right"](0.5)
    good, bad = called("7 * 8", "56", "It is 61."), called("7", "{'error': 'no'}", "40")
    assert right([good, bad], answer=["61", "61"]) == [1.0, 0.0]
    assert right.turn_rewards([good, bad, [*good, *bad]]) == [[], [(0, -0.5)], [(2, -0.5)]]


def test_the_judge_counts_calls_and_failures():
    check = PAGE["check"]
    bad = called("7", "{'error': 'no'}", "40 or 61")
    assert check(json.dumps(bad), {"answer": 61}) == {
        "right": 1.0, "call rate": 1.0, "calls": 1.0, "failure rate": 1.0,
    }  # fmt: skip
    both = called("7 * 8", "56", "")[:2] + bad
    assert check(json.dumps(both), {"answer": "6"})["failure rate"] == 0.5
    assert not any(check("", {"answer": "6"}).values())


@pytest.mark.slow
@pytest.mark.parametrize("credit", ["seq", "turns/seq", "gigpo/seq"])
def test_a_run_learns_to_call(tmp_path, credit):
    done = subprocess.run(
        [sys.executable, str(RECIPE), f"--credit={credit}", "--max_steps=12", "--test_prompts=32",
         "--test_samples=4", "--output_dir=run", "--preflight=strict", "--save_rollouts=12"],
        cwd=tmp_path, text=True, capture_output=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = map(json.loads, (tmp_path / "run" / "held_out.jsonl").open())
    assert 0.1 < before["mean@4"] < 0.45
    assert after["mean@4"] > before["mean@4"] + 0.1
    assert after["calls (sampled)"] > before["calls (sampled)"]
    assert {"call rate (greedy)", "failure rate (sampled)"} <= set(after)
    assert "failure rate (sampled)" in done.stdout
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert all("tools/failure_frequency" in step for step in steps if "loss" in step)
    assert list((tmp_path / "run" / "rollouts").iterdir())


MY_TOOLS = '''
def add(a: int, b: int) -> int:
    """Add two whole numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b
'''


def test_tools_of_ones_own_are_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_tools_of_a_test.py").write_text(MY_TOOLS)
    template = files("trl").joinpath("chat_templates/qwen3.jinja").read_text()
    save_chat_model(tmp_path / "model", template)
    rows = [{"prompt": [{"role": "user", "content": f"{n}+1?"}], "answer": n} for n in range(90)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    setup = prepare(PAGE["RECIPE"], [
        "--model_name_or_path=model", "--dataset_name=rows.jsonl", "--credit=turns/seq",
        "--tools", "own_tools_of_a_test:add", "--dry_run",
    ])  # fmt: skip
    assert [tool.__name__ for tool in PAGE["tools_of"](setup.script)] == ["add"]
    assert setup.args.max_tool_calling_iterations == 4
    rows[3]["answer"] = "three"
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r | {"answer": str(r["answer"])})
                                                  for r in rows))  # fmt: skip
    with pytest.raises(ValueError, match="1 of 90 rows without 'answer': 3"):
        prepare(PAGE["RECIPE"], ["--model_name_or_path=model", "--dataset_name=rows.jsonl",
                                 "--tools", "own_tools_of_a_test:add", "--dry_run"])  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--failure_price=-1"], "--failure_price is -1, expected 0 or more"),
        (["--tools", "os:getcwd"], "--model_name_or_path is missing: --tools is not for the tiny"),
        (["--dataset_name=x.jsonl"], "--dataset_name is not for the tiny model"),
        (["--model_name_or_path=m"], "--dataset_name is missing; there is none for your own"),
        (["--model_name_or_path=m", "--dataset_name=x"], "--tools is missing; there is none"),
        (["--credit=decided/seq"], "decided"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        prepare(PAGE["RECIPE"], options)


def test_a_file_names_no_tool(tmp_path):
    (tmp_path / "some.yaml").write_text("tools: ['os:getcwd']\n")
    with pytest.raises(ValueError, match="a file's word imports nothing"):
        prepare(PAGE["RECIPE"], ["--config", str(tmp_path / "some.yaml")])


def test_the_outline_is_of_the_tiny_model():
    config, tokenizer = outline()
    assert config.vocab_size == len(tokenizer)
    assert tokenizer.response_template
