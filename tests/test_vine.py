"""Continuations in training: what they are, what they cost, and what they leave alone."""

import statistics

import pytest
import torch
from chat_model import save_chat_model
from datasets import Dataset, IterableDataset
from harness import LONGEST, PROMPTS, TOKENIZER, difference, rollouts_with
from test_drop_in import Room
from torchrun import launch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vine_helpers import BUDGET, across, reward, trained

from grpo_credit import CreditError, load_rollouts
from grpo_credit.trainer.vine import Vines


def logged(trainer, name):
    return [log[name] for log in trainer.trace.logs if name in log]


def test_a_value_is_the_mean_reward_of_what_goes_on_from_its_prefix():
    trainer = trained(vine_continuations=3, max_steps=1, learning_rate=0.0)
    [rollouts] = trainer.rollouts
    drawn = {}
    for asked, got in trainer.continued():
        drawn.setdefault(tuple(asked), []).append(list(got))
    checked = 0
    for row in range(8):
        ids = rollouts.completion_ids[row][rollouts.mask[row]].tolist()
        start = TOKENIZER.encode(PROMPTS[row // 4])
        expected = torch.full((rollouts.mask.shape[1] + 1,), torch.nan)
        for cut in range(2, len(ids), 2):
            several = drawn[(*start, *ids[:cut])]
            assert len(several) % 3 == 0  # more than once where two completions begin alike
            if len(several) == 3:
                whole = [(ids[:cut] + more)[:LONGEST] for more in several]
                texts = TOKENIZER.batch_decode(whole, skip_special_tokens=True)
                expected[cut] = statistics.fmean(reward(texts))
                found = rollouts.prefix_values[row, cut]
                torch.testing.assert_close(found, expected[cut])
                checked += 1
        assert rollouts.prefix_values[row].isnan().equal(expected.isnan())
    assert checked > 8
    assert len({tuple(more) for more in drawn[(*start, *ids[:2])]}) > 1  # by draws of their own


@pytest.mark.parametrize("tokens", [1, 40, 150, 10**6])
@pytest.mark.parametrize("cuts", ["every:1", "entropy:1.5"])
def test_the_budget_is_never_exceeded_and_what_is_spent_is_logged(tokens, cuts):
    trainer = trained(vine_tokens=tokens, vine_cuts=cuts, vine_continuations=2)
    spent = logged(trainer, "credit/vine_tokens")
    assert len(spent) == 2  # a number a step
    assert max(spent) <= tokens
    assert sum(spent) == sum(len(got) for _, got in trainer.continued())
    assert (sum(spent) > 0) == (tokens >= 40)
    assert all(seconds > 0 for seconds in logged(trainer, "credit/vine_time_s"))
    assert all(seconds > 0 for seconds in logged(trainer, "step_time"))
    cut_at = [float((~r.prefix_values.isnan()).sum()) / 8 for r in trainer.rollouts]
    assert logged(trainer, "credit/vine_cuts")[-len(cut_at) :] == cut_at


def test_the_completions_and_what_is_logged_of_them_are_those_without_continuations():
    still = {"learning_rate": 0.0, "max_steps": 3, "log_completions": False, "prompts": 8}
    with_vine, without = trained(**still), trained(credit="loo/seq", **still)
    own = [[ids for size, _, ids in t.calls if size > 1] for t in (with_vine, without)]
    assert own[0] == own[1]
    for name in ("reward", "reward_std", "rewards/reward/mean", "num_tokens", "seen",
                 "completions/mean_length", "frac_reward_zero_std"):  # fmt: skip
        assert logged(with_vine, name) == logged(without, name), name
    assert logged(with_vine, "seen") == [8.0] * 3
    for log in (with_vine._logs, without._logs):
        assert len(log["extra"]["length"]) == len(log["completion"])
    assert "credit/vine_tokens" not in without.trace.logs[0]


def test_an_evaluation_draws_nothing_beside_its_completions():
    data = Dataset.from_dict({"prompt": PROMPTS[-2:]})
    arguments = {"eval_dataset": data}
    trainer = trained(max_steps=1, arguments=arguments, per_device_eval_batch_size=4)
    before = len(trainer.continued())
    trainer.evaluate()
    assert len(trainer.continued()) == before
    assert trainer.rollouts[-1].prefix_values.isnan().all()


@pytest.mark.parametrize("iterations", [1, 2])
def test_packed_passes_have_the_gradient_of_trls_micro_batches(iterations):
    """And values are estimated once for all the steps that a generation serves."""
    options = {"num_iterations": iterations, "max_steps": 2, "gradient_accumulation_steps": 2}
    packed, plain = (trained(efficient_batching=how, **options) for how in ("auto", "off"))
    assert len(logged(packed, "credit/vine_tokens")) == 2 // iterations
    for one, other in zip(packed.trace.gradients, plain.trace.gradients, strict=True):
        assert difference(one, other) <= 1e-5


@pytest.mark.parametrize("cuts", ["every:2", "probability:0.05"])
def test_a_resumed_run_takes_the_same_steps(tmp_path, cuts):
    options = {"max_steps": 4, "prompts": 8, "vine_cuts": cuts}
    saved = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path)}
    through = trained(**options, **saved)
    resumed = trained(**options, resume=str(tmp_path / "checkpoint-2"))
    for name in ("credit/vine_tokens", "reward"):
        assert logged(resumed, name) == logged(through, name)[2:]
    for one, other in zip(resumed.trace.gradients, through.trace.gradients[2:], strict=True):
        assert difference(one, other) <= 1e-5


