"""The recipe for word problems: on local files and a local chat model, and its own judge."""

import json
import os
import runpy
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import torchrun
from chat_model import TEMPLATE, save_chat_model
from datasets import Dataset
from safetensors import safe_open

from grpo_credit.run.recipe import prepare

RECIPE = Path(__file__).parent.parent / "recipes" / "grpo_math.py"
SHORT = [
    "--model_name_or_path=model", "--max_steps=5", "--per_device_train_batch_size=4",
    "--gradient_accumulation_steps=1", "--num_generations=4", "--max_completion_length=12",
    "--test_prompts=3", "--test_samples=2", "--gradient_checkpointing=False",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe():
    return runpy.run_path(str(RECIPE))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    save_chat_model(folder / "model")
    rows = [
        {"question": f"Tom has {i} apples and buys {i}. How many?", "answer": f"so\n#### {2 * i}"}
        for i in range(30)
    ]
    Dataset.from_list(rows).to_json(folder / "problems.jsonl")
    Dataset.from_list(rows).to_parquet(folder / "problems.parquet")
    return folder


def launch(folder, *options, processes=1):
    start = torchrun.command(processes, RECIPE) if processes > 1 else [sys.executable, RECIPE]
    return subprocess.run(
        [*start, *SHORT, *options], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_jsonl_with_lora(own):
    done = launch(own, "--dataset_name=problems.jsonl", "--use_peft", "--output_dir=lora")
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [line for line in metrics(own / "lora") if "reward" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    assert {"rewards/right/mean", "rewards/think_answer_format/mean"} <= set(steps[0])
    manifest = json.loads((own / "lora" / "manifest.json").read_text())
    assert manifest["config"]["learning_rate"] == 1e-5  # ten times a whole model's
    assert manifest["config"]["reward_weights"] == [1.0, 0.2]
    assert manifest["extra"]["metric"] == "mean@2"
    with safe_open(own / "lora" / "model" / "adapter_model.safetensors", "pt") as adapter:
        names = set(adapter.keys())
    assert any("mlp" in name for name in names)  # all linear layers, not attention alone
    tested = [json.loads(line) for line in (own / "lora" / "held_out.jsonl").open()]
    assert [line["step"] for line in tested] == [0, 5]
    assert {"pass@1", "mean@2", "pass@2", "format rate (greedy)"} <= set(tested[0])


def test_parquet_on_two_processes_with_the_held_out_number_choosing_the_checkpoint(own):
    options = ["--dataset_name=problems.parquet", "--credit=seq", "--output_dir=two"]
    best = ["--eval_strategy=steps", "--eval_steps=3", "--metric_for_best_model=mean@2"]
    done = launch(own, *options, *best, "--max_steps=3", "--save_steps=3", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((own / "two" / "manifest.json").read_text())
    assert (manifest["status"], manifest["world_size"]) == ("finished", 2)
    assert manifest["config"]["learning_rate"] == 1e-6
    state = json.loads((own / "two" / "checkpoint-3" / "trainer_state.json").read_text())
    [*_, last] = [json.loads(line) for line in (own / "two" / "held_out.jsonl").open()]
    assert state["best_metric"] == last["mean@2"]
    assert state["best_model_checkpoint"].endswith("checkpoint-3")
    assert [m["step"] for m in metrics(own / "two") if "reward" in m] == [1, 2, 3]


# ---- the judge that is not the reward ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("42", 42), ("so $1,234.50", Decimal("1234.50")), ("-3", -3), ("3 or 4", 4), ("none", None)],
)
def test_last_number(recipe, text, number):
    assert recipe["last_number"](text) == number


def test_the_judge_reads_the_answer_block_and_counts_tags(recipe):
    check = recipe["checker"](recipe["MathArguments"]())
    row = {"answer": "first 3\n#### 1,012"}
    good = check("<think>5</think><answer>1012</answer>", row)
    assert (good["right"], good["format rate"]) == (1.0, 1.0)
    assert check("<think>5</think><answer>1012", row)["right"] == 0.0  # 10123, cut off?
    bare = check("1012", row)
    assert (bare["right"], bare["format rate"]) == (0.0, 0.0)
    twice = check("<think></think><answer>7</answer><answer>1012</answer>", row)
    assert (twice["right"], twice["format rate"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("ending", "right", "wrong"),
    [("", "<think>5</think><answer>5</answer>", "5</think><answer>5</answer>"),
     ("<think>\n", "5</think><answer>5</answer>", "<think>5</think><answer>5</answer>"),
     ("{% if messages|length > 1 %}<think>\n{% endif %}",  # by what the system message says
      "5</think><answer>5</answer>", "<think>5</think><answer>5</answer>"),
     ("{% if thinks %}<think>\n{% endif %}",  # by --chat_template_kwargs
      "5</think><answer>5</answer>", "<think>5</think><answer>5</answer>")],
)  # fmt: skip
def test_a_completion_opens_the_thought_where_the_template_does_not(
    own, tmp_path, monkeypatch, ending, right, wrong
):
    template = TEMPLATE.replace("assistant\n{% endif", "assistant\n" + ending + "{% endif")
    save_chat_model(tmp_path / "model", template)
    monkeypatch.chdir(own)
    options = [f"--model_name_or_path={tmp_path / 'model'}", "--dataset_name=problems.jsonl",
               '--chat_template_kwargs={"thinks": true}']  # fmt: skip
    task = prepare(runpy.run_path(str(RECIPE))["RECIPE"], [*options, "--no_gate"]).task
    [_, form] = task.rewards
    prompt = [{"role": "user", "content": "?"}]
    assert form([right, wrong], prompts=[prompt, prompt]) == [1.0, 0.0]
    kept = [task.check(text, {"answer": "5"})["format rate"] for text in (right, wrong)]
    assert kept == [1.0, 0.0]


def test_what_is_around_the_blocks_breaks_the_form(recipe):
    keeps_form, whole = recipe["keeps_form"], "<think>5</think>\n<answer>5</answer>"
    assert keeps_form(f" {whole}\n", None)
    for text in (f"So: {whole}", f"{whole} Done.", whole.replace("<think>", ""), whole * 2):
        assert not keeps_form(text, None)


ANSWERED = [  # answer, gold, right
    ("42", "42", 1), ("1/2", r"$\frac{1}{2}$", 1), ("x+1", "$x+1$", 1), ("-7", "-7", 1),
    (r"50\%", r"$50\%$", 1), (r"\frac{1}{2}", r"\frac{1}{2}", 1), ("$x+1$", "$x+1$", 1),
    ("3.5", "3.5", 1), ("1,234", "1234", 1), ("1 234", "1234", 1), (r"\sqrt{2}", r"\sqrt2", 1),
    ("2 2/3", r"\frac83", 1), (r"\frac12", "0.5", 1), ("½", "1/2", 1), ("(1,2)", "(1, 2)", 1),
    ("{1,2}", r"\{2,1\}", 1), ("[0,1)", "$[0,1)$", 1), ("x ≥ 3", r"x\ge3", 1), ("5.", "5", 1),
    ("y=2x+3", "y = 2x + 3", 1), ("Evelyn", r"\text{Evelyn}", 1), ("C", "C", 1), ("x = 5", "5", 1),
    (r"\boxed{5}", "5", 1), ("5 cm", r"5\text{ cm}", 1), ("**73**", "73", 1), ("5e3", "5000", 1),
    ("1331 and 1728", "1331 and 1728", 1), ("pi", r"\pi", 1), ("sqrt(51)", r"\sqrt{51}", 1),
    ("42", "so\n#### 42", 1), ("2", r"so $x=8$; the sum is \boxed{2}", 1), ("5", ["4", "$5$"], 1),
    ("4210_5", "4210_5", 1), ("4210", "4210_5", 0), ("1728", "1331 and 1728", 0), ("2", "2k+2", 0),
    ("43", "so\n#### 42", 0), ("8", r"so $x=8$; the sum is \boxed{2}", 0), ("41", "42", 0),
    ("-2", "2", 0), ("6", "x=5", 0), (r"\frac{2}{4}", "0.6", 0), ("6", ["4", "$5$"], 0),
    ("", "5", 0),
]  # fmt: skip


def test_the_reward_and_its_judge_agree_on_formulas_between_the_tags(recipe):
    pytest.importorskip("math_verify")
    right = recipe["JUDGES"]["math"]("answer")
    check = recipe["checker"](recipe["MathArguments"](judge="math"))
    answers, golds, expected = map(list, zip(*ANSWERED, strict=True))
    texts = [f"<think>{gold}</think>\n<answer>{said}</answer>" for said, gold, _ in ANSWERED]
    assert right(texts, answer=golds) == expected
    pairs = zip(texts, golds, strict=True)
    assert [check(text, {"answer": gold})["right"] for text, gold in pairs] == expected
    bare = right(answers + [f"<answer>{said}" for said in answers], answer=golds * 2)
    assert set(bare) == {0.0}
    right.close()


@pytest.mark.parametrize(
    ("judge", "answers", "told"),
    [("numeric", ["#### 5", "#### x"], "1 of 2 answers are no single number, such as 'x': "),
     ("math", ["x + 1", "so $x = 8$, and then"], "1 of 2 answers are no single formula, such as ")],
)  # fmt: skip
def test_answers_that_cannot_be_read_are_told(recipe, capsys, judge, answers, told):
    right = recipe["JUDGES"][judge]("answer")
    recipe["check_answers"](right, answers, judge)
    assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"1 of 1 answers are no single .*: there the reward abst"):
        recipe["check_answers"](right, answers[1:], judge)
