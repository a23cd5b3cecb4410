"""Tiny random models of many architectures, and what must be done to their passes.

Weights are large, so that positions matter as they do in a trained model. `architectures` trains
them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import custom_models
from harness import TOKENIZER
from peft import (
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
)
from tiny_models import (
    EXPERTS,
    GPT,
    GROUPED,
    LINEAR,
    MAMBA,
    MLA,
    NO_ROUTER_LOSS,
    SIZES,
    SLIDING,
    adapted,
    changed,
    llama,
    longrope,
    lora,
    of,
    rope,
)  # fmt: skip

RARE = TOKENIZER.encode("ab")  # tokens of short completions, which no trial takes

NOTHING: tuple[str, ...] = ()  # attributes of `Batching`
CUT = ("recuts",)
TRIMMED = (*CUT, "trims_prompts")


@dataclass(frozen=True)
class Case:
    """A model, and how it is trained.

    Args:
        model: makes it.
        options: of both trainers.
        error: what TRL's own trainer says about it, where it cannot train it.
        does: what must be done to its passes, because the gradient is TRL's with it.
        bound: of the relative difference of gradients, where 1e-5 is less than rounding explains.
    """

    model: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    does: tuple[str, ...] = TRIMMED
    bound: float = 1e-5


jamba = of(
    "jamba", {**SIZES, "num_key_value_heads": 1} | EXPERTS | MAMBA,
    attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
)  # fmt: skip

CASES = {
    # rotary positions
    "llama": Case(llama),
    "llama, eager": Case(of("llama", {**GROUPED, "attn_implementation": "eager"})),
    "llama, linear": Case(of("llama", rope("linear", factor=2.0))),
    "llama, dynamic, never reached": Case(of("llama", rope("dynamic", factor=2.0))),
    "llama, dynamic, straddled": Case(
        of("llama", rope("dynamic", factor=2.0), max_position_embeddings=30), does=NOTHING
    ),
    "llama, dynamic, straddled later": Case(
        of("llama", rope("dynamic", factor=2.0), max_position_embeddings=50), does=NOTHING
    ),
    "llama, yarn": Case(of("llama", rope("yarn", factor=4.0, original_max_position_embeddings=32))),
    "llama, llama3": Case(
        of(
            "llama",
            rope(
                "llama3",
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        )
    ),
    "llama, longrope, never reached": Case(of("llama", longrope(100))),
    "llama, longrope, straddled": Case(of("llama", longrope(30)), does=NOTHING),
    "llama, longrope, straddled later": Case(of("llama", longrope(50)), does=NOTHING),
    "llama, longrope, always beyond": Case(of("llama", longrope(2))),
    "phi3": Case(of("phi3", SIZES)),
    "phi3, longrope, straddled": Case(of("phi3", {**SIZES, **longrope(30)}), does=NOTHING),
    "phi": Case(of("phi", SIZES)),
    "mistral, sliding": Case(of("mistral", GROUPED, sliding_window=5)),
    "ministral, sliding": Case(of("ministral", SLIDING)),
    "ministral3, scaled by position": Case(
        of(
            "ministral3",
            rope("default", llama_4_scaling_beta=0.5, original_max_position_embeddings=4),
        ),
        does=CUT,
    ),
    "qwen2": Case(of("qwen2", GROUPED)),
    "qwen3": Case(of("qwen3", GROUPED)),
    "gemma": Case(of("gemma", GROUPED)),
    "gemma2, sliding": Case(of("gemma2", SLIDING)),
    "gemma3, sliding": Case(of("gemma3_text", SLIDING)),
    "gemma4": Case(
        of(
            "gemma4_text",
            SLIDING,
            vocab_size_per_layer_input=len(TOKENIZER),
            hidden_size_per_layer_input=4,
            global_head_dim=8,
        )
    ),
    "cohere": Case(of("cohere", GROUPED)),
    "cohere2, sliding": Case(of("cohere2", SLIDING)),
    "starcoder2, sliding": Case(of("starcoder2", GROUPED, sliding_window=5)),
    "exaone4, sliding": Case(of("exaone4", SLIDING)),
    "olmo2": Case(of("olmo2", GROUPED)),
    "olmo3, sliding": Case(of("olmo3", SLIDING)),
    "smollm3": Case(of("smollm3", GROUPED)),
    "glm4": Case(of("glm4", GROUPED)),
    "granite": Case(of("granite", GROUPED)),
    "stablelm": Case(of("stablelm", GROUPED)),
    "nanochat": Case(of("nanochat", GROUPED)),
    "gpt-neox": Case(of("gpt_neox", SIZES)),
    "gpt-j": Case(of("gptj", GPT, rotary_dim=4)),
    "falcon, rotary": Case(of("falcon", SIZES, alibi=False)),
    "diffllama": Case(of("diffllama", SIZES, num_key_value_heads=2)),
    "modernbert decoder, sliding": Case(
        of("modernbert-decoder", SIZES, layer_types=SLIDING["layer_types"], local_attention=10)
    ),
    "deepseek v2, MLA": Case(
        of("deepseek_v2", MLA | EXPERTS, topk_method="greedy"), NO_ROUTER_LOSS
    ),
    "deepseek v3, MLA": Case(of("deepseek_v3", MLA | EXPERTS), NO_ROUTER_LOSS),
    "minicpm3, MLA": Case(of("minicpm3", MLA)),
    # experts
    "mixtral": Case(of("mixtral", GROUPED | EXPERTS), NO_ROUTER_LOSS),
    "mixtral, router loss": Case(of("mixtral", GROUPED | EXPERTS), does=NOTHING),
    "qwen3-moe": Case(of("qwen3_moe", GROUPED | EXPERTS), NO_ROUTER_LOSS),
    "qwen3-moe, router loss": Case(of("qwen3_moe", GROUPED | EXPERTS), does=NOTHING),
    "olmoe": Case(of("olmoe", GROUPED | EXPERTS), NO_ROUTER_LOSS),
    "gpt-oss": Case(of("gpt_oss", SLIDING | EXPERTS), NO_ROUTER_LOSS),
    "gpt-oss, router loss": Case(of("gpt_oss", SLIDING | EXPERTS), does=NOTHING),
    "llama4": Case(
        of("llama4_text", GROUPED | EXPERTS, intermediate_size_mlp=24),
        error="no attribute 'last_hidden_state'",
    ),
    # learned, added or hidden positions
    "gpt2": Case(of("gpt2", GPT), does=CUT),
    "gpt-bigcode": Case(of("gpt_bigcode", GPT), does=CUT),
    "gpt-neo": Case(
        of(
            "gpt_neo",
            SIZES,
            num_layers=2,
            num_heads=2,
            window_size=5,
            attention_types=[[["global", "local"], 1]],
        ),
        does=CUT,
    ),
    "opt": Case(of("opt", SIZES, ffn_dim=24, word_embed_proj_dim=16)),
    "xglm": Case(
        of(
            "xglm",
            SIZES,
            d_model=16,
            ffn_dim=24,
            num_layers=2,
            attention_heads=2,
            activation_dropout=0.0,
        ),
        does=CUT,
    ),
    "biogpt": Case(
        of("biogpt", SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), does=CUT
    ),
    "bloom, ALiBi": Case(of("bloom", SIZES, n_layer=2, n_head=2, hidden_dropout=0.0)),
    "mpt, ALiBi": Case(of("mpt", SIZES, d_model=16, n_layers=2, n_heads=2)),
    "falcon, ALiBi": Case(of("falcon", SIZES, alibi=True)),
    "beam, scaled by position": Case(
        of("beam", GROUPED | EXPERTS, layer_types=["full_attention"] * 2), does=CUT
    ),
    # recurrent layers and hybrids
    "mamba": Case(of("mamba", SIZES, state_size=4)),
    "mamba2": Case(
        of("mamba2", SIZES, state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=8)
    ),
    "falcon-mamba": Case(of("falcon_mamba", SIZES, state_size=4)),
    "falcon-h1": Case(of("falcon_h1", GROUPED | MAMBA)),
    "bamba": Case(of("bamba", GROUPED | MAMBA, attn_layer_indices=[1])),
    "zamba2": Case(
        of(
            "zamba2",
            SIZES,
            num_key_value_heads=2,
            mamba_d_state=4,
            n_mamba_heads=4,
            chunk_size=8,
            layers_block_type=["mamba", "hybrid"],
        )
    ),
    "jamba": Case(jamba, NO_ROUTER_LOSS),
    "jamba, router loss": Case(jamba, does=NOTHING),
    "granite hybrid": Case(
        of(
            "granitemoehybrid",
            GROUPED | EXPERTS | MAMBA,
            layer_types=["mamba", "attention"],
            shared_intermediate_size=16,
        ),
        NO_ROUTER_LOSS,
    ),
    "lfm2": Case(of("lfm2", GROUPED, layer_types=["conv", "full_attention"], block_multiple_of=8)),
    "nemotron-h": Case(
        of(
            "nemotron_h",
            GROUPED | EXPERTS,
            layers_block_type=["mamba", "attention"],
            ssm_state_size=4,
            mamba_num_heads=4,
            mamba_head_dim=8,
            n_groups=1,
            chunk_size=8,
        ),
        NO_ROUTER_LOSS,
    ),
    "recurrent-gemma": Case(
        of(
            "recurrent_gemma",
            SIZES,
            block_types=["recurrent", "attention"],
            attention_window_size=5,
        ),
        does=CUT,
    ),
    "xlstm": Case(
        of(
            "xlstm",
            SIZES,
            num_heads=2,
            ffn_round_up_to_multiple_of=8,
            chunk_size=8,
            embedding_dim=16,
            return_last_states=True,
            mode="inference",
        ),
        does=CUT,
    ),
    "qwen3-next": Case(
        of("qwen3_next", GROUPED | EXPERTS | LINEAR, experts_implementation="eager"),
        NO_ROUTER_LOSS,
        bound=1e-4,  # its delta rule computes in float32 in any case; 1e-6 if that is made float64
    ),
    "qwen3.5": Case(of("qwen3_5_text", GROUPED | LINEAR)),
    "minimax": Case(
        of("minimax", GROUPED | EXPERTS, layer_types=LINEAR["layer_types"], block_size=8),
        NO_ROUTER_LOSS,
    ),
    # classes of one's own
    "learned positions under a LlamaConfig": Case(
        changed(custom_models.LearnedPositions), does=CUT
    ),
    "state of the first column": Case(changed(custom_models.FirstColumn), does=CUT),
    "statistics over the pass": Case(changed(custom_models.Statistics), does=NOTHING),
    "scale by width": Case(changed(custom_models.WidthScale), does=NOTHING),
    "experts with capacity": Case(changed(custom_models.Capacity), does=NOTHING),
    "causal convolution over padding": Case(changed(custom_models.CausalConvolution), does=CUT),
    # random, by no rate that is known: trained with TRL's own random numbers
    "dropout without a name": Case(changed(custom_models.Dropout), does=NOTHING),
    "noise on embeddings": Case(changed(custom_models.Noise), does=NOTHING),
    "phimoe, draws experts": Case(
        of("phimoe", GROUPED | EXPERTS, router_jitter_noise=0.5, input_jitter_noise=0.1),
        NO_ROUTER_LOSS,
        does=NOTHING,
    ),
    # adapters
    "prompt tuning": Case(
        adapted(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)), does=CUT
    ),
    "p-tuning": Case(
        adapted(
            PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8)
        ),
        does=CUT,
    ),
    "prefix tuning": Case(
        adapted(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)), does=CUT
    ),
    "trainable tokens": Case(
        adapted(TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=RARE))
    ),
    "lora": Case(adapted(lora())),
    "lora, beta": Case(adapted(lora()), {"beta": 0.1}),
}

PACKED = {  # models whose tokens go by positions and mask alone
    "llama",
    "llama, eager",
    "llama, linear",
    "llama, dynamic, never reached",
    "llama, yarn",
    "llama, llama3",
    "llama, longrope, never reached",
    "llama, longrope, always beyond",
    "phi3",
    "phi",
    "ministral3, scaled by position",
    "qwen2",
    "qwen3",
    "gemma",
    "cohere",
    "olmo2",
    "smollm3",
    "glm4",
    "granite",
    "stablelm",
    "nanochat",
    "gpt-neox",
    "gpt-j",
    "diffllama",
    "deepseek v2, MLA",
    "deepseek v3, MLA",
    "minicpm3, MLA",
    "mixtral",
    "qwen3-moe",
    "olmoe",
    "gpt2",
    "gpt-bigcode",
    "xglm",
    "biogpt",
    "beam, scaled by position",
    "trainable tokens",
    "lora",
    "lora, beta",
}
