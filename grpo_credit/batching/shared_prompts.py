"""One forward pass of each distinct prompt, whose keys and values all its completions read.

TRL runs every completion together with its own copy of the prompt: G times the same prompt for a
group of G. Here the backbone runs each distinct prompt once, but for its last token, and then the
last prompt token and the completion of every row, over the prompt's keys and values. Gradients flow
back through these, so that log-probabilities and gradients are those of the plain pass.

Both passes happen inside a single call of the model: wrappers (DDP, autocast, adapters) see one
forward pass, and TRL's fused head scores completions as always. No position ids are passed, so that
the model numbers the columns as it does in the plain pass. Where this cannot be done, and how it is
checked before it is done, is in `grpo_credit.batching.shared_prompts_check`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


def score_sharing_prompts(
    model: nn.Module,
    prompt_ids: Int[Tensor, "b P"],
    prompt_mask: Shaped[Tensor, "b P"],
    completion_ids: Int[Tensor, "b T"],
    completion_mask: Shaped[Tensor, "b T"],
    prompt_of: Int[Tensor, " b"],
    *,
    compute_entropy: bool = True,
) -> tuple[Float[Tensor, "b T"], Float[Tensor, "b T"] | None]:
    """Score completions with one forward pass of each distinct prompt.

        log π(o[i,t] | q[i], o[i,<t]) at the fused head's temperature

    Autocast is the caller's, as in TRL.

    Args:
        model: with TRL's fused head; may be wrapped by an adapter or DDP.
        prompt_ids: tokens, padded on the left.
        prompt_mask: 0 at padding; the last column is never padding.
        completion_ids: tokens, padded on the right.
        completion_mask: 0 at padding.
        prompt_of: a number of each row's prompt: equal only where prompts and their masks are
            equal, see `number_prompts`.
        compute_entropy: whether entropies are wanted.

    Returns:
        Log-probabilities (b, T) and entropies (b, T) or None, nats, with gradient; 0 at padding.
    """
    with _prompts_first(host_of(model).base_model, prompt_ids, prompt_mask, prompt_of):
        outputs = model(
            input_ids=torch.cat([prompt_ids[:, -1:], completion_ids[:, :-1]], dim=1),
            attention_mask=torch.cat([prompt_mask, completion_mask[:, :-1]], dim=1),
            shift_labels=completion_ids.masked_fill(completion_mask == 0, -100),
            fused_lm_head=True,
        )
    return outputs.log_probs, outputs.entropy if compute_entropy else None


def number_prompts(
    prompt_ids: Int[Tensor, "b P"], prompt_mask: Shaped[Tensor, "b P"]
) -> Int[Tensor, " b"]:
    """Number the distinct prompts among rows, from 0; equal ones have as much padding, too."""
    columns = torch.cat([prompt_ids * prompt_mask, prompt_mask], dim=1)
    return columns.unique(dim=0, return_inverse=True)[1]


def shared_tokens(rows: int, prompts: int, prompt_width: int, completion_width: int) -> int:
    """Count the padded tokens that the backbone runs for a micro-batch with shared prompts."""
    return prompts * (prompt_width - 1) + rows * completion_width


def pays(
    rows: int, prompts: int, prompt_width: int, completion_width: int, *, pass_cost: int
) -> bool:
    """Return whether a micro-batch is worth sharing its prompts.

        rows · (P + T) - (prompts · (P - 1) + rows · T) > pass_cost

    Attention over the prompt costs the same per token either way, and each shared prompt saves its
    own: it is left out, which errs on the careful side.

    Args:
        rows: completions of the micro-batch.
        prompts: distinct prompts among them.
        prompt_width: P, padded, in tokens.
        completion_width: T, padded, in tokens.
        pass_cost: tokens that one more pass of the backbone is worth.

    Returns:
        Whether the tokens saved are worth more than a pass.
    """
    plain = rows * (prompt_width + completion_width)
    return plain - shared_tokens(rows, prompts, prompt_width, completion_width) > pass_cost


def host_of(model: nn.Module) -> Any:
    """Return the model that TRL's fused head sits on, beneath DDP and any adapter."""
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


class SharedLayer(DynamicLayer):
    """Keys and values of distinct prompts, for every row that has the prompt.

    New tokens are appended to what the attention gets and not to what is kept: the completions are
    run once, and keeping theirs would double the memory.

    Args:
        keys: of the prompts' tokens but their last.
        values: likewise.
        prompt_of: index of each row's prompt.
    """

    def __init__(
        self,
        keys: Float[Tensor, "prompts heads columns _"],
        values: Float[Tensor, "prompts heads columns _"],
        prompt_of: Int[Tensor, " b"],
    ) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.prompt_of = prompt_of.to(keys.device)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of each row's prompt and of its new tokens."""
        return (
            torch.cat([self._repeat(self.keys), key_states], dim=-2),
            torch.cat([self._repeat(self.values), value_states], dim=-2),
        )

    def _repeat(self, kept: Any) -> Tensor:
        if len(kept) == 1:  # a view: `cat` makes the only copy
            return kept.expand(len(self.prompt_of), -1, -1, -1)
        return kept.index_select(0, self.prompt_of)


@contextmanager
def _prompts_first(
    backbone: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, prompt_of: Tensor
) -> Generator[None, None, None]:
    """Let the next pass of the backbone begin with a pass of the distinct prompts.

    The last token of a prompt stays with the completion, whose first token it predicts. The cache
    keeps every key, also for layers with a sliding window: the model's mask leaves out what is old.
    """
    numbers, of_row = prompt_of.unique(return_inverse=True)
    rows = torch.arange(len(of_row), device=of_row.device)
    first = rows.new_full(numbers.shape, len(rows)).scatter_reduce(0, of_row, rows, "amin")
    ids, mask = (columns[first, :-1] for columns in (prompt_ids, prompt_mask))

    def run_prompts(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        handle.remove()  # before the backbone runs again
        cache: Any = DynamicCache()
        backbone(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        layers: list[Any] = [SharedLayer(kept.keys, kept.values, of_row) for kept in cache.layers]
        return args, {**kwargs, "past_key_values": Cache(layers), "use_cache": True}

    if ids.size(1) == 0:  # prompts of one token: nothing to share
        yield
        return
    handle = backbone.register_forward_pre_hook(run_prompts, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
