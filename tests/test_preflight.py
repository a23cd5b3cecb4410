"""The preflight through TRL's own machinery: what it names, and that it leaves no trace."""

import copy
import random
from itertools import groupby

import numpy as np
import pytest
import torch
from datasets import Dataset
from harness import TOKENIZER
from preflight_helpers import PROMPTS, trainer_of
from torchrun import launch
from transformers import TrainerCallback

from grpo_credit.credit.strategy import CreditError
from grpo_credit.preflight.draw import draw, how_many
from grpo_credit.preflight.verdict import NotFit, preflight, read_how
from rewards import TagFormat

GOOD = ["<answer>1</answer>", "no"]


def short(completions, **_):
    return [float(len(c) % 2) for c in completions]


def kinds(found):
    """Give all but what attacks are paid: the rewards here are made to be simple."""
    return {f.kind: f.severity for f in found if not f.kind.endswith(": attack")}


# ---- each kind of failure is named ------------------------------------------------------------


def test_a_healthy_run_is_told_nothing(capsys):
    assert preflight(trainer_of(TagFormat(("answer",), name="format"), GOOD)) == []
    out = capsys.readouterr().out
    assert "preflight: 4 prompts, 8 completions each" in out
    assert "nothing found that would keep it from learning" in out


THINK = TagFormat(("think", "answer"), prefilled=None, name="format")
ANSWER = TagFormat(("answer",), name="format")
OPENED = [f"{p}<think>" for p in PROMPTS]


def constant(completions, **_):
    return [1.0] * len(completions)


def right(completions, answers=None, **_):
    return [float(c in (answers or "")) for c in completions]


def broken(completions, **_):
    raise KeyError("answer")


def graded(completions, answer, **_):
    return short(completions)


NAMED = {  # what is wrong -> rewards, completions, options, findings, and what is said
    "a prefilled think": (
        THINK, ["so</think><answer>1</answer>"] * 3 + ["no"],
        {"prompts": OPENED, "max_completion_length": 64},
        {"reward format": "error", "reward format: prefilled tag": "error"},
        ["12 of 16 completions"],
    ),
    "a format that no completion can earn": (
        THINK, GOOD, {"prompts": OPENED},
        {"reward format": "error", "reward format: format": "error"}, ["end with <think>"],
    ),
    "special tokens left in": (
        ANSWER,
        ["<answer>1</answer>[/INST]", "<answer>1</answer>", "no", "<answer>1</answer>[/INST]"], {},
        {"special tokens": "warning", "reward format: special tokens left in": "error"},
        ["50% of the completions hold the text of a special token"],
    ),
    "a cap that truncates nine in ten": (
        short, [f"{i}" * (1 + i % 2) for i in range(10)],
        {"ends": [True] + [False] * 9, "max_completion_length": 2,
         "per_device_train_batch_size": 20},
        {"truncation": "error"},
        ["90% of the completions are cut off at max_completion_length=2",
         "--max_completion_length (say 8)"],
    ),
    "pairs of a reward at five percent": (
        short, ["1"] + ["22"] * 19, {"per_device_train_batch_size": 40, "num_generations": 2},
        {"dead groups": "warning", "batches": "note", "data": "error"}, ["num_generations=2"],
    ),
    "a constant reward, and no dead groups as well": (
        constant, GOOD, {}, {"reward constant": "error"}, ["constant: 1 for all 32 completions"],
    ),
    "a misspelt column": (
        right, GOOD, {"columns": {"answer": list("12345678")}},
        {"reward right": "error", "columns of right": "warning"}, ["Did you mean 'answer'?"],
    ),
    "a reward that raises, whose zeros are not believed, beside another": (
        [broken, short], ["a", "bb"], {}, {"reward broken": "error"},
        ["failed in 4 of 4 calls; the first time with KeyError: 'answer'",
         "rewards.guard(reward, on_error='wrong')"],
    ),
    "an empty column": (
        graded, ["a", "bb"], {"columns": {"answer": [""] * 8}}, {"columns of graded": "error"}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NAMED)
def test_what_is_wrong_is_named(what):
    rewards, texts, options, expected, told = NAMED[what]
    found = preflight(trainer_of(rewards, texts, **options))
    assert kinds(found) == expected
    assert all(phrase in " ".join(map(str, found)) for phrase in told)


def test_strict_stops_at_an_error_alone(capsys):
    trainer = trainer_of(constant, GOOD)
    with pytest.raises(NotFit, match=r"nothing was trained: reward constant\. --preflight auto"):
        preflight(trainer, strict=True)
    assert "error   reward constant: it is constant" in capsys.readouterr().out
    texts = ["1"] + ["22"] * 19
    pairs = trainer_of(
        short, texts, per_device_train_batch_size=40, num_generations=2, prompts=PROMPTS * 3
    )
    assert kinds(preflight(pairs, strict=True))["dead groups"] == "warning"


@pytest.mark.parametrize(("asked", "how"), [("auto", "auto"), (False, "off"), ("off", "off")])
def test_yaml_reads_off_as_false(asked, how):
    assert read_how(asked) == how


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="preflight is 'stict', expected one of auto, strict, off"):
        read_how("stict")


