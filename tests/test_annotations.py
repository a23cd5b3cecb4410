"""From what a reward says about characters to tokens."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness import TOKENIZER, ours
from rules import Parity, Verdict
from test_token_text import BYTES
from torchrun import launch

from grpo_credit import CreditError, allocation, resolve_credit
from grpo_credit.credit.fields import PADDING
from grpo_credit.credit.needs import check_columns, check_told
from grpo_credit.credit.saved import find_rollouts, load_rollouts
from grpo_credit.rewards import completion_text
from grpo_credit.trainer.collector import RolloutCollector
from grpo_credit.trainer.reward_annotations import Annotations

SEEN = []
NAN, INF = float("nan"), float("inf")


@allocation(needs=["spans", "decided", "states", "step_rewards", "texts"])
def onlooker(rollouts):
    """Remember what rewards told."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


@dataclass
class Teller:
    """Reward the first comma, and say everything that a reward may say."""

    columns: tuple = ("prompts",)
    asked: list[Any] = field(default_factory=list)
    __name__ = "teller"
    automaton = Parity()

    def __call__(self, completions, **_):
        return [float("," in c) for c in completions]

    def spans(self, completions, prompts):
        self.asked.append(prompts)
        places = [c.find(",") for c in completions]
        return [{"comma": [(p, p + 1)]} if p >= 0 else {} for p in places]

    def decided(self, completions):
        return [Verdict(c.find(",") + 1 if "," in c else None) for c in completions]

    def steps(self, completions):
        return [[(p + 1, 2.0) for p, x in enumerate(c) if x == ","] for c in completions]


def tell(completions, tokenizer=TOKENIZER, reward=None, width=12, ids=None):
    ids = ids or [[*tokenizer.encode(c), tokenizer.eos_token_id] for c in completions]
    columns = {"prompts": ["p"] * len(completions)}
    rewards = [("teller", reward or Teller())]
    return Annotations(rewards, [0.5], completions, ids, width, tokenizer, columns)


def states(told):
    return told.find(frozenset({"states"}), torch.device("cpu"))["states"]


# ---- what a reward tells ----------------------------------------------------------------------


def test_a_text_that_is_not_among_the_tokens_counts_as_decided_by_its_end(caplog):
    told = tell(["x,z", "1,2"], ids=[TOKENIZER.encode("123"), TOKENIZER.encode("1,2")])
    assert told.decided().tolist() == [[3], [2]]
    assert "its tokens spell '123': its spans are left out" in caplog.text
    assert told.spans()["teller/comma"].nonzero().tolist() == [[1, 1]]


def test_spans_mark_the_tokens_that_share_a_character():
    spans = tell(["1,2", "12"]).spans()
    assert list(spans) == ["teller/comma"]
    assert spans["teller/comma"].nonzero().tolist() == [[0, 1]]
    wide = tell(["🙂,a"], BYTES).spans()["teller/comma"]
    assert wide.nonzero().tolist() == [[0, 4]]  # four tokens for the face


def test_the_deciding_token_counts_as_inside():
    # "1,2<eos>": settled by the second token; "12<eos>": by its end alone
    assert tell(["1,2", "12"]).decided().tolist() == [[2], [3]]
    assert tell(["🙂,a"], BYTES).decided().tolist() == [[5]]


def test_states_before_the_first_and_after_each_token():
    assert states(tell(["1,2"], width=5)).tolist() == [[0, 1, 1, 0, 0, 0]]
    both = Annotations(
        [("a", Teller()), ("none", len), ("b", Teller())], [1.0, 1.0, 1.0], ["1,"],
        [TOKENIZER.encode("1,")], 3, TOKENIZER, {},
    )  # fmt: skip
    assert states(both).tolist() == [[0, 3, 3, 3]]  # 2 · 1 + 1: one number for both


def test_a_step_ends_at_its_token_and_is_weighted():
    rewards = tell(["1,2,"], width=6).step_rewards()
    assert rewards.isnan().tolist() == [[True, False, True, False, True, True]]
    assert rewards[0, 1] == 1.0  # 0.5 · 2
    assert tell(["🙂,"], BYTES).step_rewards().isnan().logical_not().nonzero().tolist() == [[0, 4]]


