"""A Llama-shaped causal language model small enough to train on a laptop."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

MAX_POSITIONS = 512


def build_model(
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 8,
) -> PreTrainedModel:
    """Build an untrained model for `tokenizer`, about 0.5 million parameters by default.

    The global random state is left as it was.

    Args:
        tokenizer: Gives the vocabulary and the end and padding ids.
        seed: Seed of the initial weights.
        hidden_size: Width; a multiple of `2 * heads` (rotary positions come in pairs).
        layers: Number of blocks.
        heads: Attention heads per block.

    Returns:
        A float32 model on the CPU, in evaluation mode.

    Raises:
        ValueError: If `hidden_size` does not fit `heads`.
    """
    if hidden_size % (2 * heads):
        raise ValueError(f"hidden_size is {hidden_size}, expected a multiple of {2 * heads}")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=hidden_size**-0.5,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return _seeded(config, seed)


def outline() -> tuple[Any, PreTrainedTokenizerBase]:
    """Describe the default model of the character tasks, without warm-starting one.

    Returns:
        Its configuration and its tokenizer.
    """
    from grpo_credit.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    return build_model(tokenizer).config, tokenizer


def _seeded(config: LlamaConfig, seed: int) -> PreTrainedModel:
    """Initialise on the CPU; `torch.manual_seed` would also reseed the accelerators."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()
