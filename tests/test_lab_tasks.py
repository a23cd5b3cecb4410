"""The oracle's truth against enumeration through the real rewards, and by hand."""

import math
import random
from dataclasses import dataclass

import pytest
import torch

from grpo_credit.lab.batches import draw
from grpo_credit.lab.enumerable import Language, policy_of
from grpo_credit.lab.measurement import success
from grpo_credit.lab.problem import Problem
from grpo_credit.lab.process import END, solve, walk
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.tasks import SHORT, TASKS, Arithmetic, Format, Keys, PathStar
from grpo_credit.lab.tasks.path_star import path_to_goal

SMALL = [
    Keys(filler=2, keys=2),
    Format(pattern="a+b", alphabet="abc", slip=0.3, length=5),
    Arithmetic(terms=5),
    PathStar(degree=3, nodes=3),
]


def expected_reward(task, prompt, state, text, left):
    """Average the real reward over every way to go on."""
    total = 0.0
    for token, (chance, after) in task.moves(state).items():
        over = token == END or left == 1
        total += chance * (
            task.reward(completions=[text + token], prompts=[prompt])[0]
            if over
            else expected_reward(task, prompt, after, text + token, left - 1)
        )
    return total


@pytest.mark.parametrize("task", SMALL, ids=lambda task: task.name)
def test_worth_and_value_are_what_enumeration_finds(task):
    rng = random.Random(3)
    start = task.start(rng)
    prompt, solved = task.prompt(start), solve(task, [start])
    tokens = [*task.alphabet, END]
    state, number, text = start, int(solved.starts[0]), ""
    for position in range(task.length):
        left = task.length - position
        value = expected_reward(task, prompt, state, text, left)
        assert float(solved.values[number]) == pytest.approx(value, abs=1e-12)
        moves = task.moves(state)
        for token, (chance, after) in moves.items():
            place = tokens.index(token)
            assert float(solved.probs[number, place]) == pytest.approx(chance)
            over = token == END or left == 1
            worth = (
                task.reward(completions=[text + token], prompts=[prompt])[0]
                if over
                else expected_reward(task, prompt, after, text + token, left - 1)
            )
            assert float(solved.worth[number, place]) == pytest.approx(worth, abs=1e-12)
        going = [token for token in moves if token != END]
        if not going:
            assert position > 1
            return
        token = rng.choice(going)
        number = int(solved.after[number, tokens.index(token)])
        state, text = moves[token][1], text + token


def truth_of(task, start, text):
    """Return the true advantage of each character of a text, and of the end where it may end."""
    solved, tokens = solve(task, [start]), [*task.alphabet, END]
    number, found = int(solved.starts[0]), []
    for token in [*text, END]:
        if number < 0:
            break
        place = tokens.index(token)
        found.append(float(solved.advantages[number, place]))
        number = int(solved.after[number, place])
    return found


def test_a_key_is_worth_its_share():
    start = (".k:a", 0, 0)
    task = Keys(filler=2, keys=2, chance=0.5)
    # a right key gives 1/2 instead of 1/4 on average
    assert truth_of(task, start, "pkaa") == pytest.approx([0, 0.25, 0, 0.25, 0])
    assert truth_of(task, start, "plad") == pytest.approx([0, -0.25, 0, -0.25, 0])


def test_the_forgotten_carry_costs_all_that_was_to_be_had():
    task = Arithmetic(terms=4, slip=0.2)
    start = ("591", 17, "", False)  # 17+5+9+1: two carries, 22 and 31, then 32
    # V = 0.64 before the first, 0.8 before the second, then 1
    right = [0.16, 0, 0, 0.2, 0, 0, 0, 0]
    assert truth_of(task, start, "22,31;32") == pytest.approx([*right, 0])
    assert truth_of(task, start, "12,21,22") == pytest.approx([-0.64, *[0] * 8])
    assert truth_of(task, start, "22;21,22") == pytest.approx([0.16, 0, 0, -0.8, *[0] * 5])


