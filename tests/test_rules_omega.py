"""Rules that aim at pass@k and log p: by hand, by slow loops, and against exact gradients."""

import itertools
import math

import pytest
import torch
from drawn import close, one_group, random_rollouts, scored

from grpo_credit import CreditError, Rollouts, compute_credit
from grpo_credit.credit.allocations.baselines import loo
from grpo_credit.credit.allocations.omega import omega

TARGETS = ["loglik", "passk", "passk_scaled"]


def slow_omega(rollouts, target, k, above):
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i in scored(rollouts):
        members = [j for j in scored(rollouts) if rollouts.group[j] == rollouts.group[i]]
        n, c = len(members), sum(float(rollouts.rewards[j]) > above for j in members)
        draws = min(k, n - 1)
        if c in (0, n):
            continue
        missed = math.comb(n - c - 1, draws - 1) / math.comb(n - 1, draws - 1)
        rho = 1 - math.comb(n - c, draws) / math.comb(n, draws)
        weight = {
            "loglik": n / c,
            "passk": draws * n / (n - draws) * missed,
            "passk_scaled": missed / math.sqrt(rho * (1 - rho)) if 0 < rho < 1 else 0.0,
        }[target]
        y = float(float(rollouts.rewards[i]) > above)
        credit[i] = weight * (y - c / n) * rollouts.mask[i].double()
    return credit


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("k", "above"), [(1, 0.5), (2, 0.0), (3, 1.0), (50, 0.5)])
def test_omega_equals_its_loop(target, k, above):
    seen = 0
    for seed in range(12):
        rollouts = random_rollouts(seed)
        found = omega(rollouts, target=target, k=k, above=above)
        close(found, slow_omega(rollouts, target, k, above))
        seen += bool(found.any())
    assert seen >= 4


def test_omega_by_hand():
    rollouts = one_group([1, 2, 1, 1], [2.0, 0.0, 0.5, -1.0])  # 0.5 is not above 0.5: one of four
    close(omega(rollouts)[:, 0], [3, -1, -1, -1])  # 4 · (1 - 1/4), 4 · (-1/4)
    # k = 2: q = C(2, 1) / C(3, 1) = 2/3; 2/3 · 2 · 4 / (4 - 2) = 8/3
    close(omega(rollouts, target="passk", k=2)[:, 0], [2, -2 / 3, -2 / 3, -2 / 3])
    # 1 - ρ = 2/3 · 3/4 = 1/2, deviation 1/2: ω = 4/3, as the authors write it 1/2 / (1/2) = 1 for
    # the right one, (1/2 - 2/3) / (1/2) = -1/3 for the wrong ones
    close(omega(rollouts, target="passk_scaled", k=2)[:, 0], [1, -1 / 3, -1 / 3, -1 / 3])


def test_loglik_is_the_reward_relative_to_its_mean():
    rewards = [1.0, 0.0, 1.0, 0.0, 0.0]
    close(omega(one_group([1] * 5, rewards))[:, 0], [(r - 0.4) / 0.4 for r in rewards])


def test_pass_at_one_is_leave_one_out():
    rollouts = one_group([1, 2, 3, 1, 2], [1.0, 0.0, 1.0, 0.0, None])
    close(omega(rollouts, target="passk", k=1), loo(rollouts))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rewards", [[1.0] * 4, [0.0] * 4, [1.0, None, None, None], [None] * 4])
def test_a_group_in_which_nobody_differs_gets_nothing(target, rewards):
    assert not omega(one_group([2] * 4, rewards), target=target, k=2).any()


# ---- the expected update ------------------------------------------------------------------------

GROUP = 4
RIGHT = (0, 2)  # of four completions of one token


class Prompt:
    """A softmax over four completions, two of them right, and every group of four of them."""

    def __init__(self, logits):
        self.probs = torch.tensor(logits, dtype=torch.float64).softmax(0)
        right = torch.tensor([float(o in RIGHT) for o in range(4)]).double()
        self.p = float(self.probs @ right)
        self.grad_p = self.probs * (right - self.p)

    def expected_update(self, **options):
        groups = torch.tensor([*itertools.product(range(4), repeat=GROUP)])
        rows = groups.flatten().tolist()
        rollouts = Rollouts.from_lists(
            [1] * len(rows), [float(o in RIGHT) for o in rows], num_generations=GROUP,
            max_completion_length=1, dtype=torch.float64,
        )  # fmt: skip
        chance = self.probs[groups].prod(dim=1).repeat_interleave(GROUP)
        score = torch.eye(4).double()[groups.flatten()] - self.probs
        credit = compute_credit("omega/seq", rollouts, **options)[:, 0] * len(groups)
        return (chance * credit) @ score


HARD, EASY = Prompt([-2.0, 1.0, -1.0, 0.5]), Prompt([1.0, 0.3, 0.2, -1.0])


@pytest.mark.parametrize("prompt", [HARD, EASY])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_expected_update_is_the_gradient_of_pass_at_k(prompt, k):
    draws = min(k, GROUP - 1)
    gradient = draws * (1 - prompt.p) ** (draws - 1) * prompt.grad_p
    close(prompt.expected_update(target="passk", k=k), gradient)


@pytest.mark.parametrize("prompt", [HARD, EASY])
def test_the_expected_update_is_the_gradient_of_log_p_cut_off(prompt):
    """Log p is -Σ_j (1 - p)^j / j; of a group of n the terms below n are aimed at."""
    gradient = sum((1 - prompt.p) ** (j - 1) for j in range(1, GROUP)) * prompt.grad_p
    close(prompt.expected_update(), gradient)


@pytest.mark.parametrize("options", [{}, {"target": "passk", "k": 3}])
def test_over_prompts_the_update_is_not_that_of_the_expected_reward(options):
    """The hard prompt has more of the update than of the gradient of E[R]."""
    hard, easy = (float(x.expected_update(**options).norm()) for x in (HARD, EASY))
    assert hard / easy > 1.5 * float(HARD.grad_p.norm() / EASY.grad_p.norm())


@pytest.mark.parametrize("k", [0, -1])
def test_no_draw_is_refused(k):
    with pytest.raises(CreditError, match=rf"k is {k}, expected 1 or more"):
        compute_credit("omega", random_rollouts(0), target="passk", k=k)
