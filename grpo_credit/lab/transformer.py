"""A real transformer over the strings of an enumerable language, and a tokenizer of characters."""

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from grpo_credit.lab.enumerable import Language
from grpo_credit.tiny.model import build_model

END = "<end>"
START = "<start>"


def character_tokenizer(alphabet: str, others: str = "") -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for each character, then one to end and one to start with.

    The characters of `others`, such as a tool's, have their tokens after those.
    """
    vocabulary = {c: i for i, c in enumerate([*alphabet, END, START, *others])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, bos_token=START
    )


class TransformerPolicy(nn.Module):
    """A real Llama-shaped transformer over the same symbols.

    Args:
        language: what it may say.
        seed: of the initial weights.
        hidden_size: width.
        layers: number of blocks.
    """

    def __init__(
        self, language: Language, seed: int = 0, hidden_size: int = 8, layers: int = 1
    ) -> None:
        super().__init__()
        self.language = language
        model = build_model(
            character_tokenizer(language.alphabet), seed, hidden_size, layers, heads=2
        )
        self.model = model.double().requires_grad_(True)

    def forward(self) -> Float[Tensor, "P V"]:
        """Return the log-probability of every token after every prefix, nats."""
        language, start = self.language, self.language.end + 1
        deepest = [p for p in language.prefixes if len(p) == language.length - 1]
        ids = torch.tensor([[start, *prefix] for prefix in deepest])
        logits = self.model(ids).logits[..., :start]  # the start token is never drawn
        by_prefix = {
            prefix[:n]: logits[row, n]
            for row, prefix in reversed(list(enumerate(deepest)))
            for n in range(language.length)
        }
        return torch.stack([by_prefix[p] for p in language.prefixes]).log_softmax(dim=1)
