"""Run by test_turns under torchrun: save the gradient of a step of tools, and the turns."""

import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import pytest
import torch
from test_turns import LOOKS, turned
from tool_script import script
from torchrun import begin, leave

if __name__ == "__main__":
    begin()
    folder = Path(sys.argv[1])
    with pytest.MonkeyPatch.context() as patch:
        script(patch, *LOOKS)
        trace, rollouts = turned(folder, 2)
    roles = [[turn.role for turn in own] for own in rollouts.turns]
    if torch.distributed.get_rank() == 0:
        torch.save((trace.gradients[0], roles), folder / "two.pt")
    leave()
