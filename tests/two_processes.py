"""Run by test_partition under torchrun: save gradients of one step, averaged over two ranks."""

import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from test_partition import LAYOUTS, NAMED, gradient
from torchrun import begin, leave

if __name__ == "__main__":
    begin()
    gradients = {
        (layout, name): gradient(rows, steps, prompts=prompts, tools=True, **options)
        for layout, (prompts, rows, steps) in LAYOUTS.items()
        for name, options in NAMED.items()
    }
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        torch.save(gradients, Path(sys.argv[1]) / "gradients.pt")
    leave()
