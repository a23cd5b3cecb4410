"""`CreditLoss`: the credit of a micro-batch in place of its advantages, around TRL's own loss."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from grpo_credit.batching.rows import counted
from grpo_credit.errors import CreditError
from grpo_credit.trainer.identities import (
    RowBeta,
    host_weight,
    items_for_unit_weight,
    sequence_token_anchor,
)
from grpo_credit.trainer.seams import Host, SeamError


class CreditLoss:
    """Carries credit through TRL's `_compute_loss`.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._anchored: dict[str, Any] | None = None  # inputs whose ratio is to be re-anchored

    def around(
        self, compute: Callable[[Any, dict[str, Any]], Tensor], model: Any, inputs: dict[str, Any]
    ) -> Tensor:
        """Compute the loss of a micro-batch by TRL's own method, `compute`."""
        host = self._host
        weights, steps = inputs["credit_weights"], inputs["credit_steps"]
        ranks = host.accelerator.num_processes
        trls = host_weight(host.plan.loss_type, inputs, steps, ranks)
        items = items_for_unit_weight(
            ranks, host.args.steps_per_generation if host.model.training else 1
        )
        inputs = {
            **inputs,
            "advantages": self._credit_of(inputs) / trls,
            "num_items_in_batch": inputs["completion_mask"].new_tensor(items),
        }
        if host.plan.sequence_token and inputs.get("old_per_token_logps") is not None:
            self._anchored = inputs
        try:
            with self._as_planned(), self._kl_by_strategy(weights / trls):
                loss = compute(model, inputs)
            if self._anchored is not None:
                raise CreditError(
                    f"{type(host).__name__}._get_per_token_logps_and_entropies does not call "
                    f"super(), where credit={host.plan.strategy.name!r} moves the anchor of its "
                    "sequence-level ratio; call it, or set importance_sampling_level='token'."
                )
            return loss
        finally:
            self._anchored = None

    def anchored(self, scored: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Move the anchor of the micro-batch at hand, if it is to be moved; return what was scored.

        Args:
            scored: log-probabilities, nats, and whatever TRL returns beside them.
        """
        if self._anchored is not None and scored[0] is not None:
            inputs, self._anchored = self._anchored, None
            inputs["old_per_token_logps"] = sequence_token_anchor(
                scored[0].detach(), inputs["old_per_token_logps"], counted(inputs)
            )
        return scored

    def _credit_of(self, inputs: dict[str, Any]) -> Tensor:
        """Return the credit of a micro-batch: with `even`, of the advantages as they are now."""
        if not self._host.plan.strategy.even:
            return inputs["credit"]
        advantages = inputs["advantages"]
        per_row = advantages if advantages.dim() == 2 else advantages[:, None]
        return per_row * inputs["credit_weights"] * self._host.credit_scale

    @contextmanager
    def _as_planned(self) -> Generator[None, None, None]:
        """Let TRL compute the surrogate that the credit goes through."""
        host = self._host
        kept = host.loss_type, host.importance_sampling_level
        host.loss_type, host.importance_sampling_level = host.plan.loss_type, host.plan.trl_ratio
        try:
            yield
        finally:
            host.loss_type, host.importance_sampling_level = kept

    @contextmanager
    def _kl_by_strategy(self, weights: Tensor) -> Generator[None, None, None]:
        host, beta = self._host, self._host.beta
        if beta == 0.0:
            yield
            return
        host.beta = row_beta = RowBeta.of(beta, weights)
        try:
            yield
            if not row_beta.used:
                raise SeamError("`self.beta * per_token_kl` in _compute_loss")
        finally:
            host.beta = beta


# ---- whether TRL's loss is still one that credit goes through -----------------------------------


def check_loss(trainer: type[Any]) -> None:
    """Try the identities on TRL's own loss, on two rows of two tokens of which one is masked.

        loss = Σ m · (-1.1 A + β_i (e - 2)) / (items / ranks · steps / steps per generation)

    The loss must take advantages of tokens, β of rows and a denominator of ours, and read the
    anchor of the ratio after it has asked for the log-probabilities.

    Args:
        trainer: TRL's `GRPOTrainer`.

    Raises:
        SeamError: if it gives anything else.
    """
    logps, mask = torch.tensor([[-1.0, -2.0], [-0.5, -1.5]]), torch.tensor([[1, 1], [1, 0]])
    advantages, weights = torch.tensor([[1.0, -2.0], [0.5, 9.0]]), torch.tensor([[1.0], [3.0]])
    inputs = {
        "prompt_ids": mask, "prompt_mask": mask, "completion_ids": mask, "completion_mask": mask,
        "advantages": advantages, "num_items_in_batch": torch.tensor(6),
        "old_per_token_logps": logps * math.nan, "ref_per_token_logps": logps + 1,
    }  # fmt: skip

    def scored(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        inputs["old_per_token_logps"] = logps - math.log(1.1)
        return logps, -logps, None

    host = SimpleNamespace(
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(
            num_processes=2, reduce=lambda value, **_: value, gather=lambda value: value),
        args=SimpleNamespace(steps_per_generation=3, use_bias_correction_kl=False, delta=None),
        loss_type="dapo", importance_sampling_level="token", beta=RowBeta.of(0.25, weights),
        epsilon_low=0.2, epsilon_high=0.2, top_entropy_quantile=1.0, use_vllm=False,
        off_policy_mask_threshold=None, aux_loss_enabled=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=4, _get_per_token_logps_and_entropies=scored,
        _compute_loss=lambda *args: inspect.unwrap(trainer._compute_loss)(host, *args),
    )  # fmt: skip
    name = f"{trainer.__name__}._compute_loss that credit goes through"
    try:
        loss = float(inspect.unwrap(trainer.compute_loss)(host, host.model, inputs))
    except Exception as error:  # of whatever kind: the code of another version decides
        raise SeamError(f"{name} ({error!r})") from error
    expected = float((mask * (0.25 * weights * (math.e - 2) - 1.1 * advantages)).sum()) / (
        6 / 2 * 4 / 3
    )
    if not math.isclose(loss, expected, rel_tol=1e-4):
        raise SeamError(f"{name} (it gave {loss:.6g}, expected {expected:.6g})")
