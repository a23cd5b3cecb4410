"""Replaying a saved window gives the gradient that the trainer took."""

from dataclasses import replace

import pytest
import torch
from harness import difference, ours, policy

from grpo_credit import CreditError, resolve_credit
from grpo_credit.credit.saved import load_rollouts
from grpo_credit.lab.replay import gradient_mass, read_tokens, replay, shares

NAMES = ["seq", "length", "dapo", "tree_td/seq"]


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


def test_what_is_read_off_the_model_is_what_was_saved(saved):
    found = read_tokens(saved, policy(), torch.arange(16))
    mask, rollouts = saved.rollouts.mask, saved.rollouts
    assert found.logps.requires_grad
    torch.testing.assert_close(
        found.logps.detach()[mask], rollouts.old_logps[mask], rtol=1e-4, atol=1e-5
    )
    every = replace(
        saved, rollouts=replace(rollouts, entropies=None, sum_sq_probs=None)
    )  # they need not have been saved
    again = read_tokens(every, policy(), torch.arange(16))
    assert again.entropies.equal(found.entropies)
    assert float(found.entropies[~mask].abs().sum()) == 0
    # H >= -log Σ π² (Rényi), with equality for the uniform distribution alone
    assert (found.entropies >= -found.sum_sq_probs.log() - 1e-5)[mask].all()


def test_the_gradients_mass_is_that_of_autograd():
    logits = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 6, (3, 4, 1))
    logps = logits.log_softmax(-1)
    own = logps.gather(2, ids).squeeze(2)
    credit = torch.randn(3, 4, dtype=torch.float64)
    (grads,) = torch.autograd.grad((credit * own).sum(), logits)
    found = gradient_mass(credit, own.detach(), logps.detach().exp().square().sum(2))
    torch.testing.assert_close(found, grads.norm(dim=2))


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


def test_shares_are_of_the_gradient_at_the_logits(saved):
    """By a slow loop over tokens, with the model's own distribution."""
    found = replay(saved, policy(), {"seq": resolve_credit("seq")}, rows=3).replayed[0].shares
    rollouts, credit = saved.rollouts, resolve_credit("seq").credit(saved.rollouts)
    with torch.no_grad():
        tokens = read_tokens(saved, policy(), torch.arange(16))
    mean, whole, parts = rollouts.rewards.nanmean(), 0.0, {"positive": 0.0, "right": 0.0}
    for row, column in rollouts.mask.nonzero().tolist():
        chance = float(tokens.logps[row, column].exp())
        norm = (1 - 2 * chance + float(tokens.sum_sq_probs[row, column])) ** 0.5
        pull = abs(float(credit[row, column])) * norm * int(rollouts.window_count[row])
        whole += pull
        parts["positive"] += pull * bool(credit[row, column] > 0)
        parts["right"] += pull * bool(rollouts.rewards[row] > mean)
    for name, part in parts.items():
        assert found[name] == pytest.approx(part / whole, rel=1e-4)
    for family in ("position", "length", "entropy"):
        assert sum(v for k, v in found.items() if k.startswith(family)) == pytest.approx(1)


def test_shares_by_entropy_are_by_quarters_of_the_tokens(saved):
    with torch.no_grad():
        tokens = read_tokens(saved, policy(), torch.arange(16))
    rollouts = saved.rollouts
    lowest = tokens.entropies <= tokens.entropies[rollouts.mask].quantile(0.25)
    found = shares(torch.where(lowest & rollouts.mask, 1.0, 0.0), tokens, rollouts)
    assert [found[f"entropy {n}"] for n in (1, 2, 3, 4)] == [1, 0, 0, 0]
    assert found["positive"] == 1
    assert shares(torch.zeros(rollouts.mask.shape), tokens, rollouts)["entropy 1"] == 0


def test_another_policy_is_seen_as_drift(saved):
    other = policy()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    assert replay(saved, other, {"seq": resolve_credit("seq")}).drift > 0.01


def test_rollouts_without_prompt_ids_are_refused(saved):
    with pytest.raises(CreditError, match="saved without prompt ids; the model needs them"):
        replay(replace(saved, prompt_ids=[]), policy(), {})
