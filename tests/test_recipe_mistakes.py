"""What a recipe refuses before anything is written, and what it takes an adapter to want."""

import json
import runpy
from pathlib import Path

import pytest
from chat_model import TEMPLATE, save_chat_model
from datasets import Dataset, DatasetDict
from transformers import TrainerState

from grpo_credit.run.data import check_prompts, is_blank, load_prompts
from grpo_credit.run.options import DataArguments
from grpo_credit.run.recipe import prepare
from grpo_credit.run.training import run_recipe
from grpo_credit.trainer.model_card import step_of

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    save_chat_model(folder / "model")
    rows = [json.dumps({"prompt": f"{i}?"}) for i in range(20)]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    return folder


def recipe(name):
    return runpy.run_path(str(RECIPES / name))["RECIPE"]


def refused(name, folder, monkeypatch, capsys, *options):
    """Return what a recipe says when it refuses; it must leave nothing behind."""
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    asked = recipe(name)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_recipe(asked, ["--output_dir=out", *options])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"{name}: error: ")
    assert set(folder.iterdir()) == before
    return err


# ---- options ----------------------------------------------------------------------------------


MATH = ["--dataset_name=prompts.jsonl", "--model_name_or_path=model"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("path_star", ["--test_prompts=0"], "--test_prompts is 0, expected 1 or more."),
        ("path_star", ["--test_samples=0"], "--test_samples is 0, expected 1 or more."),
        ("path_star", ["--test_every=-1"], "--test_every is -1, expected 0 or more."),
        ("path_star", ["--degree=3", "--length=5"],
         "nodes is 12, expected 13 or more: a source and 3 arms of 4 nodes"),
        ("path_star", ["--warm_start_steps=0"], "--warm_start_steps is 0, expected 1 or more."),
        ("path_star", ["--plan_share=2"], "--plan_share is 2.0, expected a number from 0 to 1."),
        ("path_star", ["--objective=mpt"],
         "--objective is 'mpt', expected one of next_token, teacherless, hybrid, mtp, top, rever"),
        ("path_star", ["--objective=mtp", "--plan_share=0.1"],
         "--plan_share is of --objective=next_token, but the objective is 'mtp', whose lessons"),
        ("path_star", ["--objective=mtp", "--model_name_or_path=mine"],
         "--objective is of the tiny model, but --model_name_or_path is 'mine', which is alread"),
        ("path_star", ["--max_completion_length=3"],
         "--max_completion_length is 3, expected 8 or more: a planned path of 3 nodes and the end"),
        ("regex", MATH[1:], "--pattern is missing"),
        ("regex", [*MATH[1:], "--pattern=x"], "--dataset_name is missing"),
        ("math", [*MATH, "--judge=eye"], "--judge is 'eye', expected one of num"),
        ("math", [*MATH, "--question_column=prompt"],
         "prompts.jsonl has no column 'answer'; it has: prompt."),
        ("math", MATH[:1], "--model_name_or_path is missing; any chat model will do."),
        ("tasks", ["--task", "spel_backward"], "no task 'spel_backward'; did you mean 'spell_bac"),
        ("tasks", ["--task_options={"], "--task_options is not JSON: "),
        ("tasks", ["--task_options=5"], "--task_options is 5, expected options by task, such as"),
        ("tasks", ['--task_options={"spell_backward": 3}'], ", expected options by task, such as"),
        ("tasks", ['--task_options={"gcd": {}}'],
         "--task_options names 'gcd', which --task does not."),
        ("tasks", ['--task_options={"spell_backward": {"words": 1}}'],
         "options of 'spell_backward' do not"),
        ("tasks", ["--task", "chain_sum", '--task_options={"chain_sum": {"max_terms": 2}}'],
         "entries are left to test on, 64 are asked for"),
    ],
)  # fmt: skip
def test_an_option_that_will_not_do_is_told(name, options, message, own, monkeypatch, capsys):
    monkeypatch.setenv("GRPO_CREDIT_CACHE", str(own / "cache"))
    assert message in refused(f"grpo_{name}.py", own, monkeypatch, capsys, *options)


