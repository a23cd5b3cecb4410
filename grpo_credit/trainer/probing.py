"""How uncertain a policy was at each token of a batch, and how its gradients agree.

Only the last layer's parameters are differentiated, so that a micro-batch costs about a forward
pass and less memory than one of training.
"""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from trl.models.utils import disable_gradient_checkpointing

from grpo_credit.batching.rows import Rows, counted
from grpo_credit.trainer.scoring import images_of, scored_rows, sum_sq_probs_added

SKETCH = (
    16381  # numbers that a gradient is folded to; prime, lest columns of a matrix fall together
)

_ROWS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask")


class Probe(NamedTuple):
    """What was found on this rank.

    Args:
        uncertainty: h = 1 - Σ_v π_v² of the counted tokens of each completion.
        sketches: of each part of a group, its gradient per completion, folded.
    """

    uncertainty: list[np.ndarray]
    sketches: list[np.ndarray]


def can_probe(trainer: Any, output: dict[str, Any]) -> bool:
    """Return whether the model is whole on this rank and the prompts have no images."""
    engine = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return not engine and not images_of(output)


def probe(
    trainer: Any, output: dict[str, Any], advantages: Float[Tensor, " b"], unit: int
) -> Probe:
    """Look at a generation batch of this rank.

        g_u = 1/n Σ_i A_i Σ_t ∂ log π(o_t) / ∂ last layer        over the n completions of a unit

    Args:
        trainer: before training.
        output: of `_generate_and_score_completions`.
        advantages: A_i of each completion.
        unit: how many completions side by side make a gradient.
    """
    uncertainty: list[np.ndarray] = []
    sketches = []
    with _differentiating_last_layer(trainer.model) as parameters, _plain(trainer):
        for rows in torch.arange(len(advantages), device=advantages.device).split(unit):
            whole = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
            for part in rows.split(trainer.args.per_device_train_batch_size):
                batch = {name: output[name][part] for name in _ROWS if name in output}
                logps, squares = _scored(trainer, batch)
                told = ((logps * counted(batch)).sum(1) * advantages[part]).sum() / len(rows)
                for total, gradient in zip(whole, _gradients(told, parameters), strict=True):
                    total += gradient
                uncertainty += _by_row(1 - squares, counted(batch).bool())
            sketches.append(_folded(whole))
    return Probe(uncertainty, sketches)


def _scored(trainer: Any, batch: Rows) -> tuple[Tensor, Tensor]:
    logps, _, squares = scored_rows(trainer, batch, None, {})
    assert logps is not None
    assert squares is not None  # the head computes it now
    return logps, squares.detach()


def _gradients(of: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(of, parameters, allow_unused=True, materialize_grads=True))


def _by_row(values: Tensor, mask: Tensor) -> list[np.ndarray]:
    pairs = zip(values.float().cpu().numpy(), mask.cpu().numpy(), strict=True)
    return [row[there] for row, there in pairs]


@contextmanager
def _plain(trainer: Any) -> Generator[None]:
    """Let the head tell Σ_v π_v², and keep what the backward pass needs of the last layer."""
    kwargs = trainer.args.gradient_checkpointing_kwargs
    with sum_sq_probs_added(trainer), disable_gradient_checkpointing(trainer.model, kwargs):
        yield


@contextmanager
def _differentiating_last_layer(model: nn.Module) -> Generator[list[nn.Parameter]]:
    """Hold all trained parameters but those of the last layer that has some; give these."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    last = _last_layer(list(trained))
    held = [p for name, p in trained.items() if not name.startswith(last)]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield [p for name, p in trained.items() if name.startswith(last)]
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _last_layer(names: Sequence[str]) -> str:
    """Return how the names of the last layer's parameters begin; "" where layers have no numbers.

    Example:
        >>> _last_layer(["embed.weight", "layers.0.up.weight", "layers.1.up.weight", "norm.weight"])
        'layers.1.'
    """
    layers = [found[0] for name in names if (found := re.match(r".*?\.\d+\.", name))]
    return layers[-1] if layers else ""


def _folded(gradients: Sequence[Tensor]) -> np.ndarray:
    """Fold gradients to few numbers by adding them up with random signs, the same every time.

    Products of two such sketches are those of the gradients, exactly where these have no more
    numbers than a sketch, and otherwise with an error of about |g| |g'| / √SKETCH.
    """
    signs = torch.Generator().manual_seed(0)
    sketch, start = torch.zeros(SKETCH, dtype=torch.float64), 0
    for part in (part for g in gradients for part in g.flatten().split(256 * SKETCH)):
        end = start + len(part)
        padded = nn.functional.pad(part, (start, -end % SKETCH)).view(-1, SKETCH).cpu()
        coin = torch.randint(2, padded.shape, generator=signs, dtype=torch.int8)
        sketch += (padded * (2 * coin - 1)).sum(0, dtype=torch.float64)
        start = end % SKETCH
    return sketch.numpy()
