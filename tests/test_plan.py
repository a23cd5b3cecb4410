"""Batch arithmetic against the real trainer; parameters and bytes against real tensors."""

import io
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from preflight_helpers import PROMPTS, trainer_of
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

from grpo_credit import CreditGRPOConfig
from grpo_credit.credit.cuts import Cuts
from grpo_credit.preflight.batches import Batches, check_batches
from grpo_credit.preflight.held_out import calls, measured_at
from grpo_credit.preflight.memory import ModelSize, estimate, model_size, optimizer_bytes
from grpo_credit.preflight.plan import print_rows
from grpo_credit.preflight.plan_rows import batch_rows, credit_rows, model_rows, vine_rows
from grpo_credit.trainer.config import plan
from grpo_credit.trainer.vine import Vine

# ---- batches ----------------------------------------------------------------------------------


def test_the_arithmetic_by_hand():
    # 2 ranks, 4 a micro-batch, 3 of them a step; a generation is 6 micro-batches, used twice
    b = Batches(2, 4, 3, 6, 2, group=8, longest=10, asked_epochs=2, prompts=100)
    assert (b.completions, b.generated, b.generated_prompts) == (24, 48, 6)
    assert b.uses == 12  # micro-batches, so 4 optimizer steps, the last after 3 updates
    assert (b.lag, b.on_policy) == (3, False)
    assert b.steps_per_epoch == 64  # 16 whole generations of 12 micro-batches over 3
    assert (b.steps, b.generations, b.epochs) == (128, 32, 2)
    assert (b.step_tokens, b.all_tokens) == (240, 32 * 48 * 10)


@pytest.mark.parametrize(
    ("accumulation", "slices", "passes", "lag"),
    [(1, 1, 1, 0), (4, 4, 1, 0), (4, 2, 2, 0), (2, 4, 1, 1), (1, 1, 2, 1), (2, 3, 1, 1),
     (3, 2, 1, 1), (1, 4, 2, 7)],
)  # fmt: skip
def test_the_lag_is_zero_exactly_where_trl_needs_no_old_log_probabilities(
    accumulation, slices, passes, lag
):
    b = Batches(1, 1, accumulation, slices, passes, 2, 8)
    assert b.lag == lag
    assert b.on_policy == (accumulation % (slices * passes) == 0)  # TRL's condition


@pytest.mark.parametrize(
    "more",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_iterations": 2},
        {"per_device_train_batch_size": 4, "steps_per_generation": 3, "num_train_epochs": 1.5},
        {"per_device_train_batch_size": 4, "steps_per_generation": 3, "num_iterations": 3,
         "gradient_accumulation_steps": 2},
    ],
)  # fmt: skip
def test_steps_are_those_that_the_trainer_takes(more):
    trainer = trainer_of(
        lambda completions, **_: [0.0] * len(completions), ["1"],
        max_steps=-1, prompts=PROMPTS[:7], **{"num_train_epochs": 1, **more},
    )  # fmt: skip
    b = Batches.of(trainer.args, trainer.train_dataset)
    trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == b.steps


def test_data_smaller_than_a_generation_are_an_error():
    b = Batches(1, 64, 1, 1, 1, group=8, longest=8, prompts=7)
    [found] = check_batches(b)
    assert (found.severity, found.kind) == ("error", "data")
    assert "7 prompts and one generation takes 8" in found.message


def test_a_step_of_half_a_group_and_pairs_are_noted():
    broken, small = check_batches(Batches(1, 1, 1, 2, 1, group=2, longest=8))
    assert "trains on 1 completions, which is no whole number of groups of 2" in broken.message
    assert small.severity == "note"
    assert "num_generations=2" in small.message


def test_a_stream_has_no_epochs():
    b = Batches(1, 8, 1, 1, 1, 4, 8, asked_steps=5)
    assert (b.steps, b.epochs, b.steps_per_epoch) == (5, None, None)
    assert check_batches(b) == []


# ---- parameters and bytes ---------------------------------------------------------------------