def test_the_arm_alone_decides():
    task = PathStar(degree=3, nodes=3)
    start = ("s a | a b | s c | c d | s e | e f / s b =", ("sab", "scd", "sef"), 0)
    assert truth_of(task, start, "sab") == pytest.approx([0, 2 / 3, 0, 0])
    assert truth_of(task, start, "sef") == pytest.approx([0, -1 / 3, 0, 0])


def test_a_format_is_worth_the_chance_to_complete_it():
    task = Format(pattern="ab", alphabet="ab", slip=0.3, length=3)
    # the one token that keeps it: 0.7 and a third of 0.3; three of them are needed
    kept = 0.8
    assert truth_of(task, 0, "ab") == pytest.approx([kept**2 - kept**3, kept - kept**2, 1 - kept])
    assert truth_of(task, 0, "b") == pytest.approx([-(kept**3), 0])


def test_a_writer_of_formats_keeps_them_open_or_slips():
    task = Format(pattern="a+b", alphabet="abc", slip=0.4, length=5)
    (after_a,) = {task.moves(0)["a"][1]}
    chances = {token: chance for token, (chance, _) in task.moves(after_a).items()}
    assert chances == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.1, END: 0.1})
    dead = task.moves(0)["c"][1]
    assert [chance for chance, _ in task.moves(dead).values()] == pytest.approx([0.25] * 4)


def test_one_carry_is_forgotten_at_most():
    task = Arithmetic(slip=0.6)
    rng = random.Random(0)
    for start in (task.start(rng) for _ in range(20)):
        total = start[1] + sum(map(int, start[0]))
        solved = solve(task, [start])
        written = walk(solved, solved.starts.repeat(20), task.length, torch.Generator())
        for row, mask in zip(written.tokens.tolist(), written.mask, strict=True):
            text = "".join(task.alphabet[i] for i in row[: int(mask.sum()) - 1])
            assert int(text[-2:]) in (total, total - 10)


@pytest.mark.parametrize("name", SHORT)
def test_a_short_task_is_listed_with_the_chances_of_its_walks(name):
    task = SHORT[name](length=3)
    problem = Problem(Language(task.alphabet, task.length), policy_of(task), task.reward)
    for text, chance in zip(problem.language.texts, problem.chances.tolist(), strict=True):
        state, expected = task.start(random.Random(0)), 1.0
        for token in [*text, END][: task.length]:
            probability, state = task.moves(state)[token]
            expected *= probability
        assert chance == pytest.approx(expected, abs=1e-12)
        assert task.reward(completions=[text]) == [task.value(state)]
    value = float(solve(task, [task.start(random.Random(0))]).values[0])
    assert success(problem) == pytest.approx(value)


def test_a_fault_hurts_and_its_repair_helps():
    task = SHORT["recovery"](length=5)
    fault, repair, *_ = truth_of(task, 0, "fr")
    assert fault < -0.01 < 0.01 < repair
    assert task.reward(completions=["fr"]) == [1.0]


def test_a_task_that_may_not_write_everything_has_no_table():
    with pytest.raises(ValueError, match="arithmetic may not write everything after"):
        policy_of(Arithmetic(terms=2))


@pytest.mark.parametrize("name", TASKS)
def test_what_a_rule_sees_is_true_of_the_policy(name):
    batch = draw(TASKS[name](), Sampling(10, 24))
    rollouts, mask = batch.rollouts, batch.rollouts.mask
    # the truth averages to 0 under the policy
    whole = batch.advantage.sum(1)
    assert abs(float(whole.mean())) <= 5 * float(whole.std()) / len(whole) ** 0.5
    # E[-log π(o)] is the entropy and E[π(o)] the sum of squares
    surprise = (-rollouts.old_logps - rollouts.entropies)[mask]
    assert abs(float(surprise.mean())) <= 5 * float(surprise.std()) / len(surprise) ** 0.5
    chance = (rollouts.old_logps.exp() - rollouts.sum_sq_probs)[mask]
    assert abs(float(chance.mean())) <= 5 * float(chance.std()) / len(chance) ** 0.5
    # what a completion gained token by token is its reward less the prompt's value
    assert float(batch.advantage[~mask].abs().sum()) == 0
    gained = rollouts.rewards - batch.advantage.sum(1)
    for group in range(24):
        assert float(gained[rollouts.group == group].std()) < 1e-9


