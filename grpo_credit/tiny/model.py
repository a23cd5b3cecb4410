"""Causal language models small enough to train on a laptop: Llama-shaped, and GPT-2-shaped."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

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
    return _seeded(LlamaForCausalLM, config, seed)


def build_gpt(
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
    hidden_size: int = 64,
    layers: int = 3,
    heads: int = 4,
) -> PreTrainedModel:
    """Build an untrained model with learned positions, which takes a quarter less computing.

    The global random state is left as it was. Prompts of different lengths are not for it: trainers
    pad them on the left without saying where they begin.

    Args:
        tokenizer: Gives the vocabulary and the end and padding ids.
        seed: Seed of the initial weights.
        hidden_size: Width; a multiple of `heads`.
        layers: Number of blocks.
        heads: Attention heads per block.

    Returns:
        A float32 model on the CPU, in evaluation mode, without dropout.
    """
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_POSITIONS,
        n_embd=hidden_size,
        n_inner=2 * hidden_size,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu",
        initializer_range=hidden_size**-0.5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return _seeded(GPT2LMHeadModel, config, seed)


def outline() -> tuple[Any, PreTrainedTokenizerBase]:
    """Describe the default model of the character tasks, without warm-starting one.

    Returns:
        Its configuration and its tokenizer.
    """
    from grpo_credit.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    return build_model(tokenizer).config, tokenizer


def _seeded(build: Callable[[Any], Any], config: Any, seed: int) -> PreTrainedModel:
    """Initialise on the CPU; `torch.manual_seed` would also reseed the accelerators."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return build(config).float().eval()
