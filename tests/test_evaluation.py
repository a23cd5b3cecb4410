"""Held-out numbers: what they mean, and that they are kept."""

import json

import pytest
from transformers import TrainerState

from grpo_credit.run.evaluation import HeldOut, falls_while_reward_rises, measure, measured

ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+3=", "answer": "5"}]


class Scripted:
    """Completes "1+1=" with 2 always, "2+3=" with 5 at the second sample alone."""

    calls = 0

    def __init__(self, rewards=None):
        log = [{"loss": 0.0, "reward": reward, "step": n} for n, reward in (rewards or {}).items()]
        silent = [{"eval_loss": 0.0, "step": 4}, {"reward": None, "step": 2}]
        self.state = TrainerState(log_history=[*log, *silent])

    def complete(self, prompts, *, greedy=False, seed=0):
        self.calls += 1
        if greedy:
            return ["2", "44"]
        return ["2", "7", "2", "5", "2", "888"]  # prompts in order, then again, and again


def check(completion, row):
    return {"right": float(completion == row["answer"]), "digits": float(completion.isdigit())}


def test_the_names_of_the_numbers_are_known_before_anything_is_measured():
    verdict = check("", ROWS[0])
    assert sorted(measured(verdict, 3)) == sorted(measure(Scripted(), ROWS, check, samples=3))
    del verdict["right"]
    assert measured(verdict, 3) == ["digits (greedy)", "digits (sampled)"]


def test_means_are_over_completions_and_pass_at_k_over_prompts():
    assert measure(Scripted(), ROWS, check, samples=3) == pytest.approx(
        {
            "pass@1": 1 / 2,
            "mean@3": 4 / 6,
            "pass@3": 1.0,
            "characters, right": 1.0,
            "characters, wrong": (1 + 3) / 2,
            "digits (greedy)": 1.0,
            "digits (sampled)": 1.0,
        }
    )


def test_the_samples_of_a_prompt_are_those_at_its_place_in_each_round():
    class Rounds:
        def complete(self, prompts, *, greedy=False, seed=0):
            return ["2", "9"] * (
                len(prompts) // 2
            )  # the first prompt always right, the second never

    assert measure(Rounds(), ROWS, check, samples=4)["pass@4"] == 1 / 2


def test_a_checker_without_a_right_answer_has_no_pass_rates():
    found = measure(Scripted(), ROWS, lambda c, _: {"digits": 1.0}, samples=3)
    assert set(found) == {"digits (greedy)", "digits (sampled)"}


def test_what_is_said_of_some_completions_is_averaged_over_these():
    def named(completion, row):
        return {"named": float(completion == "2")} if row["answer"] == "5" else {}

    # of "2+3=": greedy 44; sampled 7, 5, 888
    assert measure(Scripted(), ROWS, named, 3) == {"named (greedy)": 0.0, "named (sampled)": 0.0}
    rows = ROWS[::-1]  # of the first place: greedy 2; sampled 2, 2, 2
    assert measure(Scripted(), rows, named, 3) == {"named (greedy)": 1.0, "named (sampled)": 1.0}


def test_all_wrong_has_no_length_of_right_answers():
    found = measure(Scripted(), ROWS, lambda c, _: {"right": 0.0}, samples=3)
    assert found["pass@3"] == 0.0
    assert "characters, right" not in found


def test_what_was_measured_is_read_from_the_file(tmp_path):
    held_out = HeldOut(tmp_path / "held_out.jsonl", ROWS, check, "mean@3", 3, every=2)
    held_out.trainer = Scripted()
    first = held_out.at(0)
    assert held_out.at(0) == first
    assert held_out.trainer.calls == 2  # greedy and sampled, once
    for step in range(1, 5):
        held_out.on_step_end(None, type("State", (), {"global_step": step}), None)
    lines = [json.loads(line) for line in held_out.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]


def test_a_torn_last_line_is_measured_again(tmp_path):
    path = tmp_path / "held_out.jsonl"
    path.write_text('{"step": 0, "pass@1": 0.25}\n{"step": 2, "pa')
    held_out = HeldOut(path, ROWS, check, "mean@3", 3, every=2)
    assert held_out.at(0) == {"pass@1": 0.25}


def test_an_evaluation_of_the_trainer_gets_the_numbers(tmp_path):
    held_out = HeldOut(tmp_path / "held_out.jsonl", ROWS, check, "mean@3", 3)
    held_out.trainer = Scripted()
    metrics = {"eval_loss": 0.0}
    held_out.on_evaluate(None, type("State", (), {"global_step": 4}), None, metrics)
    assert metrics["eval_mean@3"] == pytest.approx(4 / 6)


# ---- a reward that rises is not a model that is better -----------------------------------------


UP = {1: 0.2, 2: 0.2, 3: 0.6, 4: 0.6}


def test_a_fall_beyond_noise_under_a_rising_reward_is_told():
    # two standard errors of 0.5 over 100 prompts are 0.1
    said = falls_while_reward_rises({0: 0.3, 2: 0.5, 4: 0.39}, UP, "mean@4", 100)
    assert "the reward rises (0.200 to 0.600) while the held-out 'mean@4' falls: 0.500" in said
    assert "0.390 at step 4" in said


@pytest.mark.parametrize(
    ("values", "rewards", "prompts"),
    [
        ({0: 0.3, 2: 0.5, 4: 0.41}, UP, 100),  # within noise
        ({0: 0.3, 2: 0.5, 4: 0.39}, UP, 50),  # within the noise of fewer prompts
        ({0: 0.3, 2: 0.5, 4: 0.39}, {1: 0.6, 2: 0.6, 3: 0.2, 4: 0.2}, 100),  # so does the reward
        ({0: 0.3, 2: 0.5, 4: 0.6}, UP, 100),
        ({0: 0.3}, UP, 100),
        ({0: 0.5, 4: 0.1}, {}, 100),
    ],
)
def test_anything_else_is_not(values, rewards, prompts):
    assert falls_while_reward_rises(values, rewards, "mean@4", prompts) is None


def test_the_warning_comes_once(tmp_path, caplog):
    held_out = HeldOut(tmp_path / "held_out.jsonl", ROWS * 50, check, "pass@1", 3)
    held_out.trainer = Scripted(UP)
    for last in (0.2, 0.1):
        held_out._warn([{"step": 2, "pass@1": 0.5}, {"step": 4, "pass@1": last}])
    assert len([r for r in caplog.records if "the reward rises" in r.message]) == 1


def test_a_resumed_run_compares_with_the_rewards_before_it(tmp_path, caplog):
    before = Scripted({1: 0.2, 2: 0.2, 3: 0.6})
    before.state.save_to_json(tmp_path / "trainer_state.json")  # as a checkpoint does
    resumed = Scripted()
    resumed.state = TrainerState.load_from_json(tmp_path / "trainer_state.json")
    resumed.state.log_history.append({"reward": 0.6, "step": 4})
    held_out = HeldOut(tmp_path / "held_out.jsonl", ROWS * 50, check, "pass@1", 3)
    held_out.trainer = resumed
    held_out._warn([{"step": 2, "pass@1": 0.5}, {"step": 4, "pass@1": 0.1}])
    assert "the reward rises (0.200 to 0.600)" in caplog.text
