"""Dialogues outside of training: TRL's own loop, new environments, and a trainer left as it was."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
import torch
from chat_model import save_chat_model
from datasets import Dataset
from tool_script import TEMPLATE, call, script, tool_run
from torchrun import launch

from grpo_credit import CreditError, CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.run.evaluation import measure, measure_dialogues
from grpo_credit.trainer import collector
from grpo_credit.trainer.completing import TurnSeededLLM
from grpo_credit.trainer.playing import last_text, play
from grpo_credit.trainer.privileged import observed

ROWS = [{"prompt": [{"role": "user", "content": f"{n}?"}], "word": f"w{n}"} for n in range(4)]
LOOKS = ((call("look", pay=1), call("look", pay=0), "ok 7"), ("no",))


class Room:
    """An environment that says a column's word when it begins."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.steps = []

    def reset(self, word="none", **_):
        self.steps = []
        return f" {word}"

    def look(self, pay: float) -> str:
        """Look.

        Args:
            pay: What it pays.
        """
        self.steps.append(pay)
        return "dark"


def half(n: int) -> int:
    """Halve.

    Args:
        n: An even number.
    """
    return n // 2


def never(**_):
    raise AssertionError("a reward was asked")


def make(folder, tokens=300, **loop):
    if not (folder / "model").exists():
        save_chat_model(folder / "model", TEMPLATE)
    args = CreditGRPOConfig(
        str(folder / "out"), per_device_train_batch_size=4, num_generations=2, use_cpu=True,
        max_completion_length=tokens, report_to=[], credit="seq", max_steps=1,
        model_init_kwargs={"max_position_embeddings": 2048},
    )  # fmt: skip
    return CreditGRPOTrainer(
        str(folder / "model"), never, args, train_dataset=Dataset.from_list(ROWS), **loop
    )


def everything(messages, row, environment):
    return messages, row["word"], environment and list(environment.steps)


def test_dialogues_are_played_to_their_end(monkeypatch, tmp_path):
    trainer = make(tmp_path, environment_factory=Room)
    script(monkeypatch, *LOOKS)
    told = play(trainer, [*ROWS, *ROWS[:2]], everything)
    assert [word for _, word, _ in told] == ["w0", "w1", "w2", "w3", "w0", "w1"]
    assert [steps for *_, steps in told] == [[1, 0], []] * 3
    roles = [message["role"] for message in told[0][0]]
    assert roles == ["assistant", "tool", "assistant", "tool", "assistant"]
    prompts = [row["prompt"] for row in ROWS]
    assert trainer.complete(prompts) == ["ok 7", "no"] * 2
    assert trainer.complete([]) == []


def test_a_trainer_is_as_it_was(monkeypatch, tmp_path):
    trainer = make(tmp_path, environment_factory=Room)
    script(monkeypatch, *LOOKS)
    pools = {name: list(pool) for name, pool in trainer._environment_pool.items()}
    before, logs = dict(vars(trainer)), copy.deepcopy((trainer._metrics, trainer._logs))
    drawn = random.getstate(), torch.get_rng_state()
    made = Room.made
    play(trainer, ROWS, everything)
    assert Room.made > made
    assert {name: list(pool) for name, pool in trainer._environment_pool.items()} == pools
    assert all(vars(trainer)[name] is value for name, value in before.items())
    assert vars(trainer).keys() == before.keys()
    assert (trainer._metrics, trainer._logs) == logs
    assert random.getstate() == drawn[0]
    assert torch.equal(torch.get_rng_state(), drawn[1])
    with pytest.raises(ZeroDivisionError):
        play(trainer, ROWS, lambda *_: 1 / 0)
    assert vars(trainer).keys() == before.keys()


def test_a_subclass_plays_as_it_trains(monkeypatch, tmp_path):
    trainer = make(tmp_path, environment_factory=Room)
    script(monkeypatch, *LOOKS)
    watched = vars(trainer._turns).copy()

    class Shouting(type(trainer)):
        def _generate(self, prompts):
            output = list(super()._generate(prompts))
            for messages in output[3]:
                messages[-1]["content"] = messages[-1]["content"].upper()
            return tuple(output)

    trainer.__class__ = Shouting
    assert play(trainer, ROWS, last_text) == ["OK 7", "NO"] * 2
    assert vars(trainer._turns) == watched


