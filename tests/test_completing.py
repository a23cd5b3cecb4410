"""Completions outside of training: alike on any number of ranks, in chunks, and undisturbed."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from completing_helpers import ROWS, held_out, trainer_of
from harness import policy
from peft import LoraConfig, get_peft_model
from torch import nn
from torchrun import launch
from trl.generation import vllm_generation

from grpo_credit.trainer import completing
from grpo_credit.trainer.completing import draws
from grpo_credit.trainer.undisturbed import random_states_kept
from grpo_credit.trainer.vine import Vines

PROMPTS = [f"{i}+{i % 7}=" for i in range(50)]


@pytest.fixture(scope="module")
def one_rank():
    return held_out()


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_generate_what_one_does_and_judge_it_once(tmp_path, one_rank, ranks):
    """Of 2 greedy and 4 sampled chunks some ranks get fewer than others."""
    launch(ranks, "completing_helpers.py", tmp_path)
    several = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    assert [found.pop("judged") for found in several] == [5 * (1 + 3), *[0] * (ranks - 1)]
    expected = {name: value for name, value in one_rank.items() if name != "judged"}
    assert all(found == expected for found in several)


def test_one_call_repeats_itself_and_another_seed_does_not(one_rank):
    again = held_out()
    assert again == one_rank
    assert again["sampled"] != again["other seed"]
    assert len(set(again["sampled"][:: len(ROWS)])) > 1  # of one prompt; 8 tokens by a random model


def test_a_generation_batch_is_completed_at_once(monkeypatch):
    trainer, sizes = trainer_of(steps_per_generation=3), []
    generate = trainer.model.generate

    def recorded(input_ids, **options):
        sizes.append(len(input_ids))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(trainer.model, "generate", recorded)
    assert len(trainer.complete(PROMPTS)) == 50
    assert sizes == [12, 12, 12, 12, 2]
    assert trainer.complete([]) == []


def test_more_prompts_leave_the_samples_of_the_first_chunks_alone():
    trainer = trainer_of()
    assert trainer.complete(PROMPTS[:12])[:8] == trainer.complete(PROMPTS[:8])


@pytest.mark.parametrize("greedy", [True, False])
def test_dropout_is_off_and_every_module_gets_its_mode_back(greedy):
    lora = LoraConfig(
        r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    trainer = trainer_of(get_peft_model(policy(), lora), gradient_checkpointing=True)
    trainer.train()
    drops = [module for module in trainer.model.modules() if isinstance(module, nn.Dropout)]
    assert drops
    trainer.model.train()
    drops[0].eval()  # a user froze this one
    before = {name: module.training for name, module in trainer.model.named_modules()}
    during = []
    for module in drops:
        module.register_forward_pre_hook(lambda module, _: during.append(module.training))
    first, second = (trainer.complete(PROMPTS[:6], greedy=greedy) for _ in range(2))
    assert first == second
    assert during
    assert not any(during)
    assert before == {name: module.training for name, module in trainer.model.named_modules()}
    assert trainer.model.is_gradient_checkpointing


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("greedy", [True, False])
def test_no_random_state_moves(greedy):
    trainer, before = trainer_of(), random_states()
    trainer.complete(PROMPTS[:6], greedy=greedy)
    assert random_states() == before


def test_random_states_are_kept():
    before = random_states(), random.getstate()
    with random_states_kept():
        set_seed(3)
        assert random_states() != before[0]
        assert random.getstate() != before[1]
    assert (random_states(), random.getstate()) == before


# ---- vLLM: TRL's own code, with an engine that records -------------------------------------------


class Recorder:
    """In place of vLLM's engine, and of TRL's client for its server."""

    def __init__(self):
        self.calls = []

    def generate(self, prompts, sampling_params=None, **options):
        self.calls.append((prompts, sampling_params, options))
        if sampling_params is None:  # a server: prompts are token ids
            one = {"prompt_ids": prompts, "completion_ids": prompts}
            return one | {"logprobs": [[[0.0]] * len(ids) for ids in prompts]}
        return [
            SimpleNamespace(
                prompt_token_ids=p["prompt_token_ids"],
                outputs=[SimpleNamespace(token_ids=p["prompt_token_ids"], logprobs=None)],
            )
            for p in prompts
        ]


@pytest.fixture
def with_vllm(monkeypatch):
    """Make a trainer whose TRL generates by vLLM."""
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(  # as if the engine had told log-probabilities
        vllm_generation, "extract_logprobs",
        lambda all_outputs: ([[[0.0]] * len(o.prompt_token_ids) for o in all_outputs], None),
    )  # fmt: skip

    def made(mode, **kwargs):
        trainer, engine = trainer_of(), Recorder()
        generation = vllm_generation.VLLMGeneration.__new__(vllm_generation.VLLMGeneration)
        vars(generation).update(
            mode=mode, accelerator=trainer.accelerator, model=trainer.model, llm=engine,
            vllm_client=engine, tensor_parallel_size=1, enable_sleep_mode=False, temperature=0.9,
            top_p=1.0, top_k=0, min_p=None, repetition_penalty=1.0, max_completion_length=8,
            logprobs=0, structured_outputs_regex=None, generation_kwargs=kwargs,
            sync_weights=lambda: None,
        )  # fmt: skip
        trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, generation, -1
        return trainer, generation, engine

    return made


def test_vllm_in_the_process_gets_a_seed_for_each_row(with_vllm):
    trainer, generation, engine = with_vllm("colocate", temperature=0.7, seed=5)
    prompts = ["1+1=", "2+2="] * 3
    assert trainer.complete(prompts) == prompts
    assert trainer.complete([*prompts, "3+3="])[:6] == prompts
    (_, first, _), (_, longer, _) = engine.calls
    seeds = [settings.seed for settings in first]
    assert len(set(seeds)) == 6  # equal prompts, other draws
    assert [settings.seed for settings in longer[:6]] == seeds
    assert {settings.temperature for settings in first} == {0.7}
    assert generation.generation_kwargs == {"temperature": 0.7, "seed": 5}
    assert generation.llm is engine


def test_vllm_goes_on_from_prefixes_with_a_seed_for_each_and_no_more_than_is_left(with_vllm):
    trainer, generation, engine = with_vllm("colocate", seed=5)
    vines = Vines.__new__(Vines)
    vines._host = trainer
    assert vines._continued([[1, 2], [1, 2]], 3, [7, 8]) == [[1, 2], [1, 2]]
    [(prompts, settings, _)] = engine.calls
    assert prompts == [{"prompt_token_ids": [1, 2]}] * 2
    assert [(each.seed, each.max_tokens, each.n) for each in settings] == [(7, 3, 1), (8, 3, 1)]
    assert generation.max_completion_length == 8
    assert generation.llm is engine


def test_ranks_that_share_an_engine_give_it_the_seeds_of_their_rows(monkeypatch):
    """Four ranks, two to an engine, seven rows: one is made up so that all have two."""
    found = {}
    for rank in range(4):
        engine = SimpleNamespace(
            mode="colocate", tensor_parallel_size=2, generation_kwargs={}, llm=None
        )
        accelerator = SimpleNamespace(num_processes=4, process_index=rank)
        trainer = SimpleNamespace(vllm_generation=engine, accelerator=accelerator)

        def generated(trainer, rows, engine=engine, rank=rank):
            found[rank] = rows, engine.llm._seeds
            return rows

        monkeypatch.setattr(completing, "_texts", generated)
        monkeypatch.setattr(completing, "gather_object", lambda texts: texts)
        completing._by_vllm(trainer, list("abcdefg"), greedy=False, seed=0)
    assert [rows for rows, _ in found.values()] == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "g"]]
    seeds = [seeds for _, seeds in found.values()]
    assert seeds[0] == seeds[1]
    assert seeds[2] == seeds[3]
    assert len({*seeds[0], *seeds[2]}) == 8


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_is_greedy_whatever_its_own_options(with_vllm, mode):
    trainer, generation, engine = with_vllm(mode, temperature=0.7)
    trainer.complete(["1+1="], greedy=True)
    [(_, settings, options)] = engine.calls
    if mode == "colocate":
        assert settings.temperature == 0.0
    else:
        assert options["generation_kwargs"]["temperature"] == options["temperature"] == 0.0
    assert generation.temperature == 0.9


def test_a_vllm_server_is_given_no_seed_and_it_is_said(with_vllm):
    trainer, _, engine = with_vllm("server", seed=5)
    prompts = ["1+1="] * 3
    assert trainer.complete(prompts) == prompts
    [(_, _, options)] = engine.calls
    assert "seed" not in options["generation_kwargs"]  # it would make the three samples equal
    server = SimpleNamespace(
        use_vllm=True, vllm_mode="server", per_device_train_batch_size=2, steps_per_generation=4
    )
    assert draws(server).startswith("not paired: ")
    server.use_vllm = False
    assert draws(server).startswith("paired: seeded by chunk of 8 rows")
