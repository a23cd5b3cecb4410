"""Replaying a saved window gives the gradient that the trainer took."""

from dataclasses import replace

import pytest
import torch
from harness import difference, ours, policy

from grpo_credit import CreditError, resolve_credit
from grpo_credit.lab.replay import completion_logps, replay
from grpo_credit.saved import load_rollouts

NAMES = ["seq", "length", "dapo"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One window of the harness, with tools and a fully masked row, by its first policy."""
    folder = tmp_path_factory.mktemp("run")
    ours(
        credit="seq", tools=True, mask_truncated_completions=True, max_steps=1, save_rollouts=1,
        output_dir=str(folder),
    )  # fmt: skip
    return load_rollouts(folder / "rollouts" / "rollouts_00001.parquet")


def by_sorted_name(model, gradient):
    """Order a flat gradient as the harness does."""
    sizes = [p.numel() for _, p in model.named_parameters()]
    parts = dict(zip([n for n, _ in model.named_parameters()], gradient.split(sizes), strict=True))
    return torch.cat([parts[name] for name in sorted(parts)])


@pytest.mark.parametrize("credit", NAMES)
def test_the_gradient_is_the_trainers(saved, credit):
    (found,) = replay(saved, policy(), {credit: resolve_credit(credit)}, rows=5).replayed
    trained = ours(credit=credit, tools=True, mask_truncated_completions=True, max_steps=1)
    step = -by_sorted_name(policy(), found.gradient)  # the trainer minimises
    assert difference(step, trained.gradients[0]) <= 1e-5


def test_the_log_probs_are_those_that_were_saved(saved):
    found = completion_logps(saved, policy(), torch.arange(16)).detach()
    mask = saved.rollouts.mask
    torch.testing.assert_close(found[mask], saved.rollouts.old_logps[mask], rtol=1e-4, atol=1e-5)


def test_the_same_strategy_twice_is_the_same(saved):
    twice = {"a": resolve_credit("seq"), "b": resolve_credit("seq"), "c": resolve_credit("length")}
    found = replay(saved, policy(), twice)
    a, b, c = found.replayed
    assert a.norm == b.norm != c.norm
    cosines = found.cosines()
    assert float(cosines[0, 1]) == pytest.approx(1, abs=1e-12)
    assert 0 < float(cosines[0, 2]) < 0.99999
    torch.testing.assert_close(sum(a.halves), a.gradient)
    assert found.drift < 1e-5
    assert (found.tokens, found.completions) == (int(saved.rollouts.num_tokens), 16)


def test_shares_are_of_the_credit(saved):
    found = replay(saved, policy(), {"seq": resolve_credit("seq")}).replayed[0].shares
    credit = resolve_credit("seq").credit(saved.rollouts)
    positive = credit.clamp(min=0).sum() / credit.abs().sum()
    assert found["positive"] == pytest.approx(float(positive))
    for family in ("position", "length"):
        assert sum(v for k, v in found.items() if k.startswith(family)) == pytest.approx(1)


def test_another_policy_is_seen_as_drift(saved):
    other = policy()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    assert replay(saved, other, {"seq": resolve_credit("seq")}).drift > 0.01


def test_rollouts_without_prompt_ids_are_refused(saved):
    with pytest.raises(CreditError, match="saved without prompt ids; the model needs them"):
        replay(replace(saved, prompt_ids=[]), policy(), {})
