"""Tokenizers of the tiny tasks: one id per character or tag, and one id per word."""

import string
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# Without "<" and ">" a tag can be spelled in one way only: every format choice is one token.
ALPHABET = "\n" + string.printable[:95].replace("<", "").replace(">", "")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SPECIALS = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: one id per character of `ALPHABET`, per tag and per special token.

    Tags are ordinary tokens, so they survive `skip_special_tokens=True`. Decoding inserts nothing:
    `decode(encode(s)) == s` for every string over `ALPHABET` and `TAGS`. There is no
    beginning-of-sequence token, and encoding adds no token of its own.

    Returns:
        A tokenizer that pads on the left, as generation needs; other characters become `<unk>`.
    """
    return _left_padded(_character_tokenizer())


def build_word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer of blank-separated words: one id per word and per special token.

    Decoding puts one space between words: `decode(encode(s)) == s` for words parted by one space.
    There is no beginning-of-sequence token, and encoding adds no token of its own.

    Args:
        words: Different words without blanks; their ids follow those of the special tokens.

    Returns:
        A tokenizer that pads on the left, as generation needs; other words become `<unk>`.
    """
    vocabulary = {word: i for i, word in enumerate((*SPECIALS.values(), *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _left_padded(tokenizer)


def _left_padded(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **SPECIALS,
    )


def _character_tokenizer() -> Tokenizer:
    """Return a byte-pair model without merges: it never joins two characters."""
    vocabulary = {token: i for i, token in enumerate((*SPECIALS.values(), *TAGS, *ALPHABET))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIALS["unk_token"]))
    tokenizer.decoder = decoders.Fuse()  # the default joins tokens with spaces
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return tokenizer
