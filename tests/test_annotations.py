"""From what a reward says about characters to tokens."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from harness import TOKENIZER, ours
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grpo_credit import CreditError, allocation
from grpo_credit.annotations import Annotations, check_columns, check_told
from grpo_credit.token_text import TokenText

SEEN = []


@allocation(needs=["spans", "decided", "states", "step_rewards", "texts"])
def onlooker(rollouts):
    """Remember what rewards told."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


class Verdict(NamedTuple):
    chars: int | None


class Automaton:
    """Remember the parity of the digits seen."""

    table = ((0, 1), (1, 0))

    def trace(self, text):
        states = [0]
        for character in text:
            states.append(states[-1] ^ character.isdigit())
        return states


@dataclass
class Teller:
    """Reward the first comma, and say everything that a reward may say."""

    columns: tuple = ("prompts",)
    asked: list[Any] = field(default_factory=list)
    __name__ = "teller"
    automaton = Automaton()

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


# ---- characters of tokens ---------------------------------------------------------------------


def test_each_character_belongs_to_its_token():
    found = TokenText.decode(TOKENIZER, [*TOKENIZER.encode("<think>1"), TOKENIZER.eos_token_id])
    assert found == TokenText("<think>1", [0, 7, 8], [7, 8, 8], [7, 8, 8])


def test_a_character_of_four_bytes_belongs_to_all_its_tokens():
    found = TokenText.decode(BYTES, BYTES.encode("a🙂b"))
    assert found.text == "a🙂b"
    assert found.starts == [0, 1, 1, 1, 1, 2]
    assert found.ends == [1, 2, 2, 2, 2, 3]
    assert found.complete == [1, 1, 1, 1, 2, 3]  # whole with its last byte only


def test_a_completion_cut_off_within_a_character():
    found = TokenText.decode(BYTES, BYTES.encode("a🙂")[:-1])
    assert found.text == "a�"
    assert found.ends == [1, 2, 2, 2]
    assert found.complete == [1, 1, 1, 2]


def test_bytes_that_are_no_character_and_special_tokens_in_the_middle():
    ids = [*BYTES.encode("a🙂")[:-2], BYTES.eos_token_id, *BYTES.encode("bc")]
    found = TokenText.decode(BYTES, ids)
    assert found.text == BYTES.decode(ids, skip_special_tokens=True) == "a�bc"
    assert found.starts[0] == 0
    assert found.complete[-1] == 4


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES])
def test_token_texts_join_to_the_decoded_text_for_any_ids(tokenizer):
    generator = torch.Generator().manual_seed(0)
    for length in range(40):
        ids = torch.randint(0, len(tokenizer), (length,), generator=generator).tolist()
        found = TokenText.decode(tokenizer, ids)
        assert found.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert found.complete == sorted(found.complete)
        assert all(s <= e for s, e in zip(found.starts, found.ends, strict=True))
        covered = {c for s, e in zip(found.starts, found.ends, strict=True) for c in range(s, e)}
        assert covered == set(range(len(found.text)))


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


@pytest.mark.parametrize("build", [byte_fallback, word_pieces, sentence_pieces])
def test_other_decoders_are_spelled_out_too(build, caplog):
    tokenizer = build()
    generator = torch.Generator().manual_seed(0)
    for length in [*range(1, 14)] * 20:
        ids = torch.randint(0, len(tokenizer), (length,), generator=generator).tolist()
        found = TokenText.decode(tokenizer, ids)
        assert found.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert found.complete[-1] == len(found.text)
    assert not caplog.records  # none was given up


def test_bytes_without_a_word_join_to_characters():
    tokenizer = byte_fallback()
    newline, face = [2 + 0x0A], [2 + byte for byte in "🙂".encode()]
    hello = tokenizer.convert_tokens_to_ids("▁hello")
    found = TokenText.decode(tokenizer, [hello, *newline, *face])
    assert found.text == "hello\n🙂"
    assert found.complete == [5, 6, 6, 6, 6, 7]
    assert found.starts == [0, 5, 6, 6, 6, 6]
    cut = TokenText.decode(tokenizer, [hello, *newline, *face[:2]])
    assert cut.text == "hello\ufffd\ufffd\ufffd"  # as the tokenizer has it


def test_a_run_of_broken_bytes_is_read_in_one_sweep():
    ids = [BYTES.convert_tokens_to_ids("ð")] * 20_000
    assert TokenText.decode(BYTES, ids).text == "\ufffd" * 20_000


def test_a_text_that_is_not_among_the_tokens_counts_as_decided_by_its_end(caplog):
    told = tell(["x,z", "1,2"], ids=[TOKENIZER.encode("123"), TOKENIZER.encode("1,2")])
    assert "its tokens spell '123': its spans are left out" in caplog.text
    assert told.decided().tolist() == [[3], [2]]
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
    assert tell(["1,2"], width=5).states().tolist() == [[0, 1, 1, 0, 0, 0]]
    both = Annotations(
        [("a", Teller()), ("none", len), ("b", Teller())], [1.0, 1.0, 1.0], ["1,"],
        [TOKENIZER.encode("1,")], 3, TOKENIZER, {},
    )  # fmt: skip
    assert both.states().tolist() == [[0, 3, 3, 3]]  # 2 · 1 + 1: one number for both


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


class Chatty(Teller):
    """Read the last message."""

    def spans(self, completions):
        return super().spans([c[-1]["content"] for c in completions], None)

    def decided(self, completions):
        return super().decided([c[-1]["content"] for c in completions])


def test_a_reward_with_too_few_answers_is_refused():
    class Short(Teller):
        def decided(self, completions):
            return []

    with pytest.raises(CreditError, match=r"Short\.decided returned 0 answers for 1 completions"):
        tell(["1"], reward=Short()).decided()


def test_a_reward_that_answers_something_else_is_refused():
    class Odd(Teller):
        def decided(self, completions):
            return [1]

        async def steps(self, completions):
            return [[]]

        def spans(self, completions):
            return [None]  # nothing

    with pytest.raises(CreditError, match=r"Odd\.decided returned 1, expected a rewards\.Decided"):
        tell(["1"], reward=Odd()).decided()
    with pytest.raises(CreditError, match=r"Odd\.steps is async; expected a plain method"):
        tell(["1"], reward=Odd()).step_rewards()
    assert tell(["1"], reward=Odd()).spans() == {}


def test_states_of_different_automata_are_different():
    class ByPrompt(Teller):
        def automaton_for(self, prompt):
            return Three() if prompt == "3" else Automaton()

    class Three:
        table = ((0, 1), (1, 2), (2, 2))

        def trace(self, text):
            return [min(2, n) for n in range(len(text) + 1)]

    told = Annotations(
        [("teller", ByPrompt())], [1.0], ["12", "12"], [TOKENIZER.encode("12")] * 2, 2, TOKENIZER,
        {"prompts": ["2", "3"]},
    )  # fmt: skip
    two, three = told.states().tolist()
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
