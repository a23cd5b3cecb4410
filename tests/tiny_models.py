"""Tiny random models of transformers, with large weights, and adapters on them."""

from collections.abc import Callable
from typing import Any

import torch
from custom_models import Changed
from harness import TOKENIZER
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

SIZES = {
    "vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": TOKENIZER.pad_token_id, "eos_token_id": TOKENIZER.eos_token_id,
    "bos_token_id": TOKENIZER.eos_token_id, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
GPT = {
    "vocab_size": len(TOKENIZER), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128,
    "pad_token_id": TOKENIZER.pad_token_id, "eos_token_id": TOKENIZER.eos_token_id,
    "bos_token_id": TOKENIZER.eos_token_id, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
SLIDING = {**GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
MLA = {
    **SIZES, "num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4, "v_head_dim": 4,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 8,
}  # fmt: skip
MAMBA = {
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32,
    "mamba_chunk_size": 8, "mamba_dt_rank": 2,
}  # fmt: skip
LINEAR = {
    "linear_key_head_dim": 4, "linear_value_head_dim": 4, "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
NO_ROUTER_LOSS = {"router_aux_loss_coef": 0.0}


def drawn(model: Any, seed: int = 1) -> Any:
    """Draw the weights of a model: matrices anew, and vectors around where they were."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator) * 0.25
        with torch.no_grad():
            parameter.copy_(noise + parameter if parameter.dim() < 2 else noise)
    return model.float()


def of(model_type: str, sizes: dict[str, Any], **settings: Any) -> Callable[[], Any]:
    """Return a function that makes a model of transformers, the same weights every time."""

    def make() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = AutoConfig.for_model(model_type, **{**sizes, **settings})
            return drawn(AutoModelForCausalLM.from_config(config))

    return make


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    """Return Llama's sizes with rotary positions of a kind."""
    return {**GROUPED, "rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **settings}}


def longrope(boundary: int) -> dict[str, Any]:
    """Return Llama's sizes with other factors for passes wider than `boundary`."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0, 4.0, 8.0, 8.0]}
    sizes = rope("longrope", original_max_position_embeddings=boundary, factor=4.0, **factors)
    return {**sizes, "original_max_position_embeddings": boundary}


def llama() -> Any:
    return of("llama", GROUPED)()


def changed(change: type[torch.nn.Module]) -> Callable[[], Any]:
    """Return a function that makes a Llama whose configuration does not tell of a change."""
    return lambda: drawn(Changed(LlamaConfig(**GROUPED), change()))


def adapted(config: PeftConfig) -> Callable[[], Any]:
    """Return a function that makes a Llama with an adapter that does something."""

    def make() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return get_peft_model(llama(), config)

    return make


def lora() -> LoraConfig:
    return LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
