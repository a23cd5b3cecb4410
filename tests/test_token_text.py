"""Which characters of the decoded text each token stands for."""

import random

import pytest
import torch
from harness import TOKENIZER
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grpo_credit import CreditError
from grpo_credit.trainer.token_text import TokenText


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


def places(found):
    return found.starts.tolist(), found.ends.tolist(), found.complete.tolist()


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
