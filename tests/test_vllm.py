"""vLLM's real engine in the training process: what is sampled, corrected, masked and trained on.

bash scripts/test_vllm.sh
"""

import importlib.util
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

if not importlib.util.find_spec("vllm"):
    pytest.skip("needs vLLM: bash scripts/test_vllm.sh", allow_module_level=True)

from chat_model import save_chat_model
from datasets import Dataset
from filelock import FileLock
from harness import ROUNDING, difference
from peft import LoraConfig
from torchrun import ended, launch
from transformers import TrainerCallback
from vllm_helpers import (
    ENDS,
    EOS,
    LONGEST,
    PROMPTS,
    TOKENIZER,
    copy_of,
    corrected,
    expected,
    one_engine,
    scored,
    trainer_of,
)

from grpo_credit.preflight.verdict import preflight
from grpo_credit.run.evaluation import measure

# Engine and trainer both compute in float32, in another order: log-probabilities of some nats.
NEAR = 1e-4
# An engine that samples otherwise than the policy says, above and below: weights far from one.
APART = {"generation_kwargs": {"frequency_penalty": 0.7}}
BOUNDS = {"vllm_importance_sampling_clip_min": 0.8, "vllm_importance_sampling_clip_max": 1.2}


@pytest.fixture(scope="module", autouse=True)
def engine():
    with one_engine():
        yield


def trained(**options):
    trainer, seen = trainer_of(**options)
    trainer.train()
    return trainer, seen


def apart(model, rows):
    """Return log p of the policy - log p of the engine, of every token."""
    with torch.no_grad():
        return torch.cat([scored(model, row)[0] - row.sampled for row in rows])


# ---- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["uniform", "length", "seq", "dapo", "wreinforce/length", "entropy_top/dapo"]
)
def test_a_strategy_has_the_gradient_of_what_was_sampled(name):
    kwargs = {"share": 0.5} if name.startswith("entropy_top") else None
    _, seen = trained(credit=name, credit_kwargs=kwargs, num_iterations=1, **APART)
    [found], [rows], [model] = seen.gradients, seen.calls, seen.before
    assert 0 < len({len(row.completion) for row in rows}) <= LONGEST
    theirs = expected(name, model, rows, how="sequence_mask")
    assert difference(found, theirs) <= ROUNDING


