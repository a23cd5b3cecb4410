"""What the preflight says of headroom: by hand, through the trainer, and on the two tiny tasks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from harness import TOKENIZER
from preflight_helpers import reward_sample, sample, trainer_of

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer, tiny
from grpo_credit.preflight.draw import draw
from grpo_credit.preflight.headroom import headroom, told
from grpo_credit.tiny.next_token import next_token_model
from grpo_credit.tiny.path_star import PathStar, dataset
from grpo_credit.trainer import probing
from rewards import ExactText, RegexReward

PAID = [1, 0, 0, 1] * 4  # of 4 prompts, 4 completions each


def judged(row, paid=PAID, **more):
    drawn = sample(reward_sample(paid))
    return replace(drawn, uncertainty=[np.array(row)] * len(paid), **more)


def agreeing(noise, count=5):
    """Products of gradients e_0 + √noise e_u."""
    return {"products": 1 + noise * np.eye(count), "unit": 4}


# ---- by hand ----------------------------------------------------------------------------------


def test_where_one_token_is_open_no_rule_can_help():
    found = headroom(judged([0.5, 0, 0, 0, 0]))
    assert (found.tokens, found.uncertain) == (5.0, 0.5)
    assert found.bound == pytest.approx(1.0)
    assert found.gain(8, math.inf) == pytest.approx(1.0)
    assert told(found, 8)[-1] == "headroom: at most x 1.0: choose a rule by other reasons"


def test_many_open_tokens_may_be_worth_their_root():
    found = headroom(judged([0.5] * 16, **agreeing(100.0)))
    assert found.guessed == pytest.approx(16)  # and the bound is the same: all h are equal
    assert found.bound == pytest.approx(4)
    assert (found.low, found.noise, found.high) == pytest.approx((400, 400, 400))  # 4 · 100
    # √((1/2 + 400/8) / (1/2 + 400/8/16)) = √(50.5 / 3.625)
    assert found.gain(8, found.noise) == pytest.approx(math.sqrt(50.5 / 3.625))
    # (1/2 + 400/N) / (1/2 + 25/N) = 1.44
    assert found.gain(found.enough, found.noise) == pytest.approx(1.2)
    assert found.enough == pytest.approx((400 - 1.44 * 25) / 0.22)
    lines = told(found, 8)
    assert "8.0 of the 16 tokens of a completion are uncertain" in lines[0]
    assert "bound x 4.0 (any rule, any batch); estimate x 3.7 (x 3.7) in a batch of 8" in lines[1]
    assert "in a batch of about 1,655" in lines[2]
    assert "up to x 3.7: rules that know where" in lines[3]
    assert "automaton, known and spans" in lines[3]


def test_with_tools_only_rules_that_take_tools_are_named():
    advice = told(headroom(judged([0.5] * 16, **agreeing(100.0))), 8, tools=True)[-1]
    assert "turns, gigpo and spans" in advice
    assert "automaton" not in advice


def test_gradients_without_a_common_direction_leave_the_noise_open():
    products = np.eye(5) - 0.01
    found = headroom(judged([0.5] * 16, products=products, unit=4))
    assert (found.noise, found.high) == (math.inf, math.inf)
    assert found.gain(8, found.high) == pytest.approx(4)  # where noise is all, the root of 16
    assert "no common direction" in told(found, 8)[2]


def test_noise_is_between_its_standard_errors():
    rng = np.random.default_rng(0)
    gradients = 1 + 3 * rng.normal(size=(40, 1000))  # |g|² is 1,000, the noise 9,000
    found = headroom(judged([0.5] * 16, products=gradients @ gradients.T, unit=4))
    assert found.low < found.noise < found.high
    assert found.low < 36 < found.high


@pytest.mark.parametrize("paid", [[1.0] * 16, [1.0] * 8 + [0.0] * 8, [math.nan] * 16])
def test_nothing_is_said_where_no_group_differs(paid):
    assert headroom(judged([0.5], paid)) is None


def test_nothing_is_said_where_the_model_was_not_asked():
    assert headroom(sample(reward_sample(PAID))) is None


# ---- through the trainer ----------------------------------------------------------------------


def halves(completions, **_):
    return [float(i % 2) for i in range(len(completions))]


TEXTS = ["1+2=3", "no", "12345", "a"]


def drawn_by_hand(trainer, completions):
    """Uncertainties and gradients of the last layer from whole logits, a row at a time."""
    layer = [p for n, p in trainer.model.named_parameters() if n.startswith("model.layers.0.")]
    uncertainty, gradients = [], []
    for prompt, ids, sign in completions:
        start = TOKENIZER.encode(prompt)
        logits = trainer.model(torch.tensor([[*start, *ids]])).logits[0, len(start) - 1 : -1]
        logps = (logits / trainer.temperature).log_softmax(-1)
        uncertainty.append(1 - logps.exp().square().sum(-1).detach().numpy())
        told = sign * logps[range(len(ids)), ids].sum()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(told, layer)]))
    return uncertainty, torch.stack(gradients)


@pytest.mark.parametrize("micro", [2, 8])
def test_the_model_is_asked_as_training_would(micro):
    """Across micro-batches and groups of a sample."""
    trainer = trainer_of(
        halves, TEXTS, per_device_train_batch_size=micro, temperature=0.7,
        gradient_accumulation_steps=8 // micro, prompts=["1+2=", "2+3="],
    )  # fmt: skip
    trainer.model.gradient_checkpointing_enable()
    forward, trained = trainer.model.forward, [p.requires_grad for p in trainer.model.parameters()]
    found = draw(trainer)
    assert trainer.model.forward == forward
    assert [p.requires_grad for p in trainer.model.parameters()] == trained
    assert trainer.model.is_gradient_checkpointing
    assert all(p.grad is None for p in trainer.model.parameters())
    rows = [
        (prompt, [*TOKENIZER.encode(text), TOKENIZER.eos_token_id], sign)
        for prompt in ["1+2=", "2+3="] * 2
        for text, sign in zip(TEXTS, [-0.5, 0.5] * 2, strict=True)
    ]
    uncertainty, gradients = drawn_by_hand(trainer, rows)
    assert found.unit == 4
    for seen, expected in zip(found.uncertainty, uncertainty, strict=True):
        np.testing.assert_allclose(seen, expected, atol=1e-5)
    each = gradients.view(4, 4, -1).mean(1).double().numpy()
    assert each.shape[1] < probing.SKETCH  # so that folding loses nothing
    np.testing.assert_allclose(found.products, each @ each.T, rtol=1e-3, atol=1e-6)


def test_folding_keeps_products_to_the_error_it_states():
    rng = torch.Generator().manual_seed(0)
    a, b = (
        [torch.randn(200, 300, generator=rng), torch.randn(5000, generator=rng)] for _ in range(2)
    )
    exact = sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))
    size = math.prod(math.sqrt(sum(float(x.square().sum()) for x in g)) for g in (a, b))
    folded = probing._folded(a) @ probing._folded(b)
    assert abs(folded - exact) <= 5 * size / math.sqrt(probing.SKETCH)


# ---- the two tiny tasks -----------------------------------------------------------------------


def of_a_task(tmp_path, model, reward, train, **options):
    args = CreditGRPOConfig(
        output_dir=str(tmp_path), num_generations=8, report_to=[], use_cpu=True, bf16=False,
        credit="seq", **options,
    )  # fmt: skip
    trainer = CreditGRPOTrainer(
        model=str(model), reward_funcs=[reward], args=args, train_dataset=train
    )
    return headroom(draw(trainer))


def test_the_format_has_headroom_in_a_batch_of_8(tmp_path):
    found = of_a_task(
        tmp_path, tiny.warm_start(0), RegexReward(tiny.PATTERN, name="format"),
        tiny.dataset(64, 0, "train"), per_device_train_batch_size=8, max_completion_length=64,
    )  # fmt: skip
    assert found.bound > found.gain(8, found.high) > 2


def test_path_star_has_none_since_one_token_decides_and_the_others_are_forced(tmp_path):
    star = PathStar(2, 3, 6)
    found = of_a_task(
        tmp_path, next_token_model(star, steps=200), ExactText("answers", name="path"),
        dataset(star, 64, 0, "train"), per_device_train_batch_size=128, max_completion_length=16,
    )  # fmt: skip
    assert found.gain(8, math.inf) <= found.bound <= 1.2