def test_a_recipe_names_its_held_out_numbers_before_it_runs():
    names = recipe("grpo_path_star.py").check(["--test_samples=2"])
    assert names[:3] == ["pass@1", "mean@2", "pass@2"]
    assert "token 1 (sampled)" in names


def test_yaml_that_is_none_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.yaml").write_text("learning_rate: [1\n")
    err = refused("grpo_path_star.py", tmp_path, monkeypatch, capsys, "--config=bad.yaml")
    assert "bad.yaml is no YAML: while parsing a flow sequence" in err


def test_data_of_which_nothing_would_be_trained_are_refused(own, monkeypatch, capsys):
    """Without the refusal the run ends at once and says that it is finished."""
    options = ["--model_name_or_path=model", "--dataset_name=prompts.jsonl", "--pattern=a",
               "--num_generations=2", "--per_device_train_batch_size=64"]  # fmt: skip
    err = refused("grpo_regex.py", own, monkeypatch, capsys, *options, "--preflight=off")
    assert "the data have 16 prompts and one generation takes" in err
    assert "so nothing is trained. Use more prompts, or lower per_device_train_batch_size" in err


@pytest.mark.parametrize(
    ("options", "rate"),
    [([], 3e-4), (["--use_peft"], 3e-3), (["--use_peft=false"], 3e-4), (["--use_peft", "no"], 3e-4),
     (["--use_peft", "--learning_rate=1e-4"], 1e-4), (["--config=off.yaml"], 3e-4),
     (["--config=off.yaml", "--use_peft"], 3e-3)],
)  # fmt: skip
def test_only_an_adapter_gets_ten_times_the_learning_rate(options, rate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "off.yaml").write_text("use_peft: false\n")
    assert prepare(recipe("grpo_path_star.py"), options).args.learning_rate == rate


def test_an_adapter_of_your_own_model_learns_faster_than_the_model(own, monkeypatch):
    monkeypatch.chdir(own)
    options = ["--model_name_or_path=model", "--dataset_name=prompts.jsonl", "--pattern=a"]
    asked = prepare(recipe("grpo_regex.py"), [*options, "--use_peft"])
    assert (asked.args.learning_rate, asked.model_args.lora_target_modules) == (1e-5, "all-linear")
    assert prepare(recipe("grpo_regex.py"), options).args.learning_rate == 1e-6


# ---- data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "prompts.jsonl is empty; expected rows of prompts."),
        (b'{"prompt": "a"}\n{"prompt": \n', "prompts.jsonl:2 is not valid JSON"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "prompts.jsonl:2 is not UTF-8: invalid start b"),
        (
            b'{"prompt": "a"}\n',
            "has 1 rows with 1 different values of 'prompt', expected 2 or more",
        ),
    ],
)
def test_a_file_without_rows_is_told(text, message, tmp_path):
    (tmp_path / "prompts.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        load_prompts(DataArguments(dataset_name=str(tmp_path / "prompts.jsonl")))


def test_prompts_of_two_kinds_are_refused(tmp_path):
    """TRL looks at the first row alone, and would train on what the others are not."""
    rows = [f"{i}?" for i in range(20)]
    rows[7] = [{"role": "user", "content": "7?"}]
    text = "\n".join(json.dumps({"prompt": prompt}) for prompt in rows)
    (tmp_path / "prompts.jsonl").write_text(text)
    train, test = load_prompts(DataArguments(dataset_name=str(tmp_path / "prompts.jsonl")))
    with pytest.raises(ValueError, match="some prompts are texts and some are conversations"):
        check_prompts(train, test)


ROWS = [{"question": f"{i}?", "answer": f"so\n#### {i}"} for i in range(20)]


def with_gaps(column, value, rows):
    return [row | ({column: value} if i in rows else {}) for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("column", "value", "rows", "told"),
    [
        ("answer", None, [4], "1 of 20 rows without 'answer': 4 (the first row is 0)"),
        ("answer", "so\n#### ", [7, 0], "2 of 20 rows without 'answer': 0, 7 (the"),
        ("question", " \n", range(2, 9), "7 of 20 rows without 'question': 2, 3, 4, 5, 6, … (the"),
    ],
)
def test_rows_without_a_question_or_an_answer_are_told(
    column, value, rows, told, own, tmp_path, monkeypatch, capsys
):
    Dataset.from_list(with_gaps(column, value, rows)).to_json(tmp_path / "gaps.jsonl")
    options = [f"--model_name_or_path={own / 'model'}", "--dataset_name=gaps.jsonl"]
    err = refused("grpo_math.py", tmp_path, monkeypatch, capsys, *options)
    assert f"gaps.jsonl has {told}" in err
    assert "Fill them in, or leave these rows out." in err


def test_rows_without_an_answer_are_told_of_the_test_split_too(own, tmp_path, monkeypatch, capsys):
    gaps = with_gaps("answer", None, [19])  # more rows than are tested on
    splits = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(gaps)}
    DatasetDict(splits).save_to_disk(str(tmp_path / "data"))
    options = [f"--model_name_or_path={own / 'model'}", "--dataset_name=data", "--test_prompts=2"]
    err = refused("grpo_math.py", tmp_path, monkeypatch, capsys, *options)
    assert "data[test] has 1 of 20 rows without 'answer': 19 (the first row is 0)." in err


