"""Tiny models of several families, a micro-batch with prompts in common, and TRL's own scoring."""

import copy
import inspect
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from grpo_credit.batching.packing import Packed, attention_of

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 1}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral, sliding window": MistralConfig(**GROUPED, sliding_window=4),
    "gemma3, sliding window": Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "neox": GPTNeoXConfig(**SIZES),
    "gpt2, learned positions": GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=None, eos_token_id=1, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    ),
}  # fmt: skip


def build(family="llama", attention="sdpa", temperature=0.7, cast_lm_head_to_fp32=False):
    """Build a model with TRL's fused head, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = copy.deepcopy(CONFIGS[family])
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for parameter in model.parameters():  # far from the smooth start of training
            torch.nn.init.normal_(parameter, std=0.3)
    add_fused_lm_head(model, temperature, cast_lm_head_to_fp32, outputs=("log_probs", "entropy"))
    return model.train()


def batch(prompts=(9, 4, 1), completions=(7, 3, 5, 7, 0, 2), of=(2, 0, 2, 1, 0, 2)):
    """Make six rows: prompt ids and mask, padded left, completion ids and mask, padded right."""
    draw = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, 50, (9,), generator=draw) for _ in prompts]
    lengths = torch.tensor([prompts[i] for i in of])
    place = torch.arange(max(prompts)).flip(0)
    mask = (place < lengths[:, None]).long()
    prompt_ids = torch.stack([ids[i][: max(prompts)] for i in of]) * mask
    width = max(completions)
    completion_mask = (torch.arange(width) < torch.tensor(completions)[:, None]).long()
    completion_ids = torch.randint(2, 50, (len(of), width), generator=draw) * completion_mask
    return prompt_ids, mask, completion_ids, completion_mask


def trl_scores(model, prompt_ids, prompt_mask, completion_ids, completion_mask):
    """Score as TRL's trainer does."""
    score = inspect.unwrap(GRPOTrainer._get_per_token_logps_and_entropies)
    return score(
        SimpleNamespace(accelerator=Accelerator(cpu=True)),
        model,
        torch.cat([prompt_ids, completion_ids], dim=1),
        torch.cat([prompt_mask, completion_mask], dim=1),
        completion_ids.size(1),
        compute_entropy=True,
    )[:2]


def packed_scores(model, *rows, attention=None, rounded=int):
    """Score as TRL's trainer does, in one packed row."""
    attention = attention or attention_of(getattr(model, "module", model), compiled=False)
    return trl_scores(Packed(model, rows[2].size(1), attention, rounded), *rows)


def gradient(model, logps, entropies):
    """Give the gradient of a sum of both with uneven weights."""
    weights = torch.arange(logps.numel()).cos().view_as(logps)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = (weights * logps + 0.1 * weights.flip(1) * entropies).sum()
    found = torch.autograd.grad(total, parameters)
    return torch.cat([g.flatten().double() for g in found])


def difference(a, b):
    """Give |a - b| / |b|, Euclidean."""
    return float((a - b).norm() / b.norm())