# ---- nothing is left behind -------------------------------------------------------------------


class Gradients(TrainerCallback):
    def __init__(self):
        self.found, self.logs = [], []

    def on_pre_optimizer_step(self, *_, model, **__):
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.found.append(torch.cat(grads).clone())

    def on_log(self, *_, logs, **__):
        timed = ("time", "runtime", "second")
        self.logs.append({k: v for k, v in logs.items() if not any(t in k for t in timed)})


def noisy(completions, log_metric, log_extra, **_):
    log_metric("noise", random.random())
    log_extra("extra", list(completions))
    return [random.random() + float(np.random.rand()) for _ in completions]  # noqa: NPY002


def trained(look: bool):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    trace = Gradients()
    trainer = trainer_of(noisy, callbacks=[trace], temperature=1.0, steps_per_generation=2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    if look:
        preflight(trainer)
    trainer.train()
    return trace


def test_training_goes_on_as_if_nobody_had_looked():
    looked, plain = trained(True), trained(False)
    assert len(plain.found) == 2
    for a, b in zip(looked.found, plain.found, strict=True):
        assert torch.equal(a, b)
    assert looked.logs == plain.logs


def test_a_trainer_is_left_as_it_was():
    trainer = trainer_of(short, temperature=1.0)
    before, contents = dict(vars(trainer)), copy.deepcopy(trainer._metrics)
    drawn = draw(trainer)
    assert len(drawn.lengths) == 32  # two generation batches
    assert vars(trainer) == before
    assert trainer._metrics == contents
    assert not trainer._logs["prompt"]
    assert trainer.state.num_input_tokens_seen == 0
    assert not trainer.model.training


def test_prompts_come_in_groups_of_the_size_that_the_trainer_is_told():
    seen = []  # vLLM generates num_generations completions of every num_generations-th prompt
    trainer = trainer_of(short, GOOD)
    inner = trainer.rollout_func

    def rollout(prompts, trainer):
        runs = [len(list(run)) for _, run in groupby(prompts)]
        seen.append((trainer.num_generations, runs))
        return inner(prompts, trainer)

    trainer.rollout_func = rollout
    assert draw(trainer).size == 8
    assert seen == [(8, [8, 8]), (8, [8, 8])]


def test_a_reward_model_is_asked_too():
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    judge = LlamaForSequenceClassification(config)
    judge.config._name_or_path = "judge"
    trainer = trainer_of(short, GOOD)
    trainer.reward_funcs, trainer.reward_func_names = [judge], ["judge"]
    trainer.reward_processing_classes = [TOKENIZER]
    [reward] = draw(trainer).rewards
    assert reward.calls == []
    assert len(set(reward.scores.tolist())) == 8  # 4 prompts, 2 different completions each


# ---- how many completions ---------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("group", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("groups", [1, 2, 5, 16, 100])
def test_a_sample_is_whole_groups_and_at_most_two_generation_batches(ranks, group, groups):
    generated = groups * group * ranks
    how = how_many(generated, ranks, group)
    drawn = how.calls * how.rows * ranks
    assert how.calls <= 2
    assert 0 < how.rows * ranks <= min(generated, 128)
    assert (how.rows * ranks) % how.size == 0  # TRL reshapes each call to groups
    assert drawn >= min(128, 2 * generated) / 2
    assert how.size >= 2


def test_two_processes_see_the_same_and_one_of_them_tells(tmp_path):
    said = launch(2, "preflight_two_processes.py", cwd=tmp_path)
    assert said.count("preflight: 4 prompts, 8 completions each") == 1
    assert said.count("the first time with RuntimeError: rank 1 only") == 1
    assert said.count("same on both") == 1


def test_a_stream_is_looked_at_and_then_read_from_its_start():
    stream = Dataset.from_dict({"prompt": PROMPTS[:3], "answer": [""] * 3}).to_iterable_dataset()
    trainer = trainer_of(graded, ["a", "bb"])
    trainer.train_dataset = stream
    assert kinds(preflight(trainer)) == {"columns of graded": "error"}
    assert next(iter(stream))["prompt"] == PROMPTS[0]


def test_empty_data_are_refused():
    trainer = trainer_of(short, ["a"])
    trainer.train_dataset = trainer.train_dataset.select([])
    with pytest.raises(CreditError, match="the training data are empty"):
        draw(trainer)
