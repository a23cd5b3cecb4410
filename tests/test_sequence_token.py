"""A sequence-level ratio keeps the credit of each token."""

import pytest
import torch
from harness import ROUNDING, difference, ours

from grpo_credit import CreditGRPOTrainer, allocation
from grpo_credit.trainer.config import Plan
from grpo_credit.trainer.identities import sequence_token_anchor

# A slope is a credit times the exponential of a sum of log-probabilities: their roundings add up.
RATIO = {"rtol": 10 * ROUNDING, "atol": ROUNDING / 100}


@allocation
def first_token(rollouts):
    """Give all to the first token, and the opposite to the second."""
    sign = (rollouts.position == 0).float() - (rollouts.position == 1).float()
    return rollouts.advantages[:, None] * sign * rollouts.mask


@allocation
def rising(rollouts):
    """Let credit rise along the completion."""
    return (
        rollouts.advantages[:, None]
        * (rollouts.position + 1)
        / rollouts.lengths.clamp(min=1)[:, None]
        * rollouts.mask
    )


@pytest.fixture
def token_gradients(monkeypatch):
    """Record, for each micro-batch, d(loss)/d(log π) and the credit that was asked for."""
    records = []

    class Recorder:
        logps = None

    inner_logps = CreditGRPOTrainer._get_per_token_logps_and_entropies
    inner_loss = CreditGRPOTrainer._compute_loss

    def keep_logps(self, *args, **kwargs):
        logps, *others = inner_logps(self, *args, **kwargs)
        if logps.requires_grad:
            Recorder.logps = logps
        return logps, *others

    def differentiate(self, model, inputs):
        loss = inner_loss(self, model, inputs)
        if loss.requires_grad:
            (slope,) = torch.autograd.grad(loss, Recorder.logps, retain_graph=True)
            old = inputs.get("old_per_token_logps")
            drift = None if old is None else (Recorder.logps - old).detach()
            records.append((slope, inputs["credit"], drift, inputs["completion_mask"]))
        return loss

    monkeypatch.setattr(CreditGRPOTrainer, "_get_per_token_logps_and_entropies", keep_logps)
    monkeypatch.setattr(CreditGRPOTrainer, "_compute_loss", differentiate)
    return records


@pytest.mark.parametrize("rule", ["first_token/seq", "rising/seq", "rising/dapo"])
def test_on_policy_each_token_gets_its_own_credit(token_gradients, rule):
    ours(credit=rule, importance_sampling_level="sequence", num_iterations=2, max_steps=1)
    assert len(token_gradients) == 2
    for slope, credit, drift, _ in token_gradients:
        # on-policy, but by way of the recorded log-probs: -5 nats, to a few roundings of float32
        assert drift.abs().max() < ROUNDING
        assert credit.unique().numel() > 8
        torch.testing.assert_close(-slope, credit, **RATIO)


def test_off_policy_each_token_has_the_ratio_of_its_sequence(token_gradients):
    ours(
        credit="rising/seq", num_iterations=2, max_steps=2, learning_rate=0.02, epsilon=10.0
    )  # `seq` chooses the sequence-level ratio; ε so wide that nothing is clipped
    slope, credit, drift, mask = token_gradients[-1]
    ratio = torch.exp((drift * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True))
    assert (ratio - 1).abs().max() > 1e-3
    torch.testing.assert_close(-slope, credit * ratio, **RATIO)


def test_without_the_anchor_the_credit_would_be_washed_out(token_gradients, monkeypatch):
    """The trap itself: TRL's own sequence-level ratio gives every token its row's mean."""
    monkeypatch.setattr(Plan, "trl_ratio", "sequence")
    ours(credit="first_token/seq", max_steps=1)
    slope, credit, *_ = token_gradients[0]
    assert credit.abs().max() > 0.01
    assert slope.abs().max() < ROUNDING * credit.abs().max()  # +A and -A cancel


def test_even_credit_has_the_same_gradient_in_both_forms():
    """s_i · Σ ∇log π is what both forms come to when a row's credit is constant."""
    options = {"num_iterations": 2, "max_steps": 2, "importance_sampling_level": "sequence",
               "beta": 0.1, "use_bias_correction_kl": False}  # fmt: skip
    plain = ours(credit="seq", **options)
    token = ours(credit="same/seq", **options)
    for a, b in zip(plain.gradients, token.gradients, strict=True):
        assert difference(a, b) <= ROUNDING


@allocation(keeps_sign=True)
def same(rollouts):
    """Do what `even` does, under another name."""
    return rollouts.advantages[:, None] * rollouts.mask


def test_anchor_by_hand():
    logps = torch.tensor([[-1.0, -2.0, -5.0], [-1.0, -1.0, -1.0]])
    old = torch.tensor([[-1.2, -2.4, -9.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    # log s = ((-1 + 1.2) + (-2 + 2.4)) / 2 = 0.3; a fully masked row has log s = 0
    expected = torch.tensor([[-1.3, -2.3, -5.3], [-1.0, -1.0, -1.0]])
    torch.testing.assert_close(sequence_token_anchor(logps, old, mask), expected)