def test_answers_that_are_no_numbers_are_told(own, tmp_path, monkeypatch, capsys):
    options = [f"--model_name_or_path={own / 'model'}", "--dataset_name=data.jsonl"]
    Dataset.from_list(with_gaps("answer", "x/2", range(20))).to_json(tmp_path / "data.jsonl")
    err = refused("grpo_math.py", tmp_path, monkeypatch, capsys, *options)
    assert "16 of 16 answers are no single number, such as 'x/2': there the reward" in err
    Dataset.from_list(with_gaps("answer", "#### n", range(10))).to_json(tmp_path / "data.jsonl")
    prepare(recipe("grpo_math.py"), [*options, "--gradient_accumulation_steps=1"])
    err = capsys.readouterr().err
    assert "note: 8 of 16 answers are no single number, such as 'n': there" in err
    assert err.count("\n") == 1  # of the ten two are held out


def test_a_data_set_of_several_configurations_wants_one_named(own, monkeypatch, capsys):
    for name in "ab":
        (own / "several").mkdir(exist_ok=True)
        (own / "several" / f"{name}.jsonl").write_text('{"prompt": "1?"}\n{"prompt": "2?"}\n')
    configs = [f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in "ab"]
    (own / "several" / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    options = ["--model_name_or_path=model", "--dataset_name=several", "--pattern=a"]
    err = refused("grpo_regex.py", own, monkeypatch, capsys, *options)
    assert "Please pick one among the available configs: ['a', 'b']" in err
    assert err.endswith("(--dataset_name several, --dataset_config)\n")


@pytest.mark.parametrize("name", ["grpo_math.py", "grpo_tasks.py"])
def test_a_template_that_knows_no_system_message_is_told(name, own, monkeypatch, capsys):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    save_chat_model(own / "strict", refusal + TEMPLATE)
    Dataset.from_list(ROWS).to_json(own / "rows.jsonl")
    data = ["--dataset_name=rows.jsonl"] if name == "grpo_math.py" else ["--task_size=8"]
    options = ["--model_name_or_path=strict", "--gradient_accumulation_steps=1", *data]
    err = refused(name, own, monkeypatch, capsys, *options)
    assert "template of 'strict' refuses the prompts (roles: system, user): No system!. Take" in err
    if name == "grpo_math.py":
        assert prepare(recipe(name), [*options, "--system_prompt="]).task.test


USER, SYSTEM = {"role": "user", "content": " "}, {"role": "system", "content": "Be brief."}
IMAGE = {"role": "user", "content": [{"type": "image", "text": None}]}


@pytest.mark.parametrize(
    ("value", "blank"),
    [(None, True), ("", True), ("\t", True), ([], True), ([USER], True), ([SYSTEM, USER], True),
     (float("nan"), True), (0, False), ("0", False), ([SYSTEM], False), ([IMAGE], False),
     ([USER, {"role": "user", "content": "Hi"}], False)],
)  # fmt: skip
def test_what_says_nothing_is_blank(value, blank):
    assert is_blank(value) == blank


@pytest.mark.parametrize("prompt", [3, None, "", []])
def test_a_prompt_that_is_no_text_is_told(prompt):
    with pytest.raises(ValueError, match="expected a text or a list of messages"):
        check_prompts([{"prompt": prompt}], [{"prompt": "a"}])
    with pytest.raises(ValueError, match="expected a text or a list of messages"):
        check_prompts([{"prompt": "a"}], [{"prompt": prompt}])


def test_data_without_prompts_are_told():
    with pytest.raises(ValueError, match="no prompts to train on; the data are empty"):
        check_prompts([], [{"prompt": "a"}])
    with pytest.raises(ValueError, match="no prompts to test on; the test data are empty"):
        check_prompts([{"prompt": "a"}], [])


def test_what_is_trained_on_is_not_tested_on_though_the_splits_have_one_name(own):
    data = str(own / "prompts.jsonl")
    asked = DataArguments(dataset_name=data, dataset_test_split="train", test_prompts=4)
    train, test = load_prompts(asked)
    assert (len(train), len(test)) == (16, 4)
    assert not {row["prompt"] for row in test} & set(train["prompt"])


def test_rows_to_test_on_are_drawn_from_the_whole_test_split(tmp_path):
    """A sorted split: its first rows may be its easy ones. In every process they are these."""
    write_splits(tmp_path, [f"{i}?" for i in range(50)], [f"test {i:03}" for i in range(1000)])
    _, test = load_prompts(DataArguments(dataset_name=str(tmp_path / "data"), test_prompts=8))
    drawn = [864, 394, 776, 911, 430, 41, 265, 988]
    assert [row["prompt"] for row in test] == [f"test {i:03}" for i in drawn]


def test_a_question_that_is_trained_on_is_not_tested_on(tmp_path):
    write_splits(tmp_path, ["a", "b", "c"], ["c", "d", "d", "b", "e"])
    _, test = load_prompts(DataArguments(dataset_name=str(tmp_path / "data")))
    assert sorted(row["prompt"] for row in test) == ["d", "e"]


def test_a_test_split_of_questions_that_are_trained_on_is_refused(tmp_path):
    write_splits(tmp_path, ["a", "b", "c"], ["c", "a"])
    asked = DataArguments(dataset_name=str(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"every 'prompt' of .*\[test\] is one to train on, too;"):
        load_prompts(asked)


def test_a_question_that_is_held_out_leaves_training_with_all_its_rows(tmp_path):
    rows = [{"prompt": f"{i % 10}?"} for i in range(100)]
    Dataset.from_list(rows).to_json(tmp_path / "data.jsonl")
    asked = DataArguments(dataset_name=str(tmp_path / "data.jsonl"), test_prompts=64)
    train, test = load_prompts(asked)
    assert len({row["prompt"] for row in test}) == len(test) == 2  # a fifth of ten questions
    assert len(train) == 80
    assert not {row["prompt"] for row in test} & set(train["prompt"])


def write_splits(folder, train, test):
    named = {"train": train, "test": test}
    splits = {k: Dataset.from_list([{"prompt": p} for p in v]) for k, v in named.items()}
    DatasetDict(splits).save_to_disk(str(folder / "data"))


# ---- the end ----------------------------------------------------------------------------------


def test_the_numbers_after_training_are_those_of_the_model_that_is_kept():
    class Trainer:
        class args:
            load_best_model_at_end = True

        state = TrainerState(
            global_step=80, best_global_step=40, best_model_checkpoint="checkpoint-40"
        )

    assert step_of(Trainer) == 40
    Trainer.args.load_best_model_at_end = False
    assert step_of(Trainer) == 80
