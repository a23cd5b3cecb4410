"""What is done to the passes of a step, what is left out, and what a run says about it."""

import pytest
import torch
from datasets import Dataset
from harness import TOKENIZER, policy, reward
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer

PACKED = "packs prompts and completions in one row"
TRLS = "the micro-batches of TRL"


def said(tmp_path, config_class=CreditGRPOConfig, **options):
    """Build a trainer and tell what it will do."""
    settings = {"report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    trainer = CreditGRPOTrainer(
        policy(), reward, config_class(str(tmp_path), **settings | options),
        Dataset.from_dict({"prompt": ["1+1="]}), processing_class=TOKENIZER,
    )  # fmt: skip
    return str(trainer._engine.batching)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, f"skips rows without credit, {PACKED}"),
        ({"efficient_batching": "off"}, TRLS),
        (
            {"beta": 0.1},
            f"{PACKED} | left out: skipping (beta=0.1 gives every row a KL term)",
        ),
        ({"gradient_checkpointing": True}, f"skips rows without credit, {PACKED}"),
        (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
            f"skips rows without credit, {PACKED}",
        ),
        (
            {"torch_compile": True, "torch_compile_backend": "eager"},
            f"skips rows without credit, {PACKED}",
        ),
        (
            {"torch_compile": True, "torch_compile_backend": "eager", "ddp_static_graph": True},
            f"{TRLS} | left out: another number of passes (ddp_static_graph counts them); sorting "
            "and trimming (each new shape would be compiled)",
        ),
        (
            {"top_entropy_quantile": 0.5, "entropy_coef": 0.1},
            f"{TRLS} | left out: top_entropy_quantile=0.5 is taken over a micro-batch; the entropy "
            "bonus is a mean over a micro-batch",
        ),
        (
            {"optim": "adalomo"},
            f"{TRLS} | left out: optim=adalomo updates within a backward pass",
        ),
        (
            {"optim": "apollo_adamw_layerwise"},
            f"{TRLS} | left out: optim=apollo_adamw_layerwise updates within a backward pass",
        ),
        (
            {"neftune_noise_alpha": 5.0},
            f"{TRLS} | left out: the noise of neftune_noise_alpha depends on the padded width",
        ),
    ],
    ids=str,
)
def test_what_is_done_and_why_not_more_is_said_in_one_line(
    tmp_path, monkeypatch, options, expected
):
    if "torch_compile" in options:
        for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
            monkeypatch.setenv(name, "")  # transformers sets them; undone after the test
    assert said(tmp_path, **options) == f"batching: {expected}"


def test_a_plain_grpo_config_keeps_trls_micro_batches(tmp_path):
    assert said(tmp_path, GRPOConfig) == f"batching: {TRLS}"


def test_in_bfloat16_another_shape_moves_log_probabilities_less_than_bfloat16_itself():
    """Old log-probabilities are scored in passes of another shape than those that train."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=6,
            num_attention_heads=4,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.dim() > 1 else 1  # as peaked as a trained one
    ids = torch.randint(0, 4096, (8, 128))

    @torch.no_grad()
    def logps(rows, width):
        every = model(ids[:rows, :width]).logits[:2, :63].float().log_softmax(-1)
        return every.gather(2, ids[:2, 1:64, None])

    exact = logps(8, 128)
    assert (logps(2, 64) - exact).abs().max() < 1e-5 * exact.abs().max()
    model.bfloat16()
    whole, trimmed = logps(8, 128), logps(2, 64)
    assert (trimmed - whole).abs().mean() < 0.5 * (whole - exact).abs().mean()
