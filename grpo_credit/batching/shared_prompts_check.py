"""Where prompts cannot be shared, and a self-test of whether sharing them is exact here.

Both answer with the reason why not, in plain words, or with None. With several processes every rank
must come to the same decision: gather the answers before acting on one.
"""

from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedConfig

from grpo_credit.batching.shared_prompts import host_of, score_sharing_prompts
from grpo_credit.batching.trial import Reference, dropout_rates

PLAIN_LAYERS = {"full_attention", "sliding_attention"}  # keys and values of tokens, nothing else
PLAIN_TRAINING = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def refusal(
    model: nn.Module, distributed: DistributedType = DistributedType.NO, aux_loss: bool = False
) -> str | None:
    """Return why a model's prompts cannot be shared.

    Args:
        model: may be wrapped by an adapter or DDP.
        distributed: how accelerate distributes the training.
        aux_loss: whether TRL adds a router's auxiliary loss, a mean over all tokens that are run.

    Returns:
        The first reason in plain words; None if there is none.

    DDP: both passes are inside one forward pass of its wrapper, and every parameter takes part in
    the loss, so that it reduces each gradient once; tried with `find_unused_parameters` on and off.
    Flash attention aligns queries with the end of the keys, row by row without the padding, and so
    is right here; it is left to the self-test because it runs on accelerators only.
    """
    host = host_of(model)
    config, peft = host.config, getattr(model, "active_peft_config", None)
    attention, dropout = config._attn_implementation, _active_dropout(model)
    reasons = {
        "gradient checkpointing runs layers again without a cache": _checkpoints(host),
        f"{distributed.value} gathers parameters pass by pass": distributed not in PLAIN_TRAINING,
        "the model is compiled": hasattr(model, "_orig_mod"),
        "the model has inputs besides text": config.get_text_config() is not config,
        "the model has an encoder": config.is_encoder_decoder,
        "the model keeps more than keys and values of its tokens": not _has_plain_cache(host),
        f"the attention implementation {attention!r} was not tried": not _known(attention),
        f"{dropout} would drop the same of all copies of a prompt": dropout is not None,
        "the router's auxiliary loss counts every copy of a prompt": (
            aux_loss or getattr(config, "output_router_logits", False)
        ),
        "the adapter puts tokens before the prompt": bool(peft and peft.is_prompt_learning),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _checkpoints(host: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in host.modules())


def _has_plain_cache(host: Any) -> bool:
    config: PreTrainedConfig = host.config
    layers = set(getattr(config, "layer_types", None) or PLAIN_LAYERS)
    shared_between_layers = getattr(config, "num_kv_shared_layers", 0)
    return not host._is_stateful and layers <= PLAIN_LAYERS and not shared_between_layers


def _known(attention: str) -> bool:
    return attention in ("eager", "sdpa") or "flash" in attention


def _active_dropout(model: nn.Module) -> str | None:
    """Name the first module with a dropout rate."""
    first = next(dropout_rates(model), None)
    return first and f"dropout in {first[0] or type(first[1]).__name__!r}"


class Slice(NamedTuple):
    """Rows of a micro-batch, as `score_sharing_prompts` takes them."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    prompt_of: Tensor


def self_test(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
) -> str | None:
    """Compare a pass with shared prompts with the plain one, on three rows; see `trial.Reference`.

    The rows are two completions of the longest prompt at hand, and one of its second half, so that
    there is padding.

    Args:
        model: with TRL's fused head, as in training; no DDP pass is made.
        prompt_ids: as in `score_sharing_prompts`, like the other arguments.
        prompt_mask: likewise.
        completion_ids: likewise.
        completion_mask: likewise.

    Returns:
        What went wrong, in plain words; None if nothing did.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    rows = _three_rows(prompt_ids, prompt_mask, completion_ids, completion_mask)
    plain = Reference(model, lambda: _plain(model, rows))
    refused = plain.refuses(lambda: score_sharing_prompts(model, *rows)[0])
    return refused and f"self-test: {refused}"


def _three_rows(
    prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> Slice:
    longest = prompt_mask.sum(dim=1).argmax()
    mask = prompt_mask[longest]
    half = mask * (mask.flip(0).cumsum(0).flip(0) <= (mask.sum() + 1) // 2)
    order = completion_mask.sum(dim=1).argsort(descending=True)
    rows = order[[0, min(1, len(order) - 1), 0]]
    counted = completion_mask[rows].clone()
    counted[:, 0] = 1  # of a completion that is masked as a whole
    return Slice(
        prompt_ids[longest].expand(3, -1),
        torch.stack([mask, mask, half]),
        completion_ids[rows],
        counted,
        torch.tensor([0, 0, 1], device=rows.device),
    )


def _plain(model: nn.Module, rows: Slice) -> Tensor:
    mask = torch.cat([rows.prompt_mask, rows.completion_mask], dim=1)
    ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)
    labels = ids.masked_fill(mask == 0, -100)
    width = rows.completion_ids.size(1)
    labels[:, :-width] = -100
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return outputs.log_probs[:, -width:]