def test_a_seed_names_the_draws_and_the_likeliest_need_none(tmp_path):
    trainer = make(tmp_path, 12, tools=[half])
    prompts = [row["prompt"] for row in ROWS]
    first = trainer.complete(prompts, seed=1)
    assert trainer.complete(prompts, seed=1) == first
    assert trainer.complete(prompts, seed=2) != first
    greedy = trainer.complete(prompts, greedy=True)
    assert trainer.complete(prompts, greedy=True, seed=5) == greedy
    assert greedy != first


def said_of(trainer, rows):
    return [play(trainer, rows * 2, last_text, seed=1), play(trainer, rows, last_text, greedy=True)]


@pytest.mark.slow
def test_two_processes_play_what_one_plays_and_both_are_told(tmp_path):
    one = said_of(make(tmp_path, 12, tools=[half]), ROWS)
    launch(2, "playing_two_processes.py", tmp_path)
    assert json.loads((tmp_path / "told.json").read_text()) == [one, one]


def test_held_out_numbers_are_of_dialogues(monkeypatch, tmp_path):
    trainer = make(tmp_path, environment_factory=Room)
    script(monkeypatch, *LOOKS)
    numbers = measure(trainer, ROWS, lambda text, row: {"right": float(text == "ok 7")}, 2)
    assert (numbers["pass@1"], numbers["mean@2"]) == (0.5, 0.5)
    seen = measure_dialogues(
        trainer, ROWS, lambda _, row, room: {"right": float(sum(room.steps)), "n": 1.0}, 2
    )
    assert seen == {"pass@1": 0.5, "mean@2": 0.5, "pass@2": 0.5, "n (greedy)": 1.0,
                    "n (sampled)": 1.0}  # fmt: skip


def test_what_cannot_be_played_is_refused_by_name(tmp_path):
    trainer = make(tmp_path, tools=[half])
    with pytest.raises(CreditError, match=r"prompt 0 is '1\+1=', expected a list of messages"):
        trainer.complete(["1+1="])
    trainer.rollout_func = print
    with pytest.raises(CreditError, match="this trainer's rollout_func takes its place"):
        play(trainer, ROWS, last_text)


def test_vllm_draws_each_turn_of_each_row_by_its_own_seed():
    seen = []
    llm = SimpleNamespace(
        generate=lambda prompts, sampling_params: seen.append([s.seed for s in sampling_params])
    )
    for seed in (3, 3, 4):
        engine = TurnSeededLLM(llm, seed)
        engine.generate(["a", "b", "c"], SimpleNamespace(seed=None))
        engine.generate(["a"], SimpleNamespace(seed=None))
    assert seen[:2] == seen[2:4]
    assert not {*seen[0], *seen[1]} & {*seen[4], *seen[5]}
    assert len({*seen[0], *seen[1]}) == 4


# ---- what an environment said before the first turn --------------------------------------------


def said(content):
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("prompt", "own", "seen", "content"),
    [
        ("P", "Q", "Q see", "P see"),
        ("P", "Q", "Q", "P"),
        ("P", None, "see", "Psee"),
        ([{"type": "text", "text": "P"}], "Q", "Qs", [{"type": "text", "text": "P"},
                                                      {"type": "text", "text": "s"}]),
        ("P", "Q", [{"type": "text", "text": "Q"}, "s"], [{"type": "text", "text": "P"}, "s"]),
        ("P", ["Q", "R"], ["Q", "R", "s"], [{"type": "text", "text": "P"}, "s"]),
    ],
)  # fmt: skip
def test_a_privileged_prompt_gets_what_the_environment_said(prompt, own, seen, content):
    assert observed(said(prompt), own and said(own), said(seen)) == said(content)


def test_contrast_scores_after_what_was_seen(monkeypatch, tmp_path):
    asked, score = [], collector.privileged_logps

    def listen(host, *given):
        tokenize = host._tokenize_prompts

        def note(prompts):
            asked.extend(prompts)
            return tokenize(prompts)

        monkeypatch.setattr(host, "_tokenize_prompts", note)
        return score(host, *given)

    monkeypatch.setattr(collector, "privileged_logps", listen)
    script(monkeypatch, *LOOKS)
    data = [{**ROWS[0], "privileged_prompt": said("The answer is ok 7. 0?")}]
    tool_run(
        tmp_path, lambda completions, **_: [1.0, 0.0] * (len(completions) // 2), "contrast/seq",
        environment_factory=Room, train_dataset=Dataset.from_list(data),
    )  # fmt: skip
    assert asked == [said("The answer is ok 7. 0? w0")] * 4
