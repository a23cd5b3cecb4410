"""From what a reward says about characters to tokens."""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness import TOKENIZER, ours
from rules import Parity, Verdict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torchrun import launch
from transformers import PreTrainedTokenizerFast

from grpo_credit import CreditError, allocation, resolve_credit
from grpo_credit.credit.needs import check_columns, check_told
from grpo_credit.credit.rollouts import PADDING
from grpo_credit.credit.saved import find_rollouts, load_rollouts
from grpo_credit.rewards import completion_text
from grpo_credit.trainer.collector import RolloutCollector
from grpo_credit.trainer.reward_annotations import Annotations
from grpo_credit.trainer.token_text import TokenText

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


def byte_level() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer that knows few words, so that characters are cut up."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=alphabet, special_tokens=["<pad>", "<eos>"]
    )
    tokenizer.train_from_iterator(["hello hello"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


BYTES = byte_level()


def tell(completions, tokenizer=TOKENIZER, reward=None, width=12, ids=None):
    ids = ids or [[*tokenizer.encode(c), tokenizer.eos_token_id] for c in completions]
    columns = {"prompts": ["p"] * len(completions)}
    rewards = [("teller", reward or Teller())]
    return Annotations(rewards, [0.5], completions, ids, width, tokenizer, columns)


def states(told):
    return told.find(frozenset({"states"}), torch.device("cpu"))["states"]


def places(found):
    return found.starts.tolist(), found.ends.tolist(), found.complete.tolist()


# ---- characters of tokens ---------------------------------------------------------------------


def test_each_character_belongs_to_its_token():
    found = TokenText.decode(TOKENIZER, [*TOKENIZER.encode("<think>1"), TOKENIZER.eos_token_id])
    assert found.text == "<think>1"
    assert places(found) == ([0, 7, 8], [7, 8, 8], [7, 8, 8])


def test_a_character_of_four_bytes_belongs_to_all_its_tokens():
    found = TokenText.decode(BYTES, BYTES.encode("a🙂b"))
    assert found.text == "a🙂b"
    starts, ends, complete = places(found)
    assert starts == [0, 1, 1, 1, 1, 2]
    assert ends == [1, 2, 2, 2, 2, 3]
    assert complete == [1, 1, 1, 1, 2, 3]  # whole with its last byte only


def test_a_completion_cut_off_within_a_character():
    found = TokenText.decode(BYTES, BYTES.encode("a🙂")[:-1])
    assert found.text == "a�"
    assert places(found)[1:] == ([1, 2, 2, 2], [1, 1, 1, 2])


def test_bytes_that_are_no_character_and_special_tokens_in_the_middle():
    ids = [*BYTES.encode("a🙂")[:-2], BYTES.eos_token_id, *BYTES.encode("bc")]
    found = TokenText.decode(BYTES, ids)
    assert found.text == BYTES.decode(ids, skip_special_tokens=True) == "a�bc"
    assert found.starts[0] == 0
    assert found.complete[-1] == 4


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        pass

    with pytest.raises(CreditError, match="Slow cannot say which characters a token stands for"):
        TokenText.decode(Slow(), [1])


def byte_fallback() -> PreTrainedTokenizerFast:
    """Build a tokenizer like Llama 2's: words, and bytes for what is no word."""
    names = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁hello", "lo", "▁", "a"]
    vocabulary = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )


def word_pieces() -> PreTrainedTokenizerFast:
    names = ["[UNK]", "[SEP]", "hello", "##lo", "a", "##b", ",", "don", "'", "t"]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]", pad_token="[SEP]"
    )


def sentence_pieces() -> PreTrainedTokenizerFast:
    names = ["<unk>", "▁hello", "▁wor", "ld", "▁", "a"]
    tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<unk>", pad_token="<unk>"
    )


