"""The recipe for reasoning-gym's tasks: with the tiny model, with a chat model, and its parts."""

import json
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_model import TEMPLATE, save_chat_model
from trl import ModelConfig

from rewards import InTag, TaskScore

RECIPE = Path(__file__).parent.parent / "recipes" / "grpo_tasks.py"


@pytest.fixture(scope="module")
def recipe():
    return runpy.run_path(str(RECIPE))


def launch(folder, *options):
    return subprocess.run(
        [sys.executable, str(RECIPE), *options], cwd=folder, capture_output=True, text=True,
        timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_tiny_model_is_shown_answers_and_trained(tmp_path):
    done = launch(
        tmp_path, "--warm_start_steps=20", "--task_size=64", "--max_steps=5", "--test_prompts=4",
        "--task", "spell_backward", "letter_counting", "--per_device_train_batch_size=16",
        "--output_dir=run", "--credit=spans/seq",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [s["step"] for s in steps if "rewards/task_score/mean" in s] == [1, 2, 3, 4, 5]
    tested = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").open()]
    assert {"pass@1", "mean@4", "pass@4"} <= set(tested[-1])


def test_a_chat_model_answers_between_tags(tmp_path):
    save_chat_model(tmp_path / "model")
    done = launch(
        tmp_path, "--model_name_or_path=model", "--task", "chain_sum", "--task_size=32",
        "--test_prompts=4", "--max_steps=5", "--per_device_train_batch_size=8", "--use_peft",
        "--gradient_accumulation_steps=1", "--max_completion_length=12", "--output_dir=run",
        "--gradient_checkpointing=False",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["global_step"] == 5
    assert manifest["config"]["learning_rate"] == 1e-5


def test_no_question_is_both_trained_on_and_tested(recipe):
    """Sums of two digits repeat themselves: of the entries kept for testing half are trained on."""
    script = recipe["TaskArguments"](
        task=["chain_sum"], task_options='{"chain_sum": {"max_terms": 2}}', task_size=100,
        test_prompts=8,
    )  # fmt: skip
    reward = TaskScore(recipe["generators"](script, seed=3, tiny=True))
    train, test = recipe["parted"](reward, script, seed=3, tiny=True)
    assert (len(train), len(test)) == (100, 8)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert {row["index"] for row in train} == set(range(100))


def test_the_judge_wants_full_marks(recipe):
    reward = TaskScore({"spell_backward": {"seed": 1, "size": 4}})
    row = {"task": "spell_backward", "index": 2}
    answer = reward.entry(**row)["answer"]
    near = answer[:-1] + ("x" if answer[-1] != "x" else "y")
    check = recipe["checker"](reward)
    assert 0 < reward.score(near, **row) < 1
    assert (check(answer, row)["right"], check(near, row)["right"]) == (1.0, 0.0)


def test_a_thought_that_the_template_opens_is_not_opened_again(recipe, tmp_path):
    template = TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    model = ModelConfig(model_name_or_path=str(save_chat_model(tmp_path, template)))
    script = recipe["TaskArguments"](task=["chain_sum"], task_size=4, test_prompts=1)
    args = SimpleNamespace(seed=1, trust_remote_code=False, chat_template_kwargs=None)
    [reward] = recipe["make_task"](script, args, model).rewards
    answer = TaskScore({"chain_sum": {"seed": 1, "size": 20}}).entry("chain_sum", 0)["answer"]
    texts = [f"so</think><answer>{answer}</answer>", f"<think>so</think><answer>{answer}</answer>"]
    prompts = [[{"role": "user", "content": "?"}]] * 2
    assert reward(texts, prompts=prompts, task=["chain_sum"] * 2, index=[0, 0]) == [1.0, 0.0]


# ---- the reward -------------------------------------------------------------------------------


def test_the_reward_is_the_verifiers_and_survives_a_pickle():
    reward = TaskScore({"chain_sum": {"seed": 2, "size": 6}}, InTag())
    again = pickle.loads(pickle.dumps(reward))
    answer = reward.entry("chain_sum", 5)["answer"]
    texts = [f"<answer> {answer} </answer>", answer, "<answer></answer>"]
    scores = again(texts, task=["chain_sum"] * 3, index=[5] * 3)
    assert scores == [1.0, 0.0, 0.0]
    start = texts[0].index(answer)
    assert reward.spans(texts)[:2] == [{"answer": [(start, start + len(answer))]}, {"answer": []}]


def test_an_unknown_task_of_a_row_is_told():
    reward = TaskScore({"chain_sum": {"seed": 2, "size": 6}})
    with pytest.raises(ValueError, match="task is 'gcd', expected one of chain_sum"):
        reward(["1"], task=["gcd"], index=[0])


def test_an_answer_on_which_the_verifier_raises_earns_nothing():
    reward = TaskScore({"prime_factorization": {"seed": 1, "size": 2}})
    right = reward.entry("prime_factorization", 0)["answer"]
    scores = reward([right, "as follows"], task=["prime_factorization"] * 2, index=[0, 0])
    assert scores == [1.0, 0.0]


def test_an_expression_without_end_costs_the_recipe_two_seconds(recipe):
    """The verifier of countdown evaluates what the model wrote."""
    script = recipe["TaskArguments"](task=["countdown"], task_size=4, test_prompts=1)
    task = recipe["make_task"](script, SimpleNamespace(seed=1), ModelConfig())
    [judge], endless = task.rewards, "9**9**9**9"
    scores = judge(completions=[endless, "1"], task=["countdown"] * 2, index=[0, 0])
    assert scores == [0.0, 0.05]  # reasoning-gym's mark for an expression of other numbers
    assert judge.last.timeouts == 1
    assert task.check(endless, task.test[0])["right"] == 0.0
