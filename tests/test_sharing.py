"""Log-probabilities, entropies and gradients with shared prompts are those of TRL's own pass."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sharing_helpers import CONFIGS, batch, build, difference, gradient, trl_scores

from grpo_credit.batching.shared_prompts import (
    number_prompts,
    pays,
    score_sharing_prompts,
    shared_tokens,
)


def check(model, rows, tolerance=1e-5):
    """Compare everything with TRL's pass."""
    expected = trl_scores(model, *rows)
    found = score_sharing_prompts(model, *rows, number_prompts(*rows[:2]))
    for ours, host in zip(found, expected, strict=True):
        assert ours.dtype == host.dtype
        assert difference(ours.detach(), host.detach()) <= tolerance
    assert difference(gradient(model, *found), gradient(model, *expected)) <= tolerance


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_scores_as_in_trl(family, attention):
    check(build(family, attention), batch())


@pytest.mark.parametrize("prompts", [(1, 1, 1), (2, 1, 2), (9, 9, 9)])
def test_short_and_equal_prompts_score_as_in_trl(prompts):
    check(build(), batch(prompts))


def test_a_single_prompt_scores_as_in_trl():
    check(build(), batch(of=(0,) * 6))


def test_rows_without_a_prompt_in_common_score_as_in_trl():
    check(build(), batch(prompts=(9, 8, 7, 4, 2, 1), of=(5, 4, 3, 2, 1, 0)))


def test_completions_of_one_token_score_as_in_trl():
    check(build(), batch(completions=(1, 1, 0, 1, 1, 1)))


def test_adapters_score_as_in_trl():
    model = build()
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    check(get_peft_model(model, lora), batch())


@pytest.mark.parametrize("cast", [False, True])
def test_bfloat16_scores_as_in_trl_within_its_precision(cast):
    check(build(attention="eager", cast_lm_head_to_fp32=cast).bfloat16(), batch(), 2.0**-6)


def test_entropies_are_left_out_on_request():
    rows = batch()
    found = score_sharing_prompts(build(), *rows, number_prompts(*rows[:2]), compute_entropy=False)
    assert found[1] is None


def test_the_backbone_runs_each_prompt_once_and_no_padding_twice():
    model, rows, ran = build(), batch(), []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: ran.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    score_sharing_prompts(model, *rows, number_prompts(*rows[:2]))
    assert ran == [(6, 7), (3, 8)]  # the hook of the completions runs before their prompts
    assert sum(rows * columns for rows, columns in ran) == shared_tokens(6, 3, 9, 7) == 66
    ran.clear()
    trl_scores(model, *rows)  # afterwards the model is as it was
    assert ran == [(6, 16)]


class Adapter(torch.nn.Module):
    """Fails before the model beneath is called."""

    def __init__(self, model):
        super().__init__()
        self.get_base_model = lambda: model

    def forward(self, **_):
        raise IndexError("no such adapter")


@pytest.mark.parametrize(("wrapper", "message"), [(Adapter, "adapter"), (lambda m: m, "range")])
def test_the_model_is_as_it_was_after_an_error(wrapper, message):
    model, (*prompts, ids, mask) = build(), batch()
    with pytest.raises(IndexError, match=message):
        score_sharing_prompts(wrapper(model), *prompts, ids + 50, mask, number_prompts(*prompts))
    assert not model.model._forward_pre_hooks


def test_prompts_are_numbered_by_their_tokens():
    ids = torch.tensor([[0, 5, 6], [7, 5, 6], [9, 5, 6], [0, 5, 6]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])
    first, second, third, fourth = number_prompts(ids, mask).tolist()
    assert first == third  # what stands at padding does not count
    assert len({first, second, fourth}) == 3


def test_sharing_pays_where_it_saves_more_than_a_pass():
    # 8 · (5 + 2) = 56 tokens against 1 · 4 + 8 · 2 = 20
    assert pays(8, 1, 5, 2, pass_cost=35)
    assert not pays(8, 1, 5, 2, pass_cost=36)
    assert not pays(8, 8, 5, 2, pass_cost=8)
