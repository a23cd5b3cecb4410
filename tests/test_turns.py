"""Turns: what TRL's own tool loop wrote, and what rewards and environments say of it."""

from dataclasses import replace

import pytest
import torch
from drawn import close, double
from harness import ROUNDING, difference, ours, rollouts_with
from tool_script import SEEN, call, script, tool_run
from torchrun import launch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_credit import CreditError, allocation
from grpo_credit.credit.allocations.steps import turns
from grpo_credit.credit.saved import find_rollouts, load_rollouts, save_rollouts
from grpo_credit.credit.turns import Turn, of_role
from grpo_credit.rewards import completion_text

NAN = float("nan")
THOUGHT = "<think>\nso I look\n</think>\n\n"


class Room:
    """An environment that pays for each look, as it is told to."""

    def __init__(self):
        self.step_rewards = []

    def reset(self, **_):
        self.step_rewards, self.state_id = [], "door"

    def look(self, pay: float) -> str:
        """Look.

        Args:
            pay: What it pays.
        """
        self.step_rewards.append(pay)
        self.state_id = f"seen {len(self.step_rewards)}"
        return "dark"


LOOKS = (
    (THOUGHT + call("look", pay=1), "I go on" + call("look", pay=0), "ok 7"),
    (call("look", pay=0), call("look", pay=1), THOUGHT + "ok 8"),
    ("no",),
    (call("jump", pay=9), "no"),
)


class Teller:
    """Say something of every kind; keep what the methods are given."""

    __name__ = "told"

    def __call__(self, completions, environments, trainer_state, **_):
        self.given = [len(e.step_rewards) for e in environments]
        return [float("ok" in completion_text(c)) for c in completions]

    def spans(self, completions, environments, written, completion_ids, trainer_state):
        assert [len(e.step_rewards) for e in environments] == self.given
        assert len(completion_ids) == len(completions)
        self.written = written
        pays = [
            [
                (n, text.index('"pay"'), text.index("}"))
                for n, text in enumerate(own)
                if "pay" in text
            ]
            for own in written
        ]
        answers = [completion_text(c) for c in completions]
        return [
            {"pay": pay, "ok": [(text.index("ok"), text.index("ok") + 2)] if "ok" in text else []}
            for pay, text in zip(pays, answers, strict=True)
        ]

    def turn_rewards(self, completions, environments):
        return [[(len(e.step_rewards), 0.25)] for e in environments]  # of the last turn, but one


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("looked"), Teller()
    with pytest.MonkeyPatch.context() as patch:
        script(patch, *LOOKS)
        _, rollouts = tool_run(folder, told, environment_factory=Room, save_rollouts=1,
                               output_dir=str(folder / "out"))  # fmt: skip
    return folder, told, rollouts


def test_turns_are_what_the_loop_generated(looked):
    _, told, rollouts = looked
    roles = [[turn.role for turn in own] for own in rollouts.turns]
    assert roles == [["call", "call", "answer"]] * 2 + [["answer"], ["call", "answer"]]
    assert [turn.tools for turn in rollouts.turns[0]] == [("look",), ("look",), ()]
    assert [turn.failed for turn in rollouts.turns[1]] == [False] * 3
    assert [turn.failed for turn in rollouts.turns[3]] == [True, False]
    inside = torch.zeros_like(rollouts.mask)
    for row, own in enumerate(rollouts.turns):
        for turn in own:
            inside[row, turn.start : turn.end] = True
    assert torch.equal(inside, rollouts.mask)
    assert [w[0] for w in told.written] == [own[0] for own in LOOKS]
    assert told.written[1] == [LOOKS[1][0], "", LOOKS[1][1], "", LOOKS[1][2]]


def test_states_are_those_that_the_environment_names(looked):
    turns = looked[2].turns
    assert len({own[0].state for own in turns}) == 1
    assert turns[0][1].state == turns[1][1].state != turns[0][2].state == turns[1][2].state
    assert turns[3][1].state == turns[3][0].state  # nothing has happened


def test_thoughts_are_a_role_of_their_own(looked):
    rollouts = looked[2]
    thought = of_role(rollouts.turns, "think", rollouts.mask)
    assert thought.any(dim=1).tolist() == [True, True, False, False]
    first, last = rollouts.turns[0][0], rollouts.turns[1][2]
    assert thought[0].nonzero().flatten().tolist() == [*range(first.thought)]
    assert thought[1].nonzero().flatten().tolist() == [*range(last.start, last.thought)]
    parts = [of_role(rollouts.turns, role, rollouts.mask) for role in ("call", "answer")]
    assert torch.equal(thought | parts[0] | parts[1], rollouts.mask)


def text_of(rollouts, row, marked):
    columns = marked[row].nonzero().flatten().tolist()
    return "".join(rollouts.texts[row][slice(*rollouts.offsets[row, t].tolist())] for t in columns)