def test_the_last_message_of_a_conversation_is_found_among_the_tokens():
    ids = TOKENIZER.encode("1,9:12,3")
    chat = [{"role": "assistant", "content": "1,9"}, {"role": "assistant", "content": "12,3"}]
    told = tell([chat], ids=[ids], reward=Chatty())
    assert told.decided().tolist() == [[7]]  # the comma of the last message is the seventh token
    assert told.spans()["teller/comma"].nonzero().tolist() == [[0, 6]]


def test_spans_point_into_what_the_model_wrote_though_a_tool_repeats_it():
    ids = TOKENIZER.encode("1,2:9,1,2")
    chat = [
        {"role": "assistant", "content": "1,2", "tool_calls": [{}]},
        {"role": "tool", "content": "9,1,2"},
    ]
    told = tell([chat], ids=[ids], reward=Chatty())
    assert told.spans()["teller/comma"].nonzero().tolist() == [[0, 1]]
    assert told.decided().tolist() == [[2]]


class Chatty(Teller):
    """Read what the assistant wrote last."""

    def spans(self, completions):
        return super().spans(list(map(completion_text, completions)), None)

    def decided(self, completions):
        return super().decided(list(map(completion_text, completions)))


@pytest.mark.parametrize("answer", [None, [], [[], []], 3])
@pytest.mark.parametrize("method", ["spans", "decided", "steps"])
def test_a_reward_without_one_answer_per_completion_is_named(method, answer):
    class Short(Teller):
        pass

    setattr(Short, method, lambda self, completions: answer)
    with pytest.raises(
        CreditError, match=rf"reward 'teller': `{method}` returned .* for 1 completions; expected a"
    ):
        find(tell(["1"], reward=Short()), method)


def find(told, method):
    need = {"steps": "step_rewards"}.get(method, method)
    return told.find(frozenset({need}), torch.device("cpu"))[need]


OUTSIDE = [(0, 4), (-1, 2), (2, 1), (0.0, 1), (0, "1"), (0, None)]
WRONG = [
    *(("spans", [{"comma": [place]}], "'comma' is from|as an integer") for place in OUTSIDE),
    ("spans", [{"comma": [(1,)]}], "unpack"),
    ("spans", [[(0, 1)]], "items"),
    *(("steps", [[(end, 1.0)]], "a step is from|as an integer") for end in (4, -1, 1.5, None)),
    *(("steps", [[(1, score)]], "a step's reward is|real number") for score in (NAN, INF, None)),
    ("steps", [[1]], "unpack"),
    ("steps", [None], "not iterable"),
    *(("decided", [Verdict(at)], "decided is from|as an integer") for at in (4, -1, 1.5, "1")),
    ("decided", [1], "chars"),
    ("decided", [None], "chars"),
]


@pytest.mark.parametrize(("method", "answer", "why"), WRONG)
def test_a_place_that_is_not_in_the_text_is_named(method, answer, why):
    class Odd(Teller):
        pass

    setattr(Odd, method, lambda self, completions: answer)
    with pytest.raises(
        CreditError,
        match=rf"reward 'teller': `{method}` gave .* for completion 0, a text of 3 characters "
        rf"\(.*({why}).*\); expected a.*, places from 0 to 3",
    ):
        find(tell(["1,2"], reward=Odd()), method)


def test_the_whole_text_and_nothing_of_it_are_places():
    class Edge(Teller):
        def spans(self, completions):
            return [{"all": [(0, 3)], "none": [(3, 3)]}]

        def steps(self, completions):
            return [[(np.int64(3), np.float32(2.0))]]

        def decided(self, completions):
            return [Verdict(3)]

    told = tell(["1,2"], reward=Edge(), width=4)
    assert told.spans()["teller/all"].tolist() == [[True, True, True, False]]
    assert not told.spans()["teller/none"].any()
    assert told.step_rewards().nan_to_num().tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert told.decided().tolist() == [[3]]


