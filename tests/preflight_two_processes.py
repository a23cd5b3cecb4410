"""Run by test_preflight under torchrun: a reward that raises on one rank alone."""

import conftest  # noqa: F401 (environment variables)
import torch
from accelerate.utils import gather_object
from preflight_helpers import trainer_of
from torchrun import leave

from grpo_credit.preflight.draw import draw
from grpo_credit.preflight.verdict import NotFit, preflight


def fails_on_one(completions, **_):
    if torch.distributed.get_rank() == 1:
        raise RuntimeError("rank 1 only")
    return [float(len(c) % 2) for c in completions]


def odd(completions, **_):
    return [float(len(c) % 2) for c in completions]


def rows_are_in_order():
    """A text's tokens are its characters and the end, so its length tells its reward."""
    drawn = draw(trainer_of(odd, ["a", "bb", "ccc"], per_device_train_batch_size=8))
    assert [len(row) for row in drawn.uncertainty] == drawn.lengths  # and so are what ranks asked
    assert drawn.products.shape == (len(drawn.lengths) // drawn.unit,) * 2
    return [float((n - 1) % 2) for n in drawn.lengths] == drawn.rewards[0].scores.tolist()


if __name__ == "__main__":
    assert rows_are_in_order()
    trainer = trainer_of(fails_on_one, ["a", "bb", "ccc"], per_device_train_batch_size=8)
    try:
        preflight(trainer, strict=True)
        raise SystemExit("strict did not stop")
    except NotFit as error:
        told = gather_object([str(error)])
    if torch.distributed.get_rank() == 0 and len(set(told)) == 1 and len(told) == 2:
        print("same on both", flush=True)
    leave()
