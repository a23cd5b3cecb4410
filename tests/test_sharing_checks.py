"""Sharing prompts is refused where it is not exact, and tested on the model at hand."""

import re

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from sharing_helpers import CONFIGS, SIZES, batch, build
from torchrun import launch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    T5Config,
)
from transformers import T5ForConditionalGeneration as T5

from grpo_credit.batching import shared_prompts
from grpo_credit.batching.shared_prompts_check import refusal, self_test


@pytest.mark.parametrize("family", CONFIGS)
def test_models_with_a_plain_cache_are_not_refused(family):
    assert refusal(build(family), DistributedType.MULTI_CPU) is None


def checkpointing():
    model = build()
    model.gradient_checkpointing_enable()
    return model


def virtual_tokens():
    tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return get_peft_model(build(), tuning)


def with_config(**settings):
    def make():
        model = build()
        vars(model.config).update(settings)
        return model

    return make


def recurrent():
    model = build()
    model._is_stateful = True
    return model


def with_images():
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    config = LlavaConfig(vision_config=vision, text_config=CONFIGS["llama"])
    return LlavaForConditionalGeneration(config)


def lora_with_dropout():
    return get_peft_model(build(), LoraConfig(target_modules=["q_proj"], lora_dropout=0.1))


def from_config(config):
    return lambda: AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (checkpointing, "gradient checkpointing runs layers again without a cache"),
        (lambda: torch.compile(build()), "the model is compiled"),
        (from_config(MambaConfig(**SIZES)), "keeps more than keys and values of its tokens"),
        (recurrent, "keeps more than keys and values of its tokens"),
        (with_config(layer_types=["linear_attention"]), "keeps more than keys and values of its"),
        (with_config(num_kv_shared_layers=1), "keeps more than keys and values of its tokens"),
        (with_images, "the model has inputs besides text"),
        (lambda: T5(T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1)), "has an encoder"),
        (with_config(_attn_implementation_internal="flex_attention"), "'flex_attention' was not t"),
        (from_config(GPT2Config(n_embd=8, n_layer=1, n_head=1)), r"dropout in 'transformer\.drop'"),
        (from_config(LlamaConfig(**SIZES, attention_dropout=0.1)), "dropout in 'model.layers.0"),
        (lora_with_dropout, "dropout in .*lora_dropout"),
        (virtual_tokens, "the adapter puts tokens before the prompt"),
    ],
)  # fmt: skip
def test_what_sharing_cannot_do_is_refused(make, reason):
    assert re.search(reason, refusal(make()) or "nothing")


def test_sharded_training_and_router_losses_are_refused():
    assert re.match("FSDP gathers parameters", refusal(build(), DistributedType.FSDP) or "")
    assert re.match("DEEPSPEED gathers", refusal(build(), DistributedType.DEEPSPEED) or "")
    assert re.match("the router's auxiliary loss", refusal(build(), aux_loss=True) or "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", CONFIGS)
def test_sound_models_pass_the_self_test_and_nothing_is_left_behind(family, dtype):
    model = build(family).to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = torch.get_rng_state()
    assert self_test(model, *batch()) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Detached(shared_prompts.SharedLayer):
    """Stops the gradient at the cache."""

    def __init__(self, keys, values, prompt_of):
        super().__init__(keys.detach(), values.detach(), prompt_of)


class Swapped(shared_prompts.SharedLayer):
    """Gives every row the prompt of another."""

    def __init__(self, keys, values, prompt_of):
        super().__init__(keys, values, prompt_of.flip(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "what"), [(Detached, "gradients differ"), (Swapped, "log-probabilities differ")]
)
def test_a_wrong_cache_fails_the_self_test(monkeypatch, layer, what, dtype):
    monkeypatch.setattr(shared_prompts, "SharedLayer", layer)
    assert re.match(rf"self-test: {what} by .*, .* allowed", self_test(
        build().to(dtype), *batch()) or "passed")  # fmt: skip


def spoilt(change):
    """Build a model whose backbone changes its arguments where it is given a filled cache."""
    model = build()
    inner = model.model.forward

    def forward(**kwargs):
        filled = kwargs.get("past_key_values") is not None and kwargs["input_ids"].size(0) == 3
        return inner(**kwargs | (change(kwargs) if filled else {}))

    model.model.forward = forward
    return model


def shifted(kwargs):
    length = kwargs["input_ids"].size(1)
    return {"position_ids": torch.arange(length)[None]}  # as if there was no prompt


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (shifted, "log-probabilities differ by"),
        (lambda _: {"past_key_values": None, "attention_mask": None}, "log-probabilities differ"),
        (lambda _: {"past_key_values": 7}, "failed with AttributeError: 'int'"),
    ],
)
def test_models_that_treat_the_cache_wrongly_fail_the_self_test(change, what):
    assert (self_test(spoilt(change), *batch()) or "passed").startswith(f"self-test: {what}")


def test_the_self_test_needs_no_counted_token_and_no_second_row():
    prompt_ids, prompt_mask, completion_ids, completion_mask = (x[:1] for x in batch())
    rows = prompt_ids, prompt_mask, completion_ids, torch.zeros_like(completion_mask)
    assert self_test(build(), *rows) is None


def test_a_self_test_without_room_leaves_prompts_unshared(monkeypatch):
    """Its three rows of full width may be more than a micro-batch of the run."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("grpo_credit.batching.shared_prompts_check._plain", full)
    assert self_test(build(), *batch()) == (
        "self-test: failed with OutOfMemoryError: CUDA out of memory"
    )


def test_two_processes_average_the_gradients_of_shared_prompts(tmp_path):
    launch(2, "sharing_two_processes.py", tmp_path)
    assert len(list(tmp_path.glob("rank*"))) == 2
