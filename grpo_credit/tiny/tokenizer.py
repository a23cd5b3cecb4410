"""A character-level tokenizer in which each format tag is one token."""

import string

from tokenizers import AddedToken, Tokenizer, decoders, models
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
    return PreTrainedTokenizerFast(
        tokenizer_object=_character_tokenizer(),
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