QWEN = Qwen2Config(
    vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
LLAMA = LlamaConfig(
    vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, tie_word_embeddings=False,
)  # fmt: skip


def stepped(model, optimizer=torch.optim.AdamW):
    """Take a real training step; give the bytes of weights, gradients and optimizer state."""
    trained = [p for p in model.parameters() if p.requires_grad]
    step = optimizer(trained, lr=0.1)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    step.step()
    state = [
        value for entry in step.state.values() for name, value in entry.items() if name != "step"
    ]
    count = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    return count(model.parameters()), count(p.grad for p in trained), count(state)


def of(size, refers=False, **more):
    """Estimate what a rank needs that trains 2 rows of 10 tokens, and generates 4 of 11."""
    options = {"per_device_train_batch_size": 2, "steps_per_generation": 2, "use_vllm": False,
               "max_completion_length": 6, "bf16": False, "fp16": False, "optim": "adamw_torch",
               "gradient_checkpointing": False, "world_size": 1, "fsdp": None,
               "deepspeed_plugin": None, **more}  # fmt: skip
    return estimate(size, SimpleNamespace(**options), prompt_tokens=4, test_tokens=5, refers=refers)


@pytest.mark.parametrize(("config", "kind"), [(QWEN, Qwen2ForCausalLM), (LLAMA, LlamaForCausalLM)])
def test_a_whole_model_weighs_what_it_weighs(config, kind):
    memory = of(model_size(config))
    assert (memory.weights, memory.gradients, memory.optimizer) == stepped(kind(config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_weighs_what_it_weighs(dtype):
    lora = {"r": 4, "task_type": "CAUSAL_LM"}
    model = get_peft_model(Qwen2ForCausalLM(QWEN).to(dtype), LoraConfig(**lora))
    size = model_size(QWEN, str(dtype).removeprefix("torch."), LoraConfig(**lora))
    trained, every = model.get_nb_trainable_parameters()
    assert (size.trained, size.parameters) == (trained, every)
    memory = of(size)
    assert (memory.weights, memory.gradients, memory.optimizer) == stepped(model)


def test_the_optimizer_counts():
    size = model_size(LLAMA)
    _, _, sgd = stepped(LlamaForCausalLM(LLAMA), torch.optim.SGD)
    assert optimizer_bytes(size, "sgd") == sgd == 0
    assert optimizer_bytes(size, "adamw_8bit") == 2 * size.trained
    assert optimizer_bytes(size, "lomo") is None


def test_the_estimates_by_hand():
    size = ModelSize(frozen=0, trained=100, weight_bytes=4, trained_bytes=4, layers=3, hidden=8,
                     cached=6, vocabulary=50)  # fmt: skip
    plain = of(size)
    assert plain.activations == 2 * 10 * 8 * 4 * 17 * 3
    assert plain.cache == 4 * (11 * 3 * 6 * 4 + 4 * 50)
    assert plain.peak == 400 + 800 + 400 + plain.activations
    assert of(size, gradient_checkpointing=True).activations == 2 * 10 * 8 * 4 * (3 + 17)
    assert of(size, refers=True).reference == 400
    assert of(size, world_size=2).gradients == 800  # and DDP's buckets
    plugins = [SimpleNamespace(zero_stage=stage) for stage in (1, 2, 3)]
    stages = [of(size, world_size=4, deepspeed_plugin=plugin) for plugin in plugins]
    assert [(m.optimizer, m.gradients, m.weights) for m in stages] == [
        (200, 400, 400), (200, 100, 400), (200, 100, 100),
    ]  # fmt: skip


def test_an_adapter_needs_no_reference_model_and_quantised_weights_are_small():
    size = model_size(QWEN, peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"), bits=4)
    memory = of(size, refers=True)
    assert memory.reference == 0
    assert memory.weights == round(size.frozen / 2 + 2 * size.trained)


# ---- held-out tests ---------------------------------------------------------------------------


def test_calls_of_a_held_out_test_by_hand():
    # 3 chunks of 4, 4 and 2 completions on two ranks, then 8
    assert calls(prompts=10, samples=3, rows=4, ranks=2) == 2 + 4


@pytest.mark.parametrize(
    ("every", "options", "steps"),
    [
        (0, {}, [0, 10]),
        (4, {}, [0, 4, 8, 10]),
        (4, {"eval_strategy": "steps", "eval_steps": 6}, [0, 4, 6, 8, 10]),
        (0, {"eval_strategy": "steps", "eval_steps": 0.25}, [0, 3, 6, 9, 10]),  # of 10, rounded up
        (0, {"eval_strategy": "epoch"}, [0, 5, 10]),
    ],
)
def test_a_test_comes_before_and_after_every_n_steps_and_with_each_evaluation(
    tmp_path, every, options, steps
):
    args = GRPOConfig(str(tmp_path), report_to=[], use_cpu=True, bf16=False, **options)
    b = Batches(1, 8, 1, 1, 1, 4, 8, asked_steps=10, prompts=10)  # two prompts a step
    assert sorted(measured_at(args, every, b)) == steps


# ---- on the terminal --------------------------------------------------------------------------


def test_the_price_of_continuations_is_said_and_what_it_would_buy():
    b = Batches(2, 4, 2, 2, 1, group=4, longest=10)  # 16 completions of 4 prompts
    vine = Vine(Cuts("every", 5), 3, 80)
    (_, price), (_, instead) = vine_rows(vine, b)
    assert price == (
        "3 of each cut (every 5 tokens): at most 80 tokens of each generation, beside 160 of its "
        "completions at most (x1.5)"
    )
    assert instead.startswith("the same tokens as completions: num_generations=6 for 4, which has")
    assert [*vine_rows(None, b)] == []
    needs = credit_rows(plan(CreditGRPOConfig(credit="vine/seq", vine_tokens=9)), [], saves=False)
    assert ("credit needs", "prefix_values: continuations and their rewards") in [*needs]


def test_an_unknown_optimizer_and_a_missing_model_are_said():
    from grpo_credit import CreditGRPOConfig
    from grpo_credit.trainer.config import plan

    size = model_size(LLAMA)
    assert (
        "optimizer unknown"
        in dict(model_rows(size, of(size, optim="lomo"), None))["memory per process"]
    )
    b = Batches(1, 8, 2, 1, 1, 4, 16, asked_steps=10)
    credit = credit_rows(plan(CreditGRPOConfig("out", credit="contrast/seq")), ["[b]x"], True)
    out = Console(file=io.StringIO(), width=200)
    print_rows([*batch_rows(b, None), *model_rows(None, None, None), *credit], out)
    bare = out.file.getvalue()
    assert "made when training starts" in bare
    assert "one optimizer step joins 2 generations" in bare
    assert "privileged_logps" in bare
    assert "[b]x" in bare
