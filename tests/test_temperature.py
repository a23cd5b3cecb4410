"""Temperature of whole strings: the rules against loops, and what they train against the target."""

import math
from dataclasses import replace

import pytest
import torch
from drawn import close, double, one_group, random_rollouts, slow_above_others
from strings import Policy, Strings, divergence

from grpo_credit import CreditError, Rollouts, compute_credit

# ---- against loops and by hand ------------------------------------------------------------------


def slow_temper(rollouts, tau):
    earned = [
        [(p / tau - q) * m for p, q, m in zip(*row, strict=True)]
        for row in zip(rollouts.ref_logps.tolist(), rollouts.old_logps.tolist(),
                       rollouts.mask.tolist(), strict=True)
    ]  # fmt: skip
    extra = slow_above_others(rollouts, earned, range(len(earned)))
    return (rollouts.advantages[:, None] + extra) * rollouts.mask


def slow_lhts(rollouts, tau, horizon, clamp):
    rows = [
        [float(rollouts.old_logps[i, t]) for t in mask.nonzero().flatten()]
        for i, mask in enumerate(rollouts.mask)
    ]
    uses = rollouts.window_count.tolist()

    def mean(place):
        there = [(n, sum(row[place : place + horizon])) for n, row in zip(uses, rows, strict=True)
                 if place < len(row)]  # fmt: skip
        return sum(n * h for n, h in there) / max(1, sum(n for n, _ in there))

    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i, row in enumerate(rows):
        for place, t in enumerate(rollouts.mask[i].nonzero().flatten().tolist()):
            exponent = (1 / tau - 1) * (sum(row[place : place + horizon]) - mean(place))
            credit[i, t] = rollouts.advantages[i] * math.exp(min(exponent, clamp))
    return credit


