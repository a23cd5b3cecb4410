"""One forward pass of each distinct prompt, whose keys and values all its completions read.

TRL runs every completion together with its own copy of the prompt: G times the same prompt for a
group of G. Here the backbone runs each distinct prompt once, but for its last token, and then the
last prompt token and the completion of every row, over the prompt's keys and values. Gradients flow
back through these, so that log-probabilities and gradients are those of the plain pass.

Both passes happen inside a single call of the model: wrappers (DDP, autocast, adapters) see one
forward pass, and TRL's fused head scores completions as always. No position ids are passed, so that
the model numbers the columns as it does in the plain pass.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


def score_sharing_prompts(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    prompt_of: Tensor,
    *,
    compute_entropy: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Score completions with one forward pass of each distinct prompt.

        log π(o[i,t] | q[i], o[i,<t]) / temperature, as TRL's fused head computes it

    Autocast is the caller's, as in TRL.

    Args:
        model: with TRL's fused head; may be wrapped by an adapter or DDP. See `refusal`.
        prompt_ids: (b, P) tokens, padded on the left.
        prompt_mask: (b, P), 0 at padding; the last column is never padding.
        completion_ids: (b, T) tokens, padded on the right.
        completion_mask: (b, T), 0 at padding.
        prompt_of: (b,) a number of each row's prompt: equal only where prompts and their masks are
            equal, see `number_prompts`.
        compute_entropy: whether entropies are wanted.

    Returns:
        Log-probabilities (b, T) and entropies (b, T) or None, nats, with gradient; 0 at padding.
    """
    labels = completion_ids.masked_fill(completion_mask == 0, -100)
    with _prompts_first(host_of(model).base_model, prompt_ids, prompt_mask, prompt_of):
        outputs = model(
            input_ids=torch.cat([prompt_ids[:, -1:], completion_ids[:, :-1]], dim=1),
            attention_mask=torch.cat([prompt_mask, completion_mask[:, :-1]], dim=1),
            shift_labels=labels,
            fused_lm_head=True,
        )
    return outputs.log_probs, outputs.entropy if compute_entropy else None


def number_prompts(prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
    """Number the distinct prompts among the rows.

    Args:
        prompt_ids: (b, P) tokens, padded on the left.
        prompt_mask: (b, P), 0 at padding.

    Returns:
        (b,) numbers from 0; equal where prompts are equal.
    """
    columns = torch.stack([prompt_ids * prompt_mask, prompt_mask], dim=2).flatten(1)
    return columns.unique(dim=0, return_inverse=True)[1]


def host_of(model: nn.Module) -> Any:
    """Return the model that TRL's fused head sits on, beneath DDP and any adapter."""
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


class SharedLayer(DynamicLayer):
    """Keys and values of distinct prompts, read by every row that has the prompt.

    New tokens are appended to what a caller gets, never to what is kept: the model runs once.
    """

    def __init__(self, prompts: DynamicLayer, prompt_of: Tensor) -> None:
        super().__init__()
        self.keys, self.values = prompts.keys, prompts.values
        self.prompt_of = prompt_of.to(prompts.keys.device)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of each row's prompt and new tokens."""
        keys, values = (kept.index_select(0, self.prompt_of) for kept in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


@contextmanager
def _prompts_first(
    backbone: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, prompt_of: Tensor
) -> Generator[None, None, None]:
    """Let the next pass of the backbone begin with a pass of the distinct prompts.

    The last token of a prompt stays with the completion, whose first token it predicts. The cache
    holds every key, also for layers with a sliding window: the model's mask leaves out what is old.
    """
    numbers, of_row = prompt_of.unique(return_inverse=True)
    rows = torch.arange(len(of_row), device=of_row.device)
    first = rows.new_full(numbers.shape, len(rows)).scatter_reduce(0, of_row, rows, "amin")
    ids, mask = (column[first, :-1] for column in (prompt_ids, prompt_mask))

    def run(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        handle.remove()  # before the backbone runs again
        cache = DynamicCache()
        module(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        shared = Cache(layers=[SharedLayer(layer, of_row) for layer in cache.layers])
        return args, {**kwargs, "past_key_values": shared, "use_cache": True}

    if ids.size(1) == 0:  # prompts of one token have nothing to share
        yield
        return
    handle = backbone.register_forward_pre_hook(run, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