def test_a_reward_may_name_no_span_of_a_completion_but_not_be_async():
    class Odd(Teller):
        async def steps(self, completions):
            return [[]]

        def spans(self, completions):
            return [None]  # nothing

    with pytest.raises(CreditError, match="reward 'teller': `steps` is async; expected a plain"):
        tell(["1"], reward=Odd()).step_rewards()
    assert tell(["1"], reward=Odd()).spans() == {}


WHY = {
    "spans": "CreditError: reward 'teller': `spans` gave {'comma': [(0, 11)]} for completion 0",
    "steps": "CreditError: reward 'teller': `steps` gave [(11, 1.0)] for completion 0",
    "decided": "CreditError: reward 'teller': `decided` gave Verdict(chars=11) for completion 0",
    "automata": "KeyError: 11",
}


def test_an_error_on_one_rank_is_an_error_on_all(tmp_path):
    printed = launch(2, "annotations_two_processes.py", tmp_path).splitlines()
    for method, why in WHY.items():
        (line,) = [p for p in printed if p.startswith(f"1 {method} ")]
        assert line.startswith(f"1 {method} {why}")
        (line,) = [p for p in printed if p.startswith(f"0 {method} ")]
        assert line.startswith(f"0 {method} CreditError: rank 1 failed with {why}")
    # nobody waits; and both train on, where padding does not tell how the ranks shared the rows
    rollouts = load_rollouts(find_rollouts(tmp_path)).rollouts
    ids = rollouts.completion_ids
    beyond = torch.arange(ids.shape[1]) >= rollouts.mask.long().cumsum(1).argmax(1)[:, None] + 1
    assert beyond[:8].all(0).any() != beyond[8:].all(0).any()  # one rank is narrower
    for name in ("old_logps", "entropies", "sum_sq_probs"):
        assert set(getattr(rollouts, name)[beyond].tolist()) == {PADDING[name]}


def test_padding_is_the_same_on_one_rank(tmp_path):
    ours(credit="token_baseline/seq", max_steps=1, save_rollouts=1, output_dir=str(tmp_path))
    rollouts = load_rollouts(find_rollouts(tmp_path)).rollouts
    beyond = torch.arange(rollouts.mask.shape[1]) >= rollouts.mask.sum(1, keepdim=True)
    for name in ("old_logps", "entropies", "sum_sq_probs"):
        assert set(getattr(rollouts, name)[beyond].tolist()) == {PADDING[name]}


def test_rows_without_an_automaton_share_no_state_with_others():
    class Some(Teller):
        def automaton_for(self, prompt):
            return Parity() if prompt else None

    told = Annotations(
        [("a", Teller()), ("b", Some())], [1.0, 1.0], ["1", "12"], [TOKENIZER.encode("1,")] * 2, 2,
        TOKENIZER, {"prompts": ["", "p"]},
    )  # fmt: skip
    without, with_one = states(told).tolist()
    assert not set(without) & set(with_one)


def test_states_of_different_automata_are_different():
    class ByPrompt(Teller):
        def automaton_for(self, prompt):
            return Three() if prompt == "3" else Parity()

    class Three:
        table = ((0, 1), (1, 2), (2, 2))

        def trace(self, text):
            return [min(2, n) for n in range(len(text) + 1)]

    told = Annotations(
        [("teller", ByPrompt())], [1.0], ["12", "12"], [TOKENIZER.encode("12")] * 2, 2, TOKENIZER,
        {"prompts": ["2", "3"]},
    )  # fmt: skip
    two, three = states(told).tolist()
    assert [n - two[0] for n in two] == [0, 1, 0]
    assert [n - three[0] for n in three] == [0, 1, 2]
    assert not set(two) & set(three)


# ---- through the trainer ----------------------------------------------------------------------


