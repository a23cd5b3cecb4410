"""Tool calls are parsed, run and left out of the credit as in TRL."""

import functools
import json
import sys
from collections import deque

import pandas as pd
import pytest
from chat_model import save_chat_model
from datasets import Dataset
from harness import PROMPTS, ROUNDING, difference, run
from test_drop_in import TEMPLATE, add, chat_digits
from trl import GRPOConfig, GRPOTrainer

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.trainer.storable import logged_storably, storable

CALL = '<tool_call>\n{"name": "%s", "arguments": {"a": 3, "b": 4}}\n</tool_call>'
FIRST = [CALL % "add", "7", CALL % "subtract", "no"]  # of the members of a group


@pytest.fixture
def read(monkeypatch):
    """Write the completions, call and answer, and return what tools said before each answer."""
    read = []

    @functools.wraps(GRPOTrainer._generate_single_turn)
    def write(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        prompts = [self._tokenizer.decode(ids) for ids in prompt_ids]
        said = [p.partition("<tool_response>")[2].partition("</")[0].strip() for p in prompts]
        read.extend(filter(None, said))
        texts = [f"it is {s}{s}" if s else FIRST[i % 4] for i, s in enumerate(said)]
        end = [self._tokenizer.eos_token_id]
        return [self._tokenizer.encode(text) + end for text in texts], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write)
    return read


def train(trainer_class, config_class, folder, **options):
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS])
    arguments = {"rollout_func": None, "reward_funcs": chat_digits, "train_dataset": data,
                 "processing_class": None, "tools": [add]}  # fmt: skip
    return run(
        trainer_class, config_class, model=str(folder / "model"), arguments=arguments, max_steps=1,
        gradient_accumulation_steps=1, max_completion_length=300, loss_type="grpo",
        model_init_kwargs={"max_position_embeddings": 2048}, **options,
    )  # fmt: skip


def test_tool_calls_train_as_in_trl(read, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jmespath", None)  # which older versions of transformers need
    save_chat_model(tmp_path / "model", TEMPLATE)
    theirs = train(GRPOTrainer, GRPOConfig, tmp_path)
    seen = [*read]
    mine = train(CreditGRPOTrainer, CreditGRPOConfig, tmp_path)
    assert read == seen * 2
    assert set(seen) == {"7", "{'error': 'Tool subtract not found.'}"}
    assert difference(mine.gradients[0], theirs.gradients[0]) <= ROUNDING
    for log in (mine.logs[0], theirs.logs[0]):
        assert log["tools/call_frequency"] == 0.5
        assert log["tools/failure_frequency"] == 0.5


SHAPES = {
    "types": ['{"a": 3, "b": 4}', '{"a": "three", "b": [4]}'],
    "none": ["{}", "{}"],
    "alike": ['{"a": 3, "b": 4}', '{"a": 5, "b": 6}'],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_hold_whatever_tools_are_called_with(shape, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jmespath", None)
    save_chat_model(tmp_path / "model", TEMPLATE)
    call = '<tool_call>\n{{"name": "add", "arguments": {}}}\n</tool_call>'
    calls = [call.format(arguments) for arguments in SHAPES[shape]]

    @functools.wraps(GRPOTrainer._generate_single_turn)
    def write(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        texts = [self._tokenizer.decode(ids) for ids in prompt_ids]
        texts = ["7" if "<tool_response>" in t else calls[i % 2] for i, t in enumerate(texts)]
        end = [self._tokenizer.eos_token_id]
        return [self._tokenizer.encode(text) + end for text in texts], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write)
    out = tmp_path / "out"
    train(CreditGRPOTrainer, CreditGRPOConfig, tmp_path, credit="length", log_completions=True,
          output_dir=str(out))  # fmt: skip
    (told,) = (out / "completions").glob("*.parquet")
    table = pd.read_parquet(told)
    first = [c if isinstance(c, str) else list(c) for c in table["completion"]]
    assert all(isinstance(each, str) for each in first) == (shape != "alike")
    read = json.loads(first[1])[0] if shape != "alike" else first[1][0]
    assert read["tool_calls"][0]["function"]["arguments"] == json.loads(SHAPES[shape][1])
    assert len(list((out / "credit").glob("*.parquet"))) == 1


def test_what_parquet_cannot_hold_is_json_and_what_it_can_is_left():
    alike = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    assert storable(alike) == alike
    assert storable(["a", "b"]) == ["a", "b"]
    blocks = [[{"role": "user", "content": [{"type": "text", "text": "é"}]}]]
    assert storable([*alike[:1], *blocks]) == [
        '[{"role": "user", "content": "a"}]',
        '[{"role": "user", "content": [{"type": "text", "text": "é"}]}]',
    ]


def test_logs_are_as_they_were_after_a_log_and_after_a_failed_one():
    mixed = deque([[{"content": "a"}], [{"content": ["b"]}]], maxlen=2)
    logs = {"prompt": deque(["x", "y"]), "completion": mixed}
    with logged_storably(logs):
        assert logs["completion"] == ['[{"content": "a"}]', '[{"content": ["b"]}]']
    assert logs["completion"] is mixed

    def fail():
        with logged_storably(logs):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert logs["completion"] is mixed
