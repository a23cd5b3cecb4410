"""What `bench_step.py` measures of a trainer."""

import time
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from transformers import TrainerCallback


class CpuPeak:
    """The most bytes that PyTorch's CPU allocations hold at once, beyond those at the start."""

    def __init__(self) -> None:
        cpu = torch.profiler.ProfilerActivity.CPU
        self.profile = torch.profiler.profile(activities=[cpu], profile_memory=True)
        self.profile.start()

    def stop(self) -> int:
        """Return the peak since the start."""
        self.profile.stop()
        events = self.profile.profiler.kineto_results.events()
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        return max(accumulate(size for _, size in changes))


class CudaPeak:
    """The same of the current GPU."""

    def __init__(self) -> None:
        torch.cuda.reset_peak_memory_stats()
        self.start = torch.cuda.memory_allocated()

    def stop(self) -> int:
        """Return the peak since the start."""
        return torch.cuda.max_memory_allocated() - self.start


PEAKS = {"cpu": CpuPeak, "cuda": CudaPeak}


@dataclass
class Passes:
    """Forward passes of the backbone, and the tokens in them, padding included."""

    passes: int = 0
    tokens: int = 0

    def add(self, input_ids: torch.Tensor) -> None:
        """Count one pass."""
        self.passes += 1
        self.tokens += input_ids.numel()


@dataclass
class Meter(TrainerCallback):
    """What a trainer takes for the second optimizer step of each generation batch.

    Args:
        trainer: measured from now on.
        device: "cpu" or "cuda".
    """

    trainer: Any
    device: str
    watch_memory: bool = False  # slows the step down
    seconds: list[float] = field(default_factory=list)
    seconds_no_grad: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.measuring = False
        self.with_grad, self.no_grad = Passes(), Passes()
        trainer = self.trainer
        self.step, self.score = trainer.training_step, trainer._get_per_token_logps_and_entropies
        trainer.training_step = self.timed_step
        trainer._get_per_token_logps_and_entropies = self.timed_score
        trainer.model.base_model.register_forward_pre_hook(self.count, with_kwargs=True)
        trainer.add_callback(self)

    def now(self) -> float:
        """Read the clock: the processor's on the CPU, else the wall's once the GPU is done."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def count(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        """Count a forward pass."""
        (self.with_grad if torch.is_grad_enabled() else self.no_grad).add(kwargs["input_ids"])

    def timed_score(self, *args: Any, **kwargs: Any) -> Any:
        """Score, and time it where it is without gradient: with a batch size, fifth of its inputs.

        A trial has none; it comes before the first scoring.
        """
        if torch.is_grad_enabled() or (len(args) < 5 and kwargs.get("batch_size") is None):
            return self.score(*args, **kwargs)
        self.no_grad, start = Passes(), self.now()
        result = self.score(*args, **kwargs)
        self.seconds_no_grad.append(self.now() - start)
        return result

    def timed_step(self, *args: Any, **kwargs: Any) -> Any:
        """Make a training step; the first one of a second optimizer step starts the clock."""
        if self.trainer.state.global_step % 2 and not self.measuring:
            self.measuring, self.with_grad = True, Passes()
            self.memory = PEAKS[self.device]() if self.watch_memory else None
            self.start = self.now()
        return self.step(*args, **kwargs)

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        """Stop the clock and keep the gradient."""
        if not self.measuring:
            return
        self.seconds.append(self.now() - self.start)
        if self.memory:
            self.peak_bytes = self.memory.stop()
        self.measuring = False
        gradients = (p.grad for p in model.parameters() if p.grad is not None)
        self.gradient = torch.cat([g.flatten().float().cpu() for g in gradients])
