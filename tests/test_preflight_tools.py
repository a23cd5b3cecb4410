"""What a preflight says of tools, by TRL's own loop."""

import functools
import sys
import time

import pytest
from chat_model import save_chat_model
from datasets import Dataset
from harness import PROMPTS
from test_drop_in import TEMPLATE, add
from trl import GRPOConfig, GRPOTrainer

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.preflight.tool_use import ToolUse, check_tools, joined
from grpo_credit.preflight.verdict import preflight

CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
RIGHT = CALL.format("add", '{"a": 3, "b": 4}')
WRONG = CALL.format("add", '{"a": "three", "b": [4]}')


def wait(a: int, b: int) -> int:
    """Add two numbers, and take long over it.

    Args:
        a: one.
        b: the other.

    Returns:
        The sum.
    """
    time.sleep(0.6)
    return a + b


def found(monkeypatch, folder, texts, tools=(add,), config=CreditGRPOConfig, **options):
    """Return kind -> finding, of completions that begin with `texts` and go on with "7"."""
    monkeypatch.setitem(sys.modules, "jmespath", None)
    model = save_chat_model(folder / "model", TEMPLATE)

    @functools.wraps(GRPOTrainer._generate_single_turn)
    def write(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        asked = [self._tokenizer.decode(ids) for ids in prompt_ids]
        again = texts[0] if options.get("max_tool_calling_iterations") else "7"
        written = [
            again if "<tool_response>" in text else texts[i % len(texts)]
            for i, text in enumerate(asked)
        ]
        end = [self._tokenizer.eos_token_id]
        return [self._tokenizer.encode(text) + end for text in written], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write)
    args = config(**{
        "output_dir": str(folder / "out"), "use_cpu": True, "bf16": False, "report_to": [],
        "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 400,
        "model_init_kwargs": {"max_position_embeddings": 2048}, "max_steps": 1,
        "gradient_checkpointing": False, "disable_tqdm": True, **options,
    })  # fmt: skip
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS])
    kind = CreditGRPOTrainer if config is CreditGRPOConfig else GRPOTrainer
    reward = lambda completions, **_: [float(i % 2) for i in range(len(completions))]  # noqa: E731
    trainer = kind(str(model), reward, args, data, tools=[*tools])
    return {finding.kind: finding for finding in preflight(trainer)}


def test_calls_that_work_are_told_nothing_of(monkeypatch, tmp_path):
    kinds = found(monkeypatch, tmp_path, [RIGHT, "7"])
    assert not [kind for kind in kinds if kind.startswith("tools")]


@pytest.mark.parametrize("config", [CreditGRPOConfig, GRPOConfig])
def test_calls_that_always_fail_are_an_error(config, monkeypatch, tmp_path):
    told = found(monkeypatch, tmp_path, [WRONG], config=config)["tools: failing"]
    assert told.severity == "error"
    assert "8 of 8 calls" in told.message
    assert "{'error':" in told.message


def test_a_tool_that_is_never_called(monkeypatch, tmp_path):
    told = found(monkeypatch, tmp_path, ["it is 7"])["tools: never called"]
    assert told.severity == "warning"
    assert "none of the 8 completions calls a tool; offered: add" in told.message


def test_turns_that_are_used_up(monkeypatch, tmp_path):
    told = found(monkeypatch, tmp_path, [RIGHT], max_tool_calling_iterations=1)
    assert "100% of the completions end in a call that is not run" in (
        told["tools: turns used up"].message
    )


def test_an_answer_that_is_left_out_for_its_length_is_truncation(monkeypatch, tmp_path):
    told = found(monkeypatch, tmp_path, [RIGHT], max_completion_length=60)  # the call alone fits
    assert "100% of the completions are cut off" in told["truncation"].message


def test_a_slow_tool_is_named(monkeypatch, tmp_path):
    told = found(monkeypatch, tmp_path, [CALL.format("wait", '{"a": 1, "b": 2}'), *"777"], [wait])
    assert "a call of wait takes 0.6 s" in told["tools: slow"].message


def test_ranks_are_added():
    one, two = ToolUse(["add"], 4), ToolUse(["add"], 4)
    one.calls["add"] = two.calls["add"] = 2
    two.failed["add"], two.error = 2, "{'error': 'x'}"
    (told,) = check_tools(joined([one, two]))
    assert (told.severity, told.kind) == ("warning", "tools: failing")
    assert "2 of 4 calls" in told.message
    assert joined([None, None]) is None


def test_a_tool_that_always_fails_beside_one_that_works_is_named():
    use = ToolUse(["add", "search"], 8)
    use.calls.update({"add": 4, "search": 4})
    use.failed["search"], use.error = 4, "{'error': 'offline'}"
    (told,) = check_tools(use)
    assert (
        "4 of 8 calls come back with an error, such as {'error': 'offline'}. Always: search."
        in (told.message)
    )
