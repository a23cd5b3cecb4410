"""Do something in the middle of training, and let training go on as if nothing had been done."""

import copy
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_MUTABLE = ("_metrics", "_logs", "_pending_extra_logs", "_pending_metrics", "state")
_COLLECTOR = "_collector"  # of what was generated; it never changes what it holds


@contextmanager
def random_states_kept() -> Generator[None, None, None]:
    """Let the body draw, then put the states of Python, numpy, torch and its devices back."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global state)
    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    every = range(torch.get_device_module(kind).device_count())  # left out, torch warns of several
    with torch.random.fork_rng(every, device_type=kind):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Generator[None, None, None]:
    """Put a model in training or evaluation mode, then every module back in its own.

    Modules may differ: a frozen tower stays in evaluation mode while the rest trains.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        model.train(modes[0][1])  # first: a module's own `train` may do more than set its flag
        for module, mode in modes:
            module.training = mode


@contextmanager
def untouched(trainer: Any, *, training: bool) -> Generator[None, None, None]:
    """Let the body train or sample as it likes in a mode, and then put everything back."""
    before = dict(vars(trainer))
    with random_states_kept(), in_mode(trainer.model, training=training):
        try:
            changing = {name: copy.deepcopy(before[name]) for name in _MUTABLE if name in before}
            if _COLLECTOR in before:
                changing[_COLLECTOR] = copy.copy(before[_COLLECTOR])
            vars(trainer).update(changing)
            yield
        finally:
            vars(trainer).clear()
            vars(trainer).update(before)