@pytest.mark.parametrize(
    "tokenizer", [TOKENIZER, BYTES, byte_fallback(), word_pieces(), sentence_pieces()]
)
def test_token_texts_join_to_the_decoded_text_for_any_ids(tokenizer, caplog):
    generator = torch.Generator().manual_seed(0)
    for length in [*range(1, 14)] * 20 + [39]:
        ids = torch.randint(0, len(tokenizer), (length,), generator=generator).tolist()
        found = TokenText.decode(tokenizer, ids)
        assert found.text == tokenizer.decode(ids, skip_special_tokens=True)
        starts, ends, complete = places(found)
        assert complete == sorted(complete)
        assert complete[-1] == len(found.text)
        assert all(s <= e for s, e in zip(starts, ends, strict=True))
        covered = {c for s, e in zip(starts, ends, strict=True) for c in range(s, e)}
        assert covered == set(range(len(found.text)))
    assert not caplog.records  # none was given up


def test_bytes_without_a_word_join_to_characters():
    tokenizer = byte_fallback()
    newline, face = [2 + 0x0A], [2 + byte for byte in "🙂".encode()]
    hello = tokenizer.convert_tokens_to_ids("▁hello")
    found = TokenText.decode(tokenizer, [hello, *newline, *face])
    assert found.text == "hello\n🙂"
    starts, _, complete = places(found)
    assert complete == [5, 6, 6, 6, 6, 7]
    assert starts == [0, 5, 6, 6, 6, 6]
    cut = TokenText.decode(tokenizer, [hello, *newline, *face[:2]])
    assert cut.text == "hello\ufffd\ufffd\ufffd"  # as the tokenizer has it


def test_a_run_of_broken_bytes_is_read_in_one_sweep():
    ids = [BYTES.convert_tokens_to_ids("ð")] * 20_000
    assert TokenText.decode(BYTES, ids).text == "\ufffd" * 20_000


def test_a_text_that_is_not_among_the_tokens_counts_as_decided_by_its_end(caplog):
    told = tell(["x,z", "1,2"], ids=[TOKENIZER.encode("123"), TOKENIZER.encode("1,2")])
    assert told.decided().tolist() == [[3], [2]]
    assert "its tokens spell '123': its spans are left out" in caplog.text
    assert told.spans()["teller/comma"].nonzero().tolist() == [[1, 1]]


# ---- what a reward tells ----------------------------------------------------------------------


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


def spelled_slowly(tokenizer, ids):
    """Give how much of the text is there after each token, by decoding every prefix."""
    special = set(tokenizer.all_special_ids)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    ends = []
    for count in range(1, len(ids) + 1):
        prefix = [i for i in ids[:count] if i not in special]
        decoded = tokenizer.decode(prefix, skip_special_tokens=True)
        ends.append(next(n for n in range(len(decoded), -1, -1) if text[:n] == decoded[:n]))
    return ends


def test_characters_are_whole_with_the_token_that_decoding_prefixes_names():
    words = ["a", "é", "語", "🙂", "hello", " ", ",", "🙂🙂"]
    rng = random.Random(0)
    for _ in range(60):
        ids = [i for _ in range(6) for i in BYTES.encode(rng.choice(words))]
        ids.insert(rng.randrange(len(ids) + 1), BYTES.eos_token_id)
        assert TokenText.decode(BYTES, ids).complete.tolist() == spelled_slowly(BYTES, ids)


def test_an_id_that_the_tokenizer_does_not_know_adds_nothing():
    found = TokenText.decode(BYTES, [*BYTES.encode("a"), len(BYTES) + 7, *BYTES.encode("b")])
    assert found.text == "ab"
    assert found.complete.tolist() == [1, 1, 2]


def test_an_already_decoded_text_is_taken_only_if_the_tokens_join_to_it():
    ids = BYTES.encode("a🙂b")
    assert TokenText.decode(BYTES, ids, "a🙂b").text == "a🙂b"
    assert TokenText.decode(BYTES, ids, "b").text == "a🙂b"


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
        plan = SimpleNamespace(strategy=resolve_credit("seq"))
        host = SimpleNamespace(
            plan=plan, save_every=1, num_iterations=1, tools=tools,
            args=SimpleNamespace(steps_per_generation=1, gradient_accumulation_steps=1),
            model=SimpleNamespace(training=True), state=SimpleNamespace(global_step=0),
        )  # fmt: skip
        return RolloutCollector(host).needs

    assert needs([]) - needs([add]) == {"decided", "states"}
    assert {"spans", "step_rewards", "texts", "sum_sq_probs"} <= needs([add])
