"""Run by test_packing under torchrun: DDP reduces the gradients of packed rows."""

import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from packing_helpers import batch, build, difference, packed_scores, trl_scores
from torch.nn.parallel import DistributedDataParallel

ROWS = [(2, 0, 2, 1, 0, 2), (0, 1, 1, 1, 2, 0)]  # the prompts of each rank's rows


def weighted(logps):
    """Sum log-probabilities with uneven weights."""
    return (torch.arange(logps.numel()).sin().view_as(logps) * logps).sum()


def plain_gradient():
    """Average the gradients of both ranks' rows, two passes each, by TRL's own pass."""
    model = build()
    for of in ROWS * 2:
        (weighted(trl_scores(model, *batch(of=of))[0]) / len(ROWS)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def reduced_gradient(rank, unused):
    """Accumulate over two passes under DDP, the first without reduction."""
    model = DistributedDataParallel(build(), find_unused_parameters=unused)
    rows = batch(of=ROWS[rank])
    with model.no_sync():
        weighted(packed_scores(model, *rows)[0]).backward()
    weighted(packed_scores(model, *rows)[0]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for unused in (False, True):
        found = difference(reduced_gradient(rank, unused), plain_gradient())
        assert found <= 1e-5, f"find_unused_parameters={unused}: {found}"
    (Path(sys.argv[1]) / f"rank{rank}").touch()
    torch.distributed.destroy_process_group()
