"""Where prompts cannot be shared, and a self-test of whether sharing them is exact here.

Both answer with the reason why not, in plain words, or with None. With several processes every rank
must come to the same decision: gather the answers before acting on one.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedConfig

from grpo_credit.sharing import host_of, score_sharing_prompts

EXACT = 1e-5  # relative difference that is asked of float32
TESTED_NUMBERS = 2**24  # of a gradient, at most: 64 MB in float32
PLAIN_LAYERS = {"full_attention", "sliding_attention"}  # keys and values of tokens, nothing else
PLAIN_TRAINING = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def refusal(
    model: nn.Module, distributed: DistributedType = DistributedType.NO, aux_loss: bool = False
) -> str | None:
    """Say why a model's prompts cannot be shared.

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
    """Name the first module with a dropout rate; functional dropout has it as an attribute."""
    for name, module in model.named_modules():
        rates = {k: v for k, v in vars(module).items() if "drop" in k and isinstance(v, float)}
        if isinstance(module, nn.modules.dropout._DropoutNd):
            rates["p"] = module.p
        if any(rates.values()):
            return f"dropout in {name or type(module).__name__!r}"
    return None


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
    """Compare log-probabilities and gradients with those of the plain pass, on three rows.

    The rows are two completions of the longest prompt at hand, and one of its second half, so that
    there is padding. The gradients are of the smallest trainable parameters, up to 16 million
    numbers: in a large model those of every layer's norms, which everything flows through. The
    difference may be 1e-5, relative, or what rounding explains, if that is more: twice the
    difference that one unit in the last place of every module's output makes to the plain pass, in
    whatever precision that output has. (Right passes were found at 0.1 to 0.4 of that difference in
    bfloat16; a cache without gradient at 5 to 30 times.) `.grad` and the random state are left as
    they are.

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
    parameters = _smallest(model)
    try:
        plain = _measure(lambda: _plain(model, rows), parameters)
        with _last_place_disturbed(model):
            disturbed = _measure(lambda: _plain(model, rows), parameters)
        shared = _measure(lambda: score_sharing_prompts(model, *rows)[0], parameters)
    except Exception as error:  # no memory, or a cache that the model was not written for
        return f"its self-test failed with {type(error).__name__}: {str(error).partition('.')[0]}"
    for name, ours, host, other in zip(
        ("log-probabilities", "gradients"), shared, plain, disturbed, strict=True
    ):
        found, allowed = _difference(ours, host), max(EXACT, 2 * _difference(other, host))
        if not found <= allowed:
            return f"{name} differ by {found:.1e} in its self-test, {allowed:.1e} allowed"
    return None


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


def _smallest(model: nn.Module) -> list[nn.Parameter]:
    """List the smallest trainable parameters, up to `TESTED_NUMBERS` together; at least one."""
    chosen: list[nn.Parameter] = []
    trainable = (p for p in model.parameters() if p.requires_grad)
    for parameter in sorted(trainable, key=torch.Tensor.numel):
        if chosen and sum(map(torch.Tensor.numel, [*chosen, parameter])) > TESTED_NUMBERS:
            break
        chosen.append(parameter)
    return chosen


def _plain(model: nn.Module, rows: Slice) -> Tensor:
    mask = torch.cat([rows.prompt_mask, rows.completion_mask], dim=1)
    ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)
    labels = ids.masked_fill(mask == 0, -100)
    width = rows.completion_ids.size(1)
    labels[:, :-width] = -100
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return outputs.log_probs[:, -width:]


def _measure(score: Callable[[], Tensor], parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Give log-probabilities and the gradient of a sum of them with uneven weights."""
    logps = score()
    weights = torch.arange(logps.numel(), device=logps.device).cos().view_as(logps)
    found = torch.autograd.grad((weights * logps).sum(), parameters, allow_unused=True)
    gradient = [g.flatten().float() for g in found if g is not None]
    return logps.detach().float(), torch.cat(gradient)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:  # a parameter was used by only one of them
        return float("inf")
    return float((a - b).norm() / b.norm())


@contextmanager
def _last_place_disturbed(model: nn.Module) -> Generator[None, None, None]:
    """Move what every module without submodules puts out by one unit in the last place.

    Up or down at random, from a generator of its own. TF32 products of float32 keep 10 bits.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def disturb(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        draw = generators.setdefault(output.device, torch.Generator(output.device).manual_seed(0))
        signs = torch.empty_like(output).bernoulli_(0.5, generator=draw) * 2 - 1
        return output * (1 + _last_place(output) * signs)

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(disturb) for module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_place(output: Tensor) -> float:
    if output.is_cuda and output.dtype == torch.float32 and _multiplies_in_tf32():
        return 2.0**-10
    return torch.finfo(output.dtype).eps


def _multiplies_in_tf32() -> bool:
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # where this was set, reading `allow_tf32` raises
        return matmul.fp32_precision == "tf32"
    return matmul.allow_tf32
