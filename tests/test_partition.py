"""The gradient of a window does not depend on how it is cut, ordered, padded or distributed."""

from collections import Counter

import pytest
import torch
from harness import OPTIONS, ROUNDING, difference, ours, shipped
from torchrun import launch

from grpo_credit import CreditGRPOTrainer, allocation
from grpo_credit.batching.rows import counted


@allocation
def late(rollouts):
    """Give the second half of a completion twice the credit of the first."""
    half = rollouts.position * 2 >= rollouts.lengths[:, None]
    return rollouts.advantages[:, None] * (1.0 + half) * rollouts.mask


def whole(rollouts):
    """Return the credit itself, without a decorator."""
    return rollouts.advantages[:, None] * rollouts.mask / rollouts.num_tokens


AGGREGATIONS = [rule.name for rule in shipped() if rule.kind == "aggregation"]
STRATEGIES = [*AGGREGATIONS, "late/seq", "late/dapo"]
CUTS = [(16, 1), (8, 2), (4, 4), (1, 16)]  # rows per micro-batch, accumulation steps
COVARIANCE = {  # of the window's tokens, of which every tenth goes
    "credit": "clip_cov/seq", "credit_kwargs": {"share": 0.1, "lower": 0.0, "upper": 9.0}
}  # fmt: skip


def gradient(rows=8, steps=2, **options):
    """Give the gradient of one window of 16 completions."""
    settings = {"credit": "dapo", "beta": 0.04, "max_steps": 1, "mask_truncated_completions": True}
    settings["credit_kwargs"] = OPTIONS.get(options.get("credit"))
    return ours(
        per_device_train_batch_size=rows, gradient_accumulation_steps=steps, **settings | options
    ).gradients[0]


@pytest.mark.parametrize("credit", STRATEGIES)
def test_micro_batching_does_not_change_the_gradient(credit):
    whole_step = gradient(16, 1, credit=credit, tools=True)
    for rows, steps in CUTS[1:]:
        assert difference(gradient(rows, steps, credit=credit, tools=True), whole_step) <= 1e-5


def test_the_band_of_a_window_is_the_same_for_every_cut():
    cut = [gradient(rows, steps, tools=True, **COVARIANCE) for rows, steps in CUTS]
    cut.append(gradient(4, 4, tools=True, steps_per_generation=1, **COVARIANCE))
    assert max(difference(g, cut[0]) for g in cut[1:]) <= 1e-5
    assert difference(gradient(16, 1, credit="even/seq", tools=True), cut[0]) > 0.01


@pytest.mark.parametrize("credit", STRATEGIES)
def test_row_order_and_padding_do_not_change_the_gradient(credit):
    usual = gradient(credit=credit)
    assert difference(gradient(credit=credit, seed=7), usual) <= 1e-5  # another shuffle
    assert difference(gradient(credit=credit, pad_to_multiple_of=32), usual) <= 1e-5


def test_an_undecorated_callable_is_partition_invariant():
    arguments = {"credit": whole}
    cut = [
        gradient(rows, steps, credit=None, arguments=arguments, beta=0.0) for rows, steps in CUTS
    ]
    assert max(difference(g, cut[0]) for g in cut[1:]) <= 1e-5


@pytest.mark.parametrize("loss_type", ["cispo", "sapo", "vespo"])
def test_other_surrogates_are_partition_invariant(loss_type):
    options = {"credit": "length", "loss_type": loss_type}
    assert difference(gradient(4, 4, **options), gradient(16, 1, **options)) <= 1e-5


@pytest.mark.parametrize("per_generation", [1, 2, 4])
def test_a_window_of_several_generations_has_the_gradient_of_one(per_generation):
    options = {"credit": "dapo", "steps_per_generation": per_generation}
    assert difference(gradient(4, 4, **options), gradient(16, 1)) <= 1e-5


@pytest.mark.parametrize(
    ("per_generation", "steps", "iterations"),
    [(2, 2, 1), (4, 2, 1), (2, 4, 1), (3, 2, 1), (2, 3, 1), (2, 4, 2), (2, 8, 2), (6, 4, 2)],
)
def test_window_totals_are_exact_for_every_batch_plan(
    monkeypatch, per_generation, steps, iterations
):
    """Over the tokens of a step, the `dapo` weights sum to exactly one."""
    sums = Counter()
    inner = CreditGRPOTrainer._compute_loss

    def recorded(self, model, inputs):
        tokens = (counted(inputs) * inputs["credit_weights"]).sum()
        sums[self.state.global_step] += float(tokens)
        return inner(self, model, inputs)

    monkeypatch.setattr(CreditGRPOTrainer, "_compute_loss", recorded)
    ours(
        credit="dapo", prompts=6, per_device_train_batch_size=4, max_steps=6,
        steps_per_generation=per_generation, gradient_accumulation_steps=steps,
        num_iterations=iterations, beta=0.04,  # no row is skipped
    )  # fmt: skip
    assert len(sums) == 6  # the last window of an epoch may be short
    assert list(sums.values()) == pytest.approx([1.0] * 6, abs=ROUNDING)


NAMED = {name: {"credit": name} for name in STRATEGIES} | {
    "sapo": {"credit": "length", "loss_type": "sapo"},
    "clip_cov": COVARIANCE,
}
LAYOUTS = {  # prompts, rows of a rank's micro-batch, steps
    "whole groups on a rank": (4, 4, 2),
    "a group across both ranks": (3, 6, 1),
}


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch(2, "two_processes.py", folder)
    return torch.load(folder / "gradients.pt")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMED)
def test_two_processes_have_the_gradient_of_one(of_two_processes, layout, name):
    prompts, rows, steps = LAYOUTS[layout]
    one = gradient(rows * 2 * steps, 1, prompts=prompts, tools=True, **NAMED[name])
    assert difference(of_two_processes[layout, name], one) <= 1e-5
