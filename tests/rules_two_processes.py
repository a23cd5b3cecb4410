"""Run by test_rules_in_training under torchrun: save the gradients of rules over two ranks."""

import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from rules import train
from test_rules_in_training import ACROSS
from torchrun import begin, leave

if __name__ == "__main__":
    begin()
    folder, *names = sys.argv[1:]
    gradients = {name: train(name, **ACROSS).gradients for name in names}
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    leave()