def test_places_name_any_message_its_call_included(looked):
    _, _, rollouts = looked
    pay = rollouts.spans["told/pay"]
    assert text_of(rollouts, 0, pay).replace(" ", "") == '"pay":1"pay":0'
    ok = rollouts.spans["told/ok"]
    assert [text_of(rollouts, row, ok).strip() for row in range(4)] == ["ok", "ok", "", ""]
    assert not (ok & ~rollouts.mask).any()


def test_rewards_of_turns_and_of_the_environment_land_on_the_ends_of_turns(looked):
    _, _, rollouts = looked
    found = {}
    for row, own in enumerate(rollouts.turns):
        ends = {turn.end - 1: n for n, turn in enumerate(own)}
        for column in (~rollouts.step_rewards[row].isnan()).nonzero().flatten().tolist():
            found[row, ends[column]] = float(rollouts.step_rewards[row, column])
    assert found == {
        (0, 0): 1.0, (0, 1): 0.0, (0, 2): 0.25, (1, 0): 0.0, (1, 1): 1.0, (1, 2): 0.25,
        (2, 0): 0.25, (3, 0): 0.25,
    }  # fmt: skip


def test_an_early_and_a_late_reward_of_an_environment_give_unlike_credit(looked):
    rollouts = replace(looked[2], advantages=torch.zeros(4))
    credit = turns(rollouts)
    of_turn = [[float(credit[row, t.start]) for t in own] for row, own in enumerate(rollouts.turns)]
    # returns from turn 1: 1.25, 1.25, .25, .25; from turn 2: .25, 1.25, 0, 0; from 3: .25, .25
    close(double(*of_turn[0]), [0.5, -0.125, 0.125])
    close(double(*of_turn[1]), [0.5, 0.875, 0.125])
    close(double(*of_turn[2], *of_turn[3]), [-0.5, -0.5, -0.375])


def test_saved_rollouts_keep_the_turns_and_their_absence(looked):
    folder, _, rollouts = looked
    saved = load_rollouts(find_rollouts(folder / "out"))
    assert saved.rollouts.turns == rollouts.turns
    path = folder / "old.parquet"
    without = replace(rollouts, turns=None)
    save_rollouts(path, without, saved.prompts, list(saved.tokens), "even/seq")
    assert load_rollouts(path).rollouts.turns is None


def test_a_result_that_was_dropped_for_its_length_cuts_the_completion_off(monkeypatch, tmp_path):
    script(monkeypatch, (call("look", pay=1), "ok"), ("ok",))
    quiet = Teller()
    quiet.turn_rewards = None  # it has no such turn
    _, rollouts = tool_run(tmp_path, quiet, environment_factory=Room, max_completion_length=75)
    assert rollouts.truncated.tolist() == [True, False] * 2
    assert [len(own) for own in rollouts.turns] == [1, 1] * 2
    assert rollouts.step_rewards.nan_to_num().sum(dim=1).tolist() == [1.0, 0.0] * 2


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(monkeypatch, tmp_path):
    """A group is across both; rewards come from turns, from places and from environments."""
    script(monkeypatch, *LOOKS)
    one = turned(tmp_path, 4)
    launch(2, "turns_two_processes.py", tmp_path)
    gradient, roles = torch.load(tmp_path / "two.pt")
    assert roles == [["call", "call", "answer"]] * 2 + [["answer"], ["call", "answer"]]
    assert difference(gradient, one[0].gradients[0]) <= ROUNDING
    assert one[0].gradients[0].norm() > 0


def turned(folder, rows):
    return tool_run(
        folder, Teller(), credit="bystander@0.0,turns@0.5,spans@0.5", environment_factory=Room,
        per_device_train_batch_size=rows,
    )  # fmt: skip


# ---- how likely the answer is -----------------------------------------------------------------


