"""A pass of another shape, tried against TRL's pass on the model at hand.

Whether a row may be trimmed, run with other rows, or share its prompt depends on how a model
numbers positions, and on what its rows have in common. Configurations do not tell all of it, so it
is tried: `Reference` compares log-probabilities and a gradient.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

EXACT = 1e-5  # relative difference that is asked of float32
TESTED_NUMBERS = 2**24  # of a gradient, at most: 64 MB in float32
FAILED = "failed"  # how the reason of a pass that raised begins

Score = Callable[[], Iterable[Tensor]]  # runs passes: log-probabilities (n, T), 0 at padding


class Measured(NamedTuple):
    """Log-probabilities of a pass, and the gradient of their sum with uneven weights."""

    log_probabilities: Float[Tensor, "n T"]
    gradients: Float[Tensor, " m"]
    failure: str = ""


class Reference:
    """TRL's pass of some rows, which passes of other shapes are compared with.

    A pass may differ by 1e-5, relative, or by what rounding explains, if that is more: twice the
    difference that one unit in the last place of every module's output makes, in whatever precision
    that output has. (Right passes were found at 0.1 to 0.4 of that difference in bfloat16; a cache
    without gradient at 5 to 30 times.) The gradient is that of the smallest trainable parameters,
    up to 16 million numbers: in a large model the norms of every layer, which everything flows
    through. All passes begin with the same random state and drop nothing out. `.grad`, buffers and
    the random state are left as they are.

    Args:
        model: what `score` runs, in training.
        score: runs TRL's pass.
        with_gradient: whether a gradient can be taken of this model's parameters; sharded ones
            give none, and log-probabilities are compared alone.
        agree: takes what this rank finds, returns what any rank finds: all must do as much.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Score,
        *,
        with_gradient: bool = True,
        agree: Callable[[str | None], str | None] = lambda reason: reason,
    ) -> None:
        self._model, self._score, self._agree = model, score, agree
        self._parameters = smallest_parameters(model) if with_gradient else []
        self._measured = self._measure(score)

    def refuses(self, score: Score) -> str | None:
        """Return how a pass of the same tokens differs from this one; None if it does not."""
        other = self._measure(score)
        refused = self._agree(self._beyond(other, EXACT))
        if refused is None or refused.startswith(FAILED):
            return refused
        again = self._measure(self._score)
        if random := self._agree(self._beyond(again, max(EXACT, _precision(self._model)))):
            return f"two equal passes differ: {random}"
        with _last_place_disturbed(self._model):
            disturbed = self._measure(self._score)
        return self._agree(self._beyond(other, EXACT, disturbed))

    def _measure(self, score: Score) -> Measured:
        try:
            with _same_start(self._model), torch.set_grad_enabled(bool(self._parameters)):
                return _measure(score, self._parameters)
        except Exception as error:  # no memory, or a pass that the model was not written for
            reason = f"{FAILED} with {type(error).__name__}: {str(error).partition('.')[0]}"
            return Measured(torch.empty(0), torch.empty(0), reason)

    def _beyond(
        self, other: Measured, bound: float, explained: Measured | None = None
    ) -> str | None:
        """Return what differs by more than a bound, or twice what is explained, in words."""
        explained = explained or self._measured
        for run in (self._measured, other, explained):
            if run.failure:
                return run.failure
        for name in ("log_probabilities", "gradients"):
            ours, theirs, noisy = (getattr(m, name) for m in (other, self._measured, explained))
            allowed = max(bound, 2 * relative_difference(noisy, theirs))
            if not (gap := relative_difference(ours, theirs)) <= allowed:  # NaN is beyond, too
                return f"{name.replace('_', '-')} differ by {gap:.1e}, {allowed:.1e} allowed"
        return None


def _measure(score: Score, parameters: list[nn.Parameter]) -> Measured:
    """Measure pass by pass, so that no more than one is kept for its gradient."""
    found, gradient, before = [], torch.zeros(()), 0
    for logps in score():
        found.append(logps.detach().float())
        if parameters:
            weights = torch.arange(before, before + logps.numel(), device=logps.device).cos()
            gradients = torch.autograd.grad(
                (weights.view_as(logps) * logps).sum(), parameters,
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            flat = torch.cat([g.flatten().float() for g in gradients])
            gradient, before = gradient.to(flat) + flat, before + logps.numel()
    return Measured(torch.cat(found), gradient)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b|, Euclidean; 0 where both are zero."""
    gap = (a - b).norm()
    return float(gap / b.norm()) if gap != 0 else 0.0


def smallest_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the smallest trainable parameters, up to `TESTED_NUMBERS` together; at least one."""
    chosen: list[nn.Parameter] = []
    trainable = (p for p in model.parameters() if p.requires_grad)
    for parameter in sorted(trainable, key=torch.Tensor.numel):
        if chosen and sum(map(torch.Tensor.numel, [*chosen, parameter])) > TESTED_NUMBERS:
            break
        chosen.append(parameter)
    return chosen


def dropout_rates(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Find every dropout rate above 0: the module's name, the module, the attribute."""
    for name, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            drops = attribute == "p" and isinstance(module, nn.modules.dropout._DropoutNd)
            if (drops or "drop" in attribute) and isinstance(value, float) and value > 0:
                yield name, module, attribute


@contextmanager
def _same_start(model: nn.Module) -> Generator[None, None, None]:
    """Begin with one random state, drop nothing out, and leave no trace in the model."""
    numbers = [(m, {k: v for k, v in vars(m).items() if isinstance(v, (int, float))})
               for m in model.modules()]  # fmt: skip
    buffers = [(m, name, buffer, buffer.clone()) for m in model.modules()
               for name, buffer in m._buffers.items() if buffer is not None]  # fmt: skip
    kind, devices = _devices(model)
    with torch.random.fork_rng(devices, device_type=kind):
        torch.manual_seed(0)
        try:
            for _, module, name in dropout_rates(model):
                setattr(module, name, 0.0)
            yield
        finally:
            for module, kept in numbers:  # rates, and widths that rotary tables were made for
                vars(module).update(kept)
            for module, name, buffer, kept in buffers:  # running statistics, and those tables
                buffer.data.copy_(kept)
                module._buffers[name] = buffer


def _devices(model: nn.Module) -> tuple[str, list[int]]:
    """Return the kind of accelerator that a model is on, and the numbers of those in use."""
    found = {p.device for p in model.parameters() if p.device.type != "cpu"}
    kind = next(iter(found)).type if found else "cuda"
    return kind, sorted({device.index or 0 for device in found})


def _precision(model: nn.Module) -> float:
    """Return the relative precision of what the model computes in."""
    kind = next(model.parameters()).device.type
    if torch.is_autocast_enabled(kind):
        return torch.finfo(torch.get_autocast_dtype(kind)).eps
    return max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())


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