@pytest.mark.parametrize("tau", [0.5, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_temper_and_lhts_equal_their_loops(seed, tau):
    rollouts = random_rollouts(seed)
    found = compute_credit("temper/seq", rollouts, tau=tau) * rollouts.num_completions
    close(found, slow_temper(rollouts, tau))
    for horizon, clamp in ((1, 3.0), (3, 0.5), (99, math.inf)):
        options = {"tau": tau, "horizon": horizon, "clamp": clamp}
        found = compute_credit("lhts/seq", rollouts, **options) * rollouts.num_completions
        close(found, slow_lhts(rollouts, **options))


def test_temper_by_hand():
    rollouts = one_group(
        [3, 2], [0.0, 0.0], advantages=double(1.0, -1.0),
        old_logps=double([-1.0, -1.0, -3.0], [-2.0, -0.5, 0.0]),
        ref_logps=double([-1.0, -2.0, -1.0], [-0.5, -1.0, 0.0]),
    )  # fmt: skip
    # 2 log p - log q: -1, -3, 1 and 1, -1.5; to go: -3, -2, 1 and -0.5, -1.5.
    # Half of what is above the other's; the third token is compared with the other's second.
    close(
        2 * compute_credit("temper/seq", rollouts, tau=0.5),
        [[1 - 1.25, 1 - 0.25, 1 + 1.25], [-1 + 1.25, -1 + 0.25, 0]],
    )


def test_temper_without_a_temperature_or_a_second_completion_is_even():
    rollouts = random_rollouts(1)
    same = replace(rollouts, ref_logps=rollouts.old_logps)
    close(compute_credit("temper/seq", same, tau=1.0), compute_credit("even/seq", same))
    alone = replace(rollouts, group=torch.arange(len(rollouts.group)))
    close(compute_credit("temper/seq", alone, tau=0.5), compute_credit("even/seq", alone))


def test_lhts_by_hand():
    two = Rollouts.from_documents([3, 1], dtype=torch.float64)
    two = replace(two, old_logps=double([-1.0, -2.0, -4.0], [-1.0, 0.0, 0.0]) * math.log(2))
    # τ = 1/3: 4^(H - b), in bits. Of two tokens: H = -3, -6, -4 and -1; b = -2, -6, -4
    found = 2 * compute_credit("lhts/seq", two, tau=1 / 3, horizon=2)
    close(found, [[1 / 4, 1, 1], [4, 0, 0]])
    found = 2 * compute_credit("lhts/seq", two, tau=1 / 3, horizon=2, clamp=math.log(3))
    close(found, [[1 / 4, 1, 1], [3, 0, 0]])
    close(compute_credit("lhts/seq", two, tau=1.0), compute_credit("even/seq", two))


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("temper", {"tau": 0.0}, "tau is 0, expected a finite number above 0"),
        ("temper", {"tau": math.inf}, "tau is inf, expected a finite number above 0"),
        ("temper", {}, "'temper' needs the option 'tau'"),
        ("lhts", {"tau": -1.0}, "tau is -1, expected a finite"),
        ("lhts", {"tau": 0.5, "horizon": 0}, "horizon is 0 and clamp 3, expected >= 1 and > 0"),
        ("lhts", {"tau": 0.5, "clamp": math.nan}, "horizon is 8 and clamp nan, expected"),
    ],
)
def test_options_out_of_range_are_refused(rule, options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit(f"{rule}/seq", random_rollouts(0), **options)


# ---- what they train ----------------------------------------------------------------------------

STRINGS = Strings(symbols=3, longest=5)  # 364 of them
POLICIES = [Policy.drawn(STRINGS, seed) for seed in range(1, 6)]
TAU = 0.5


def trained(policy, credit, reward=0.0, steps=400, n=64, **options):
    """Train a table by Adam on n strings a step: of its own, or with `lhts` of the policy's."""
    generator = torch.Generator().manual_seed(0)
    table = policy.table.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([table], lr=0.05)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        now = Policy(STRINGS, table.detach().log_softmax(1))
        writer = policy if credit.startswith("lhts") else now
        rows = torch.multinomial(writer.joint.exp(), n, replacement=True, generator=generator)
        rollouts = writer.rollouts(rows, policy, reward)
        if writer is policy:
            rollouts = replace(rollouts, advantages=torch.ones_like(rollouts.advantages))
        weights = compute_credit(credit, rollouts, **options)
        loss = -(weights * STRINGS.logps(table.log_softmax(1))[rows]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return Policy(STRINGS, table.detach().log_softmax(1)).joint


@pytest.mark.slow
def test_temper_trains_the_temperature_of_strings_and_myopic_temperature_is_another():
    ours, myopic = [], []
    for policy in POLICIES:
        target = (policy.joint / TAU).log_softmax(0)
        ours.append(divergence(target, trained(policy, "temper/seq", steps=800, tau=TAU)))
        myopic.append(divergence(target, policy.ahead(TAU, 1).joint))
    assert max(ours) <= 0.005
    assert all(theirs >= 50 * own for own, theirs in zip(ours, myopic, strict=True))


@pytest.mark.slow
def test_reward_and_temperature_compose():
    policy = POLICIES[0]
    reward = torch.randn(len(policy.joint), dtype=torch.float64,
                         generator=torch.Generator().manual_seed(0))  # fmt: skip
    target = (policy.joint / TAU + reward).log_softmax(0)
    assert divergence(target, (policy.joint / TAU).log_softmax(0)) > 0.1
    assert divergence(target, trained(policy, "temper/seq", reward, tau=TAU)) <= 0.01


@pytest.mark.slow
def test_lhts_trains_the_temperature_of_as_many_tokens_as_its_horizon():
    policy = POLICIES[0]
    for horizon in (1, 5):
        target = policy.ahead(TAU, horizon).joint
        found = trained(policy, "lhts/seq", tau=TAU, horizon=horizon)
        assert divergence(target, found) <= 0.005
        whole = divergence((policy.joint / TAU).log_softmax(0), target)
        assert whole < 1e-12 if horizon == 5 else whole > 0.1


def test_to_go_has_less_variance_than_the_total_and_no_bias():
    """At the reference: over 40 batches of 64, the mean's distance is noise's at most."""
    shares = []
    for policy in POLICIES:
        truth, (to_go, total) = policy.gradient(TAU), policy.updates(TAU, batches=40, n=64)
        noise = to_go.var(dim=0).sum()
        shares.append(float(noise / total.var(dim=0).sum()))
        floor = (noise / len(to_go)).sqrt()
        assert (to_go.mean(dim=0) - (1 - 1 / 64) * truth).norm() <= 3 * floor
    assert sum(shares) / len(shares) <= 0.7
    assert max(shares) < 1
