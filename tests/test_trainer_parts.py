"""The parts of the trainer by themselves, on a host that is no trainer."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from grpo_credit import CreditError, Rollouts, resolve_credit
from grpo_credit.trainer.loss import CreditLoss
from grpo_credit.trainer.resuming import Resuming
from grpo_credit.trainer.seams import SeamError
from grpo_credit.trainer.step_log import StepLog
from grpo_credit.trainer.window import Window

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
CREDIT = torch.tensor([[0.5, -1.0, 2.0], [3.0, 7.0, 7.0]])
WEIGHTS = torch.tensor([[0.25], [0.75]])


def host(credit="decided/seq", **changes):
    strategy = resolve_credit(credit)
    plan = SimpleNamespace(
        strategy=strategy, loss_type="dapo", trl_ratio="token", sequence_token=False
    )
    return SimpleNamespace(**{
        "plan": plan, "model": SimpleNamespace(training=True), "beta": 0.0, "credit_scale": 1.0,
        "accelerator": SimpleNamespace(num_processes=2, is_main_process=True),
        "args": SimpleNamespace(steps_per_generation=3), "loss_type": None,
        "importance_sampling_level": None, **changes,
    })  # fmt: skip


def batch(**more):
    return {"completion_mask": MASK, "credit": CREDIT, "credit_weights": WEIGHTS,
            "credit_steps": 4, **more}  # fmt: skip


def as_trl_divides(host, inputs, per_token):
    """Reduce as TRL 1.16 does with `dapo`; DDP then takes the mean over two ranks."""
    total = (per_token * inputs["completion_mask"]).sum()
    return total / (inputs["num_items_in_batch"] / 2 * 4 / host.args.steps_per_generation) / 2


def test_the_credit_is_what_trl_sums():
    fake = host()

    def compute(model, inputs):
        assert (fake.loss_type, fake.importance_sampling_level) == ("dapo", "token")
        return as_trl_divides(fake, inputs, -inputs["advantages"])

    loss = CreditLoss(fake).around(compute, None, batch())
    assert float(loss) == pytest.approx(-(0.5 - 1.0 + 2.0 + 3.0))
    assert (fake.loss_type, fake.importance_sampling_level) == (None, None)


def test_the_kl_term_has_the_weight_of_its_row():
    fake, kl = host(beta=0.1), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    loss = CreditLoss(fake).around(
        lambda model, inputs: as_trl_divides(fake, inputs, fake.beta * kl), None, batch()
    )
    assert float(loss) == pytest.approx(0.1 * (0.25 * (1 + 2 + 3) + 0.75 * 4))
    assert type(fake.beta) is float
    with pytest.raises(SeamError, match=r"`self\.beta \* per_token_kl`"):
        CreditLoss(fake).around(lambda *_: torch.zeros(()), None, batch())


def test_an_anchor_that_nobody_moved_is_refused():
    fake = host()
    fake.plan.sequence_token = True
    loss, old = CreditLoss(fake), torch.zeros(2, 3)
    with pytest.raises(CreditError, match="does not call super"):
        loss.around(lambda *_: torch.zeros(()), None, batch(old_per_token_logps=old))

    def compute(model, inputs):
        loss.anchored((torch.tensor([[0.3, 0.0, 0.0], [0.2, 9.0, 9.0]]),))
        return inputs["old_per_token_logps"]

    moved = loss.around(compute, None, batch(old_per_token_logps=old))
    expected = torch.tensor([[0.3 - 0.1, -0.1, -0.1], [0.0, 9 - 0.2, 9 - 0.2]])  # log pi - log s_i
    torch.testing.assert_close(moved, expected)


def test_diagnostics_are_of_the_last_step_before_a_log():
    fake = host(
        _metrics={"train": defaultdict(list)}, log_completions=False, save_every=0,
        state=SimpleNamespace(stateful_callbacks={}),
    )  # fmt: skip
    rollouts = Rollouts.from_lists([2, 1], [1.0, 0.0], num_generations=2, max_completion_length=2)
    window, log = Window(rollouts, rollouts.advantages[:, None], [], [], []), StepLog(fake)
    for scale in (1.0, 2.0):
        log.record(window, scale * rollouts.advantages[:, None] * rollouts.mask, None)
    assert set(fake._metrics["train"]) == {
        name for name in fake._metrics["train"] if "dead_groups" in name
    }
    log.describe()
    log.describe()
    assert {len(values) for name, values in fake._metrics["train"].items()
            if "dead_groups" not in name} == {1}  # fmt: skip


def test_there_is_no_batch_after_the_last_step():
    fake = host(is_in_train=True, control=SimpleNamespace(should_training_stop=False),
                state=SimpleNamespace(global_step=3, max_steps=4))  # fmt: skip
    resuming = Resuming(fake)
    assert not resuming.is_over()
    fake.state.global_step = 4
    assert resuming.is_over()
    assert fake.control.should_training_stop