def test_saved_rollouts_hold_the_values(tmp_path):
    trainer = trained(save_rollouts=1, max_steps=1, output_dir=str(tmp_path))
    saved = load_rollouts(tmp_path / "rollouts" / "rollouts_00001.parquet")
    found = saved.rollouts.prefix_values
    assert found.nan_to_num(-1).equal(trainer.rollouts[0].prefix_values.nan_to_num(-1))
    assert (~found.isnan()).any()


def test_rewards_of_conversations_are_given_messages(tmp_path):
    seen = []

    def about(completions, prompts, **_):
        seen.append((completions, prompts))
        return [len(completion[0]["content"]) % 3 for completion in completions]

    folder = save_chat_model(tmp_path)
    data = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:2]]
    arguments = {
        "model": AutoModelForCausalLM.from_pretrained(folder), "reward_funcs": about,
        "processing_class": AutoTokenizer.from_pretrained(folder),
        "train_dataset": Dataset.from_dict({"prompt": data}),
    }  # fmt: skip
    trained(max_steps=1, arguments=arguments, vine_cuts="sentence", vine_continuations=1)
    trained(max_steps=1, arguments=arguments, vine_continuations=1)
    assert len(seen) > 4
    for completions, prompts in seen:
        assert all(prompt in data for prompt in prompts)
        assert all([*message] == ["role", "content"] for [message] in completions)


def test_two_processes_train_as_one_and_spend_no_more(tmp_path):
    """Of prefixes that decide how they go on, gradients are the same on one rank and on two."""
    launch(2, "vine_helpers.py", tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for found, expected in zip(ranks[0]["gradients"], across(12)["gradients"], strict=True):
        assert difference(found, expected) <= 1e-5
    assert ranks[0]["spent"] == ranks[1]["spent"]
    assert 0 < max(ranks[0]["spent"]) <= BUDGET
    assert sum(ranks[0]["spent"]) == sum(found["drawn"] for found in ranks)
    for one, other in zip(*(found["values"] for found in ranks), strict=True):
        assert one.nan_to_num(-1).equal(other.nan_to_num(-1))


# ---- what is refused ----------------------------------------------------------------------------


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: a number.
        b: another.
    """
    return a + b


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"tools": [add]}, "tools: it lets the policy go on .* what a tool returned"),
        ({"environment_factory": Room}, "environment_factory: .* does not go back to the state"),
        ({"rollout_func": rollouts_with(False)}, "rollout_func: .* how that samples is not known"),
        ({"train_dataset": Dataset.from_dict({"prompt": ["1"], "image": ["x"]})},
         "image: .* images are not among them"),
    ],
    ids=["tools", "environments", "rollout_func", "images"],
)  # fmt: skip
def test_what_a_prefix_does_not_hold_is_refused_by_name(arguments, name):
    with pytest.raises(CreditError, match=f"'vine/seq' cannot be used with {name}"):
        trained(arguments=arguments)


def test_images_of_a_stream_are_refused_when_they_come():
    def rows():
        for prompt in PROMPTS:
            yield {"prompt": prompt, "images": []}

    arguments = {"train_dataset": IterableDataset.from_generator(rows)}
    with pytest.raises(CreditError, match="'vine/seq' cannot be used with images"):
        trained(arguments=arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vine_tokens": 0}, "vine_tokens is 0 and vine_continuations 4, expected 1 or more"),
        ({"vine_continuations": 0}, "and vine_continuations 0, expected 1 or more of both"),
        ({"vine_cuts": "every:x"}, "vine_cuts is 'every:x'"),
        ({"generation_kwargs": {"min_new_tokens": 3}}, "generation_kwargs has 'min_new_tokens'"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused_before_a_model_is_loaded(options, message):
    with pytest.raises(CreditError, match=message):
        trained(arguments={"model": "nowhere"}, **options)


def test_a_rule_that_asks_for_no_values_draws_none(monkeypatch):
    monkeypatch.setattr(Vines, "__init__", None)
    trainer = trained(credit="loo/seq", vine_tokens=0, vine_cuts="unread", max_steps=1)
    assert trainer.continued() == []
    assert trainer.plan.vine is None