def test_the_trainer_puts_it_into_the_rollouts():
    SEEN.clear()
    teller = Teller()
    ours(
        credit="onlooker/seq", max_steps=1, tools=True, reward_weights=[1.0, 0.5],
        arguments={"reward_funcs": [length, teller]},
    )  # fmt: skip
    (seen,) = SEEN
    assert seen.reward_weights == (1.0, 0.5)
    assert set(seen.spans) == {"teller/comma"}
    assert len(teller.asked[0]) == len(seen.texts) == 16
    comma = TOKENIZER.convert_tokens_to_ids(",")
    ends = seen.mask.long().cumsum(1).argmax(1) + 1
    for row, text in enumerate(seen.texts):
        columns = (seen.completion_ids[row] == comma).nonzero().flatten().tolist()
        first = columns[0] if columns else None
        assert seen.spans["teller/comma"][row].nonzero().flatten().tolist() == columns[:1]
        assert seen.decided[row].tolist() == [ends[row], ends[row] if first is None else first + 1]
        assert (~seen.step_rewards[row].isnan()).nonzero().flatten().tolist() == columns
        for t, (start, end) in enumerate(seen.offsets[row].tolist()):
            assert text[start:end] == TOKENIZER.decode(
                [seen.completion_ids[row, t]], skip_special_tokens=True
            )
        digits = [0, *torch.tensor([c.isdigit() for c in text]).cumsum(0).tolist()]
        assert seen.states[row, : len(text) + 1].tolist() == [d % 2 for d in digits]
        assert (seen.states[row, len(text) :] == digits[-1] % 2).all()


def length(completions, **_):
    """Reward length; it says nothing more."""
    return [len(c) / 12 for c in completions]


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        ("spans", "spans"),
        ("decided", "decided"),
        ("states", "automaton"),
        ("step_rewards", "steps"),
    ],
)
def test_what_no_reward_tells_cannot_be_needed(needs, missing):
    with pytest.raises(
        CreditError, match=rf"'x' needs '{needs}', which no .*one that has `{missing}"
    ):
        check_told("x", frozenset({needs}), [("length", length), ("teller", Teller())], [1.0, 0.0])
    check_told("x", frozenset({needs}), [("length", length), ("teller", Teller())], [1.0, 0.5])


def test_a_strategy_without_its_reward_is_refused_before_training():
    with pytest.raises(CreditError, match=r"'decided/seq' needs 'decided', which no reward with a"):
        ours(credit="decided/seq", arguments={"reward_funcs": length})


def test_a_column_that_a_reward_declares_must_be_there():
    with pytest.raises(
        CreditError, match=r"'teller' needs the column 'gold'; the data set has pro"
    ):
        ours(credit="seq", arguments={"reward_funcs": Teller(columns=("prompts", "gold"))})
    check_columns([("teller", Teller())], ["prompts"])
    with pytest.raises(CreditError, match="needs the column 'answer'"):
        check_columns([("teller", Teller(columns="answer"))], ["prompts"])


class Room:
    """An environment."""

    def reset(self, **_):
        return ""


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.mark.parametrize("loop", [{"tools": [add]}, {"environment_factory": Room}])
@pytest.mark.parametrize(
    ("credit", "rules"),
    [
        ("decided/seq", "decided"),
        ("loo+decided/seq", "decided"),
        ("automaton@0.5,even@0.5", "automaton"),
        ("onlooker/dapo", "onlooker"),
    ],
)
def test_what_settles_a_message_is_refused_where_more_may_follow(credit, rules, loop):
    (argument,) = loop
    with pytest.raises(
        CreditError, match=rf"cannot be used with {argument}: {rules} would call a message settled "
    ):
        ours(credit=credit, arguments={"reward_funcs": Teller(), **loop})


def test_rollouts_saved_under_tools_do_not_hold_it():
    def needs(tools):
        plan = SimpleNamespace(strategy=resolve_credit("seq"), refers=False, vine=None)
        host = SimpleNamespace(
            plan=plan, save_every=1, num_iterations=1, tools=tools,
            args=SimpleNamespace(steps_per_generation=1, gradient_accumulation_steps=1),
            model=SimpleNamespace(training=True), state=SimpleNamespace(global_step=0),
        )  # fmt: skip
        return RolloutCollector(host).needs

    assert needs([]) - needs([add]) == {"decided", "states"}
    assert {"spans", "step_rewards", "texts", "sum_sq_probs"} <= needs([add])
