"""What is said of vLLM: its share of a device, its probabilities, its lengths."""

from types import SimpleNamespace

import pytest

from grpo_credit import CreditGRPOConfig
from grpo_credit.preflight.engine import (
    check_context,
    check_prefix_caching,
    check_probabilities,
    check_room,
    differences,
)
from grpo_credit.preflight.memory import Engine, ModelSize, engine_of
from grpo_credit.preflight.plan_rows import engine_rows

GIB = 2**30
SIZE = ModelSize(frozen=0, trained=GIB, weight_bytes=4, trained_bytes=4, layers=2, hidden=8,
                 cached=256, vocabulary=50)  # fmt: skip


def config(**options):
    return CreditGRPOConfig("out", use_cpu=True, bf16=False, report_to=[], **options)


def colocated(**options):
    return config(use_vllm=True, vllm_mode="colocate", **options)


def test_what_vllm_holds_by_hand():
    assert engine_of(SIZE, config()) is None
    assert engine_of(SIZE, config(use_vllm=True, vllm_mode="server")) is None
    engine = engine_of(SIZE, colocated(vllm_gpu_memory_utilization=0.3))
    assert engine == Engine(share=0.3, weights=2 * GIB, token=2 * 2 * 256)
    halved = engine_of(SIZE, colocated(vllm_tensor_parallel_size=2))
    assert (halved.weights, halved.token) == (GIB, 512)
    assert engine.tokens(10 * GIB) == GIB // 1024
    assert engine.tokens(5 * GIB) == 0


def test_an_adapter_is_merged_and_a_quantised_model_stays_small():
    adapter = ModelSize(frozen=1000, trained=10, weight_bytes=0.5, trained_bytes=4, layers=1,
                        hidden=8, cached=8, vocabulary=50, adapter=True)  # fmt: skip
    assert engine_of(adapter, colocated()).weights == 500


def test_a_plan_says_what_vllm_takes_and_what_it_leaves():
    engine = Engine(share=0.25, weights=2 * GIB, token=1024)
    told = dict(engine_rows(engine, 16 * GIB, longest=2048))
    assert told["vLLM"] == (
        "takes 4.0 GiB of each device: weights 2.0 GiB, keys and values 1.0 KiB a token"
    )
    assert told[""] == (
        "room for 2,097,152 tokens, 1024.0 completions at full length at once; 12.0 GiB are left "
        "to training"
    )
    unseen = dict(engine_rows(engine, None, longest=2048))
    assert unseen[""] == "75% of the device is left to training"
    assert list(engine_rows(None, 16 * GIB, longest=2048)) == []


def test_a_share_that_does_not_hold_one_sequence_is_an_error():
    engine = Engine(share=0.25, weights=2 * GIB, token=2**20)
    assert check_room(engine, 16 * GIB, 2048) == []
    [found] = check_room(engine, 16 * GIB, 2049)
    assert found.severity == "error"
    assert "weights and 2,048 tokens" in found.message
    assert check_room(engine, None, 2049) == check_room(None, 16 * GIB, 2049) == []


@pytest.mark.parametrize(
    ("prompt", "severity"), [(100, None), (156, None), (157, "warning"), (256, "error")]
)
def test_a_limit_that_cuts_completions_is_told(prompt, severity):
    args = colocated(vllm_max_model_length=256, max_completion_length=100)
    found = check_context(args, prompt)
    assert [finding.severity for finding in found] == [severity] * (severity is not None)
    assert check_context(config(), prompt) == []


def metrics(mean, least):
    return differences({
        "sampling/sampling_logp_difference/mean": [mean, mean],
        "sampling/importance_sampling_ratio/min": [least], "reward": [1.0],
    })  # fmt: skip


def test_probabilities_that_differ_are_told_with_what_makes_them():
    assert check_probabilities({}, colocated()) == []
    assert check_probabilities(metrics(0.005, 0.9), colocated()) == []
    [note] = check_probabilities(metrics(0.05, 0.9), colocated())
    assert (note.severity, "bf16" in note.remedy) == ("note", True)
    [cut] = check_probabilities(metrics(0.005, 0.0), colocated(top_p=0.9))
    assert cut.severity == "warning"
    assert "Some completions are left out" in cut.message
    assert "count top_p, the trainer's do not" in cut.remedy
    options = {"vllm_importance_sampling_mode": "token_truncate",
               "generation_kwargs": {"logit_bias": {3: 1.0}, "frequency_penalty": 0.5}}  # fmt: skip
    [far] = check_probabilities(metrics(0.2, 0.0), colocated(**options))
    assert far.severity == "warning"
    assert "left out" not in far.message
    assert "frequency_penalty, logit_bias" in far.remedy


def test_prefix_caching_that_is_off_is_noted():
    def trainer(caches):
        cache = SimpleNamespace(enable_prefix_caching=caches)
        engine = SimpleNamespace(vllm_config=SimpleNamespace(cache_config=cache))
        generation = SimpleNamespace(llm=SimpleNamespace(llm_engine=engine))
        return SimpleNamespace(vllm_generation=generation, args=SimpleNamespace(num_generations=8))

    assert check_prefix_caching(SimpleNamespace()) == check_prefix_caching(trainer(True)) == []
    [found] = check_prefix_caching(trainer(False))
    assert "each of the 8 completions" in found.message
