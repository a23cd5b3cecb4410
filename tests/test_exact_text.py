"""A completion that must be a text of the data set, and where that is decided."""

import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_credit.credit.needs import check_told
from grpo_credit.credit.strategy import CreditError
from grpo_credit.tiny.tokenizer import build_word_tokenizer
from grpo_credit.trainer.reward_annotations import Annotations
from rewards import Decided, ExactText, gate
from rewards.automaton import automaton_of

REWARD = ExactText("path", name="path")
TOKENIZER = build_word_tokenizer([f"{label:02}" for label in range(20)])
TEXTS = st.text("ab \n", max_size=6)


def test_only_the_text_itself_scores_blanks_around_aside():
    texts = ["a b", " a b\n", "a  b", "a", "a b c", "A b", ""]
    assert REWARD(texts, path=["a b"] * 7) == [1, 1, 0, 0, 0, 0, 0]
    assert REWARD(["a b", "x"], path=[None, " x "]) == [None, 1.0]
    assert REWARD(["x", "y", "z"], path=[["x", "y"]] * 3) == [1, 1, 0]
    assert REWARD(["x"], path=[[]]) == [None]
    assert REWARD(["", "", "x"], path=["", float("nan"), ["", "x"]]) == [None, None, 1.0]
    assert REWARD(["42", "42.0", "nan"], path=[42.0, 42.0, None]) == [1.0, 1.0, None]
    assert REWARD(["x"], path=[{"value": "x"}]) == [None]  # no text, and no list of texts
    assert REWARD.unreadable(["x", "", None, ["x", ""], []]) == ["", None, []]
    assert REWARD([[{"role": "assistant", "content": "7"}]], path=["7"]) == [1.0]


@settings(deadline=None, max_examples=300)
@given(text=TEXTS, golds=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=3))
def test_score_and_decision_are_those_of_the_automaton_of_the_texts(text, golds):
    pattern = "|".join(regex.escape(gold.strip()) for gold in golds)
    machine = automaton_of(pattern, 0, search=False, strip=True)
    assert REWARD([text], path=[golds]) == [machine.accepts(text)]
    assert REWARD.decided([text], path=[golds]) == [Decided(machine.settled(text))]
    assert REWARD.automata([text], path=[golds])[0].trace(text) == machine.trace(text)


def test_without_its_column_a_decision_is_bounded_by_the_end():
    assert REWARD.decided(["x"]) == [Decided(None, exact=False)]
    assert gate(REWARD, by=REWARD).decided(["x"]) == [Decided(None, exact=False)]
    assert REWARD.decided(["x"], path=[None]) == [Decided(0)]
    assert REWARD.automata(["x"], path=[None]) == [None]


def tell(texts, golds):
    ids = [TOKENIZER.encode(text) for text in texts]
    columns = {"path": golds, "prompts": [""] * len(texts), "unrelated": [0] * len(texts)}
    return Annotations([("path", REWARD)], [1.0], texts, ids, 4, TOKENIZER, columns)


def test_the_first_wrong_token_decides():
    told = tell(["03 11 05", "03 12 05", "13 11 05", "03 11", "03 11 05 05"], ["03 11 05"] * 5)
    assert told.decided().tolist() == [[3], [2], [1], [2], [4]]  # 3 and 2 words: by their end


def test_states_are_the_tokens_right_so_far_or_none():
    right, wrong, short, _ = (
        tell(["03 11 05", "03 12 05", "03 11", "13 11 05"], ["03 11 05"] * 4)
        .find(frozenset({"states"}), torch.device("cpu"))["states"]
        .tolist()
    )
    assert right[:3] == [wrong[0], wrong[1], short[2]]
    assert len(set(right[:4])) == 4
    assert wrong[2] == wrong[3] not in right
    assert short[3] == short[2]


def test_rules_that_need_states_accept_a_reward_that_tells_them_by_column():
    check_told("automaton/seq", frozenset({"states", "decided"}), [("path", REWARD)], [1.0])
    with pytest.raises(CreditError, match="needs 'states', which no reward with a weight tells"):
        check_told("automaton/seq", frozenset({"states"}), [("path", len)], [1.0])
