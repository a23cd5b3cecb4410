"""The expected update of rules, summed over every completion of a policy that can be enumerated."""

import itertools

import pytest
import torch
from drawn import NAN, close

from grpo_credit import Rollouts, compute_credit
from grpo_credit.credit.advantages import group_advantages


class Game:
    """Up to three turns of one token, a tool's output between them; token 2 stops.

    The policy is a softmax per prefix. Rewards of completions, turns and potentials of prefixes are
    arbitrary, but for one: what begins with token 1 has failed, whatever is written then.
    """

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        inner = [(), *((a,) for a in (0, 1)), *itertools.product((0, 1), repeat=2)]
        self.number = {prefix: n for n, prefix in enumerate(inner)}
        self.probs = torch.randn(len(inner), 3, generator=generator).double().softmax(dim=1)
        self.turn_reward = torch.randn(len(inner), 3, generator=generator).double() + 1
        self.phi = torch.randn(len(inner), 2, generator=generator).double()  # own turn, tool's
        self.paths = [
            (2,),
            *((a, 2) for a in (0, 1)),
            *((*p, b) for p in inner[3:] for b in range(3)),
        ]
        self.lengths = torch.tensor([len(path) for path in self.paths])
        failed = torch.tensor([path[0] == 1 for path in self.paths])
        self.reward = torch.randn(len(self.paths), generator=generator).double()
        self.reward[failed] = self.reward[failed.nonzero()[0]]
        self.decided = torch.where(failed, 1, 2 * self.lengths - 1)
        self.score = torch.zeros(len(self.paths), 5, len(inner), 3).double()  # ∇ log π per column
        self.chance = torch.ones(len(self.paths)).double()
        self.steps = torch.full((len(self.paths), 5), NAN).double()
        self.values = torch.zeros(len(self.paths), 6).double()
        self.reference = torch.randn(len(inner), 3, generator=generator).double().log_softmax(1)
        self.logps = torch.zeros(2, len(self.paths), 5).double()  # of the policy, the reference
        for i, path in enumerate(self.paths):
            for m, token in enumerate(path):
                at = self.number[path[:m]]
                self.chance[i] *= self.probs[at, token]
                self.score[i, 2 * m, at] = torch.eye(3)[token].double() - self.probs[at]
                self.steps[i, 2 * m] = self.turn_reward[at, token]
                self.logps[0, i, 2 * m] = self.probs[at, token].log()
                self.logps[1, i, 2 * m] = self.reference[at, token]
                self.values[i, 2 * m : 2 * m + 2] = self.phi[at]

    def pairs(self, scale_rewards="none", later=0):
        """Return every group of two completions, and how likely it is."""
        count = len(self.paths)
        row = torch.cartesian_prod(torch.arange(count), torch.arange(count)).flatten()
        group = torch.arange(count**2).repeat_interleave(2)
        lengths, column = self.lengths[row], torch.arange(5)
        rewards = self.reward[row]
        chance = self.chance[row].view(-1, 2).prod(dim=1).repeat_interleave(2)
        rollouts = Rollouts(
            completion_ids=torch.zeros(len(row), 5, dtype=torch.long),
            mask=(column % 2 == 0) & (column < 2 * lengths[:, None]),
            advantages=group_advantages(rewards, group, scale_rewards),
            rewards=rewards,
            rewards_per_func=rewards[:, None],
            reward_names=("reward",),
            group=group,
            truncated=lengths == 3,
            max_completion_length=5,
            scale_rewards=scale_rewards,
            step_rewards=self.steps[row],
            old_logps=self.logps[0, row],
            ref_logps=self.logps[1, row],
            decided=(self.decided[row] + later).clamp(max=5)[:, None],
        )
        return rollouts, row, chance

    def expected_update(self, credit, scale_rewards="none", later=0, **options):
        """Average Σ C ∇ log π over every pair, times the number of pairs in the window."""
        rollouts, row, chance = self.pairs(scale_rewards, later)
        found = compute_credit(credit, rollouts, **options) * (len(row) / 2)
        return torch.einsum("i,it,itpv->pv", chance, found, self.score[row])

    def gradient(self, turn_coef=0.0, more=0.0):
        value = self.reward + turn_coef * self.steps.nansum(dim=1) + more
        return torch.einsum("i,itpv->pv", self.chance * value, self.score)


GAMES = [*map(Game, range(3))]


@pytest.mark.parametrize("game", GAMES)
def test_the_enumerated_policy_is_one(game):
    close(game.chance.sum(), 1)


@pytest.mark.parametrize("game", GAMES)
def test_the_expected_update_of_turns_is_half_the_gradient_of_all_rewards(game):
    found = game.expected_update("turns/seq", coef=0.8)
    close(found, game.gradient(turn_coef=0.8) / 2)  # (n - 1)/n, n = 2


@pytest.mark.parametrize("game", GAMES)
def test_the_expected_update_of_to_go_is_half_the_gradient_of_all_rewards(game):
    close(game.expected_update("to_go/seq"), game.gradient(turn_coef=1.0) / 2)


@pytest.mark.parametrize("tau", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("game", GAMES)
def test_the_expected_update_of_temper_is_half_the_gradient_of_reward_and_divergence(game, tau):
    policy, reference = game.logps.sum(dim=2)
    close(game.expected_update("temper/seq", tau=tau),
          game.gradient(more=reference / tau - policy) / 2)  # fmt: skip


@pytest.mark.parametrize("game", GAMES)
def test_a_potential_leaves_the_expected_update_as_it_is(game):
    def phi(rollouts):
        return game.values[game.pairs()[1]]

    close(game.expected_update("potential/seq", function=phi), game.gradient() / 2)
    immediate = game.expected_update("potential/seq", function=phi, immediate=True)
    assert (immediate - game.gradient() / 2).norm() > 0.1 * game.gradient().norm()


@pytest.mark.parametrize("scale_rewards", ["none", "group"])
@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("aggregation", ["seq", "uniform"])
def test_decided_keeps_the_expected_update(aggregation, later, scale_rewards):
    even = GAMES[0].expected_update(f"even/{aggregation}", scale_rewards)
    close(GAMES[0].expected_update(f"decided/{aggregation}", scale_rewards, later), even)


@pytest.mark.parametrize("game", GAMES)
def test_decided_has_half_the_gradient_of_the_expected_reward(game):
    close(game.expected_update("decided/seq"), game.gradient() / 2)


def test_aggregations_that_count_the_tail_do_not_keep_the_expected_update():
    decided, even = (GAMES[0].expected_update(f"{rule}/length") for rule in ("decided", "even"))
    assert (decided - even).abs().max() > 1e-3