@pytest.mark.parametrize(
    "how", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_trls_correction_weighs_what_was_sampled(how):
    _, seen = trained(credit="length", vllm_importance_sampling_mode=how, **BOUNDS, **APART)
    [found], [rows], [model] = seen.gradients, seen.calls, seen.before
    with torch.no_grad():
        free, cut = (
            torch.cat([corrected(how, scored(model, row)[0] - row.sampled, *b) for row in rows])
            for b in [(0.0, 1e9), (0.8, 1.2)]
        )
    assert (free != cut).any()
    assert (free == cut).any()
    theirs = expected("length", model, rows, how=how, low=0.8, high=1.2)
    assert difference(found, theirs) <= ROUNDING


def test_without_correction_a_sampled_token_weighs_what_it_would_have():
    _, seen = trained(credit="dapo", vllm_importance_sampling_correction=False, **APART)
    [found], [rows], [model] = seen.gradients, seen.calls, seen.before
    assert difference(found, expected("dapo", model, rows)) <= ROUNDING
    assert difference(expected("dapo", model, rows, how="token_mask"), found) > 0.01


def test_the_second_iteration_clips_against_the_policy_that_sampled():
    options = {"max_steps": 2, "num_iterations": 2, "learning_rate": 3.0}
    _, seen = trained(credit="dapo", **options, **APART)
    [rows], (old, model) = seen.calls, seen.before
    theirs = expected("dapo", model, rows, old=old, how="sequence_mask")
    assert difference(seen.gradients[1], theirs) <= ROUNDING
    ratios = (apart(model, rows) - apart(old, rows)).exp()
    assert ((ratios < 0.8) | (ratios > 1.2)).any()


@pytest.mark.parametrize("batching", ["off", "auto"])
def test_prompts_of_very_different_lengths(batching):
    prompts = ["a", " ".join("abcdefghijkl" * 16), "b c", " ".join("lkj" * 40)]
    trainer, seen = trained(prompts=prompts, credit="seq", efficient_batching=batching)
    [found], [rows], [model] = seen.gradients, seen.calls, seen.before
    assert trainer._engine.batching.recuts == (batching == "auto")
    assert sorted({len(row.prompt) for row in rows}) == [1, 2, 120, 192]
    theirs = expected("seq", model, rows, how="sequence_mask")
    assert difference(found, theirs) <= ROUNDING
    assert apart(model, rows).abs().max() < NEAR


# ---- ends and limits --------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [{}, {"stop_token_ids": TOKENIZER.encode("a b")}])
def test_a_completion_without_its_end_is_left_out_on_request(stop):
    """TRL knows a completion that ended by the model's own end alone: others count as cut off."""
    _, seen = trained(credit="dapo", mask_truncated_completions=True, generation_kwargs=stop)
    [found], [rows], [model] = seen.gradients, seen.calls, seen.before
    for row in rows:
        row.counted = row.completion[-1] in ENDS
    assert {row.counted for row in rows} == {True, False}
    if stop:
        short = [row for row in rows if len(row.completion) < LONGEST and not row.counted]
        assert {row.completion[-1] for row in short} <= set(stop["stop_token_ids"])
        assert short
    theirs = expected("dapo", model, rows, how="sequence_mask")
    assert difference(found, theirs) <= ROUNDING


def ending_at(length):
    """Have every completion end with its `length`th token, or be cut off before."""
    bias = {**dict.fromkeys(ENDS, -100.0), EOS: 100.0}
    return {
        "credit": "seq", "mask_truncated_completions": True,
        "vllm_importance_sampling_correction": False,
        "generation_kwargs": {"min_tokens": length - 1, "logit_bias": bias},
    }  # fmt: skip


def test_an_end_at_the_limit_is_an_end():
    _, seen = trained(**ending_at(LONGEST))
    [found], [rows], [model] = seen.gradients, seen.calls, seen.before
    assert {(len(row.completion), row.completion[-1]) for row in rows} == {(LONGEST, EOS)}
    assert seen.logs[0]["completions/clipped_ratio"] == 0
    assert difference(found, expected("seq", model, rows)) <= ROUNDING


def test_an_end_beyond_the_limit_is_none():
    _, seen = trained(**ending_at(LONGEST + 1))
    [rows] = seen.calls
    assert all(len(row.completion) == LONGEST and EOS not in row.completion for row in rows)
    assert seen.logs[0]["completions/clipped_ratio"] == 1
    assert seen.gradients[0].abs().max() == 0


# ---- weights ----------------------------------------------------------------------------------


def test_the_engine_samples_by_the_weights_of_each_step():
    _, seen = trained(credit="dapo", max_steps=3, learning_rate=1.0)
    for model, rows in zip(seen.before, seen.calls, strict=True):
        assert apart(model, rows).abs().max() < NEAR
    assert apart(seen.before[0], seen.calls[2]).abs().max() > 100 * NEAR
    told = [log["sampling/sampling_logp_difference/max"] for log in seen.logs if "loss" in log]
    assert len(told) == 3
    assert max(told) < NEAR


def test_an_adapter_is_merged_for_the_engine_and_taken_out_again():
    adapter = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    trainer, seen = trainer_of(
        credit="seq", peft_config=adapter, max_steps=2, learning_rate=0.3, **APART
    )
    base = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora" not in n}
    trainer.train()
    for model, rows, found in zip(seen.before, seen.calls, seen.gradients, strict=True):
        theirs = expected("seq", model, rows, how="sequence_mask")
        assert difference(found, theirs) <= ROUNDING
    for name, weight in trainer.model.named_parameters():
        if "lora" not in name:  # float32 forgets a little of W + BA - BA
            torch.testing.assert_close(weight, base[name], rtol=1e-5, atol=1e-6)
    trainer, seen = trained(credit="seq", peft_config=adapter, max_steps=2, learning_rate=0.3)
    for model, rows in zip(seen.before, seen.calls, strict=True):
        assert apart(model, rows).abs().max() < NEAR
        with model.disable_adapter():
            assert apart(model, rows).abs().max() > 100 * NEAR


def test_a_resumed_run_samples_by_the_weights_of_its_checkpoint():
    options = {"credit": "dapo", "max_steps": 4, "learning_rate": 1.0, "save_strategy": "steps",
               "save_steps": 2}  # fmt: skip
    trainer, _ = trained(**options)
    folder = Path(trainer.args.output_dir)
    again, seen = trainer_of(**options, output_dir=str(folder))
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert [log["step"] for log in again.state.log_history if "loss" in log] == [1, 2, 3, 4]
    assert len(seen.calls) == 2
    for model, rows in zip(seen.before, seen.calls, strict=True):
        assert apart(model, rows).abs().max() < NEAR


# ---- completions outside of training ----------------------------------------------------------


def by_transformers(trainer, prompts):
    """Complete greedily without vLLM."""
    model = copy_of(trainer.model).eval()
    texts = []
    for prompt in prompts:
        ids = torch.tensor([TOKENIZER.encode(prompt)])
        done = model.generate(ids, do_sample=False, max_new_tokens=LONGEST)
        texts.append(TOKENIZER.decode(done[0, ids.size(1) :], skip_special_tokens=True))
    return texts


def test_greedy_completions_are_those_of_transformers_whatever_was_loaded_since():
    """As after training, when the best checkpoint's weights take the place of the last one's."""
    trainer, _ = trainer_of(generation_kwargs={"temperature": 0.7})
    prompts = ["a", "b c d", "e f", "a"]
    first = trainer.complete(prompts, greedy=True)
    assert first == by_transformers(trainer, prompts)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(-1)
    second = trainer.complete(prompts, greedy=True)
    assert second == by_transformers(trainer, prompts)
    assert first != second


def test_sampled_completions_have_seeds_of_their_own():
    trainer, _ = trainer_of(generation_kwargs={"seed": 3})
    prompts = ["a b"] * 6
    sampled = trainer.complete(prompts)
    assert len(set(sampled)) > 1
    assert trainer.complete(prompts) == sampled
    assert trainer.complete([*prompts, "c"])[:6] == sampled
    assert trainer.complete(prompts, seed=1) != sampled
    rows = [{"prompt": "a b"}, {"prompt": "c"}]
    judge = lambda text, row: {"right": float(len(text) % 2)}  # noqa: E731
    found = measure(trainer, rows, judge, samples=3)
    assert found == measure(trainer, rows, judge, samples=3)
    assert {"pass@1", "mean@3", "pass@3"} <= set(found)


class Tests(TrainerCallback):
    """Complete held-out prompts after each step."""

    def on_step_end(self, *_, **__):
        self.trainer.complete(["a", "b"], greedy=True)
        self.trainer.complete(["a", "b"])


def test_a_held_out_test_in_training_leaves_the_engine_with_the_policy():
    tests = Tests()
    trainer, seen = trainer_of(credit="dapo", max_steps=3, learning_rate=1.0, callbacks=[tests])
    tests.trainer = trainer
    trainer.train()
    calls = [rows for rows in seen.calls if len(rows) == 16]
    assert len(seen.calls) == 3 + 2 * 3
    for model, rows in zip(seen.before, calls, strict=True):
        assert apart(model, rows).abs().max() < NEAR


def test_a_preflight_samples_by_vllm_and_training_goes_on(capsys):
    trainer, seen = trainer_of(PROMPTS * 2, credit="dapo", per_device_train_batch_size=32)
    preflight(trainer)
    sampled = len(seen.calls)
    assert sum(map(len, seen.calls)) >= 32
    trainer.train()
    [rows] = seen.calls[sampled:]
    assert apart(seen.before[0], rows).abs().max() < NEAR


def test_sleep_mode_is_refused_where_the_engine_has_none():
    with pytest.raises(ValueError, match="mode is not supported"):
        trainer_of(vllm_enable_sleep_mode=True)


# ---- several processes, and the recipe --------------------------------------------------------


@contextmanager
def shared_memory(tensor_parallel):
    """Have the shared memory of an engine over two processes, one name for the whole machine.

    What an engine that was killed left of it would keep the next one from starting.
    """
    if tensor_parallel == 1:
        yield
        return
    with FileLock(Path(tempfile.gettempdir()) / "grpo_credit_vllm.lock"):
        for left in Path("/dev/shm").glob("-tp:0-*-cpushm_*"):
            left.unlink()
        yield


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_processes_have_the_gradient_of_what_both_sampled(tensor_parallel, tmp_path):
    with shared_memory(tensor_parallel):
        launch(2, "vllm_two_processes.py", tmp_path, tensor_parallel)
    assert len(list(tmp_path.glob("rank*"))) == 2


RECIPES = Path(__file__).parent.parent / "recipes"
SMALLER = [
    "--use_cpu", "--max_steps=2", "--per_device_train_batch_size=4", "--num_generations=4",
    "--gradient_accumulation_steps=2", "--max_completion_length=12", "--vllm_max_model_length=512",
    "--test_prompts=2", "--test_every=2", "--save_steps=2",
]  # fmt: skip


@pytest.mark.parametrize(("config", "processes"), [("one_gpu_vllm", 1), ("eight_gpus_vllm", 2)])
def test_the_recipe_trains_by_its_configuration(config, processes, tmp_path):
    """All that is changed is the size of what is trained, and the devices."""
    save_chat_model(tmp_path / "model", hidden_size=128)  # heads of 32, for which it has kernels
    rows = [{"question": f"{i} and {i}?", "answer": f"#### {2 * i}"} for i in range(40)]
    Dataset.from_list(rows).to_json(tmp_path / "problems.jsonl")
    local = ["--model_name_or_path=model", "--dataset_name=problems.jsonl", "--output_dir=run"]
    given = ["--config", RECIPES / "configs" / f"{config}.yaml", "--credit=seq"]
    recipe = RECIPES / "grpo_math.py"
    with shared_memory(processes):
        done = ended(processes, "vllm_helpers.py", recipe, *given, *local, *SMALLER, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    metrics, held_out = (
        [json.loads(line) for line in (tmp_path / "run" / name).open()]
        for name in ("metrics.jsonl", "held_out.jsonl")
    )
    apart = [line["sampling/sampling_logp_difference/max"] for line in metrics if "reward" in line]
    assert len(apart) == 2
    assert max(apart) < 0.1  # the trainer's forward passes are in bfloat16
    assert [line["step"] for line in held_out] == [0, 2]