@allocation(needs=["turns", "answer_logps"])
def asking(rollouts):
    """Remember the rollouts."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


@pytest.mark.parametrize("batching", ["off", "auto"])
def test_the_answer_is_asked_for_after_all_that_was_said_before_a_turn(
    batching, monkeypatch, tmp_path
):
    """Also what tools said; in float64, row by row."""
    script(monkeypatch, *LOOKS)
    _, rollouts = tool_run(
        tmp_path, Teller(), credit="asking/seq", environment_factory=Room, save_rollouts=1,
        output_dir=str(tmp_path / "out"), columns={"answer": [42, 1234567]}, prompts=2,
        efficient_batching=batching,
    )  # fmt: skip
    saved = load_rollouts(find_rollouts(tmp_path / "out"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    answers = [tokenizer.encode(a, add_special_tokens=False) for a in ("42", "1234567")]
    found = saved.rollouts.answer_logps
    assert torch.equal(found.isnan(), rollouts.answer_logps.isnan())
    for row, own in enumerate(rollouts.turns):
        assert (~found[row].isnan()).nonzero().flatten().tolist() == [turn.start for turn in own]
        answer = answers[row // 4]
        for turn in own:
            before = rollouts.completion_ids[row, : turn.start].tolist()
            ids = torch.tensor([saved.prompt_ids[row] + before + answer])
            with torch.no_grad():
                logps = model.double()(ids).logits.log_softmax(-1)[0, -len(answer) - 1 : -1]
            expected = logps.gather(1, torch.tensor(answer)[:, None]).mean()
            assert float(found[row, turn.start]) == pytest.approx(float(expected), rel=1e-5)


def test_no_answer_is_asked_for_where_there_is_none(monkeypatch, tmp_path):
    script(monkeypatch, *LOOKS)
    options = {"credit": "asking/seq", "environment_factory": Room, "prompts": 2}
    _, rollouts = tool_run(tmp_path, Teller(), columns={"answer": [None, "a"]}, **options)
    assert rollouts.answer_logps[:4].isnan().all()
    assert not rollouts.answer_logps[4:, 0].isnan().any()
    with pytest.raises(CreditError, match=r"holds \['a', 'b'\], expected one text or number"):
        tool_run(tmp_path, Teller(), columns={"answer": [["a", "b"]] * 2}, **options)
    with pytest.raises(CreditError, match=r"how likely it finds the answer in the column 'answer'"):
        tool_run(tmp_path, Teller(), **options)


# ---- a rollout_func ---------------------------------------------------------------------------


def with_turns(given):
    rollout = rollouts_with(tools=True)

    def own(prompts, trainer):
        return rollout(prompts, trainer) | {"turns": [given for _ in prompts]}

    return {"rollout_func": own}


def test_a_rollout_func_may_say_where_turns_are():
    SEEN.clear()
    given = [{"start": 0, "end": 1, "role": "call"}, {"start": 1, "end": 2, "state": "s"}]
    ours(credit="onlooking/seq", max_steps=1, arguments=with_turns(given))
    assert set(SEEN[0].turns) == {(Turn(0, 1, 0, "call"), Turn(1, 2, 1, "answer", state="s"))}
    assert SEEN[0].turn[:, :2].tolist() == [[1, 2]] * 16  # two, though nothing is between them
    ours(credit="onlooking/seq", max_steps=1, tools=True)
    assert all(bool(own) for own in SEEN[1].turns)
    assert torch.equal(
        SEEN[1].turn * SEEN[1].mask, replace(SEEN[1], turns=None).turn * SEEN[1].mask
    )
    ours(credit="onlooking/seq", max_steps=1)
    assert SEEN[2].turns is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([{"start": 0, "end": 99}], "from 0 to 99"),
        ([{"start": 0, "end": 1, "role": "think"}], "the role 'think', expected 'call' or"),
        ([{"end": 1}], "start"),
        ([{"start": 0, "end": 1, "reward": 1.0}], "reward"),
        (3, "not iterable"),
    ],
)
def test_turns_that_cannot_be_are_refused_by_name(given, why):
    with pytest.raises(
        CreditError, match=rf"rollout_func returned the 'turns' .* for completion 0 .*{why}.*start"
    ):
        ours(credit="seq", max_steps=1, arguments=with_turns(given))


@allocation
def onlooking(rollouts):
    """Remember the rollouts."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


# ---- plain tools ------------------------------------------------------------------------------


def half(n: int) -> int:
    """Halve.

    Args:
        n: An even number.
    """
    if n % 2:
        raise ValueError("odd")
    return n // 2


async def third(n: int) -> int:
    """Take a third.

    Args:
        n: A multiple of three.
    """
    return half(2 * (n // 3)) if n % 3 == 0 else half(1)


def test_calls_that_fail_are_known_and_equal_answers_are_equal_states(monkeypatch, tmp_path):
    script(
        monkeypatch,
        (call("half", n=4) + "\n" + call("third", n=6), call("third", n=1), "ok"),
        (call("half", n=4), call("half", n=3), "ok"),
        (call("half", n=4), call("half", m=4), "no"),
        (call("third", n=6), call("half", n=2) + "\n" + call("none", n=2), "no"),
    )
    trace, _ = tool_run(tmp_path, scored_ok, credit="gigpo/seq", tools=[half, third],
                        max_completion_length=800, save_rollouts=1,
                        output_dir=str(tmp_path))  # fmt: skip
    saved = load_rollouts(find_rollouts(tmp_path)).rollouts.turns
    assert [[turn.failed for turn in own] for own in saved] == [[False, True, False]] * 4
    assert saved[0][0].tools == ("half", "third")
    assert saved[3][1].tools == ("half", "none")
    first, second, last = ([own[n].state for own in saved] for n in range(3))
    assert len(set(first)) == 1
    assert second[0] != second[1] == second[2] == second[3]  # 2 and 2; 2
    assert last[0] == last[1]  # odd
    assert len({*last}) == 3  # no n; 1 and no tool
    assert trace.logs[0]["credit/anchor_hits"] == (4 + 3 + 2) / 12


def scored_ok(completions, **_):
    return [float("ok" in completion_text(c)) for c in completions]