def test_entropies_are_those_of_the_tasks_choices():
    batch = draw(Keys(), Sampling(10, 4))
    found = {round(float(h), 6) for h in batch.rollouts.entropies[batch.rollouts.mask]}
    key = 0.5 * math.log(2) + 0.5 * math.log(6)
    sure = 0.9 * math.log(1 / 0.9) + 0.1 * math.log(15 / 0.1)
    assert found == {round(h, 6) for h in (math.log(16), key, sure, 0.0)}
    star = draw(PathStar(degree=4), Sampling(10, 4)).rollouts
    torch.testing.assert_close(star.entropies[:, 1], torch.full((32,), math.log(4)).double())
    assert float(star.entropies[:, [0, 2, 3, 4, 5]].abs().max()) == 0


def test_rewards_tell_what_they_do_in_a_trainer():
    keys = draw(Keys(), Sampling(10, 3))
    assert keys.rollouts.spans["keys/keys"].equal(keys.decisive)  # each key decides
    last = (keys.decisive * torch.arange(1, 50)).amax(1)
    assert keys.rollouts.decided[:, 0].equal(last)
    paid = keys.rollouts.step_rewards.nan_to_num().double()
    torch.testing.assert_close(paid.sum(1), keys.rollouts.rewards)
    assert (~keys.rollouts.step_rewards.isnan()).equal(keys.decisive)
    star = draw(PathStar(), Sampling(10, 8)).rollouts
    wrong = star.rewards == 0
    assert set(star.decided[wrong, 0].tolist()) == {2}  # centre and a wrong node
    assert set(star.decided[~wrong, 0].tolist()) == {6}  # the right path must also end
    first = star.states[star.group == 0]
    assert len(first[:, 1].unique()) == 1  # all have written the centre
    right = star.rewards[star.group == 0] == 1
    assert set(first[right, 2].tolist()).isdisjoint(first[~right, 2].tolist())


def test_arithmetic_sees_the_last_number_alone():
    reward = Arithmetic().reward
    assert reward(completions=["22,31", "12;31", "31", "22,21"], prompts=["17+5+9"] * 4) == [
        1.0, 1.0, 1.0, 0.0
    ]  # fmt: skip


def test_completions_are_cut_off_at_the_longest_length():
    batch = draw(Format(length=8), Sampling(10, 8)).rollouts
    assert batch.truncated.any()
    assert (batch.lengths[batch.truncated] == 8).all()
    assert not batch.truncated[batch.lengths < 8].any()


def test_a_walk_ends_where_the_policy_ends_it():
    task = PathStar(degree=2, nodes=2)
    solved = solve(task, [("s a | s b / s a =", ("sa", "sb"), 0)])
    written = walk(solved, solved.starts.repeat(50), 7, torch.Generator().manual_seed(0))
    assert written.mask.sum(1).tolist() == [3] * 50  # centre, arm, end
    assert {task.alphabet[i] for i in written.tokens[:, 1].tolist()} == {"a", "b"}


def test_a_path_is_found_from_its_goal():
    for seed in range(5):
        task = PathStar(degree=3, nodes=5)
        prompt, paths, _ = task.start(random.Random(seed))
        assert [path for path in paths if path[-1] == prompt[-3]] == [path_to_goal(prompt)]
        assert len(set("".join(paths))) == 13
        assert prompt.count("|") == 11


@dataclass(frozen=True)
class Leaky(PathStar):
    def moves(self, state):
        return {"a": (0.5, state)}


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match=r"probabilities in state .* sum to 0\.5, expected 1"):
        solve(Leaky(), [Leaky().start(random.Random(0))])
    with pytest.raises(ValueError, match="terms is 10, expected 2 to 9: sums have two digits"):
        Arithmetic(terms=10)
    with pytest.raises(
        ValueError, match="nodes is 52, expected 64 or more: a source and 9 arms of"
    ):
        PathStar(degree=9, nodes=8)
    with pytest.raises(ValueError, match="has no automaton; expected a regular pattern"):
        Format(pattern=r"(a)\1").moves(0)
