"""The end of the demo: a question before and after, a wrong answer as two rules see it."""

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
import torch
from drawn import one_group
from rich.console import Console

from grpo_credit.credit.saved import load_rollouts, save_rollouts
from grpo_credit.experiments.show.closing import closing

TEXTS = [["<a>", "5", "</a>"], ["<a>", "6", "</a>"]]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "rollouts").mkdir()
    rollouts = one_group([3, 3], [1.0, 0.0], advantages=torch.tensor([1.0, -1.0]).double())
    rollouts = replace(
        rollouts, rewards_per_func=rollouts.rewards[:, None], reward_names=("sum",),
        spans={"sum/answer": torch.tensor([[False, True, False]] * 2)},
    )  # fmt: skip
    path = tmp_path / "rollouts" / "rollouts_00004.parquet"
    save_rollouts(path, rollouts, ["2+3="] * 2, TEXTS, "even/seq")
    return tmp_path


def answered(run, *lines):
    with (run / "answers.jsonl").open("w") as file:
        for step, prompt, completion, right in lines:
            line = {"step": step, "prompt": prompt, "completion": completion, "right": right}
            file.write(json.dumps(line) + "\n")


def printed(run, rules=("even/seq", "spans/seq")):
    console = Console(record=True, width=80, file=StringIO(), color_system=None)
    closing(run, rules, console)
    return console.export_text()


def test_the_question_is_one_that_was_learnt(run):
    answered(
        run, (0, "1+1=", "2", 1.0), (0, "2+3=", "6", 0.0), (2, "2+3=", "9", 0.0),
        (4, "1+1=", "2", 1.0), (4, "2+3=", "5", 1.0),
    )  # fmt: skip
    text = printed(run)
    assert re.search(r"asked: 2\+3=\n +step 0: 6\n +step 4: 5\n", text)
    assert "9" not in text.partition("next:")[0]


def test_the_wrong_answer_is_seen_by_the_runs_own_rule_and_another(run):
    text = printed(run)
    assert "A wrong answer of step 4, as two rules see it" in text
    assert "even/seq:\n-100[<a>6</a>" in text
    assert "spans/seq:\n<a>-100[6]</a>" in text
    assert "5" not in text.partition("as two rules")[2].partition("next:")[0].replace("0.5", "")
    assert text.rstrip().endswith(f"next: grpo-credit show {run}")


def test_a_right_answer_is_not_called_wrong(run):
    saved = load_rollouts(run / "rollouts" / "rollouts_00004.parquet")
    equal = replace(saved.rollouts, rewards=torch.ones(2).double())
    path = run / "rollouts" / "rollouts_00008.parquet"
    save_rollouts(path, equal, ["2+3="] * 2, TEXTS, "even/seq")
    assert "wrong" not in printed(run)


def test_what_is_hostile_is_shown_and_not_obeyed(run):
    answered(run, (0, "[red]?", "\x1b[2J" + "x" * 999, None), (4, "[red]?", "a\nb", None))
    text = printed(run)
    assert "asked: [red]?" in text
    assert "␛[2J" in text
    assert "more characters" in text
    assert "step 4: a⏎\nb\n" in text


def test_what_was_not_saved_is_not_shown(tmp_path):
    text = printed(tmp_path)
    assert text.split() == ["next:", "grpo-credit", "show", *str(tmp_path).split()]
