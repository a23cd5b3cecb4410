"""Run by test_annotations under torchrun: a reward that fails on one rank; then one step."""

import os
import sys

import conftest  # noqa: F401 (environment variables)
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from harness import ours
from rules import Parity, Verdict
from test_annotations import Teller, tell
from torchrun import leave

RANK = int(os.environ.get("RANK", 0))
PLACE = 2 + 9 * RANK  # inside of the first rank's text alone


class Failing(Teller):
    """Answer for a longer text than the second rank's."""

    def spans(self, completions):
        return [{"comma": [(0, PLACE)]}]

    def steps(self, completions):
        return [[(PLACE, 1.0)]]

    def decided(self, completions):
        return [Verdict(PLACE)]

    def automata(self, completions):
        return [{2: Parity()}[PLACE]]


if __name__ == "__main__":
    PartialState(cpu=True)
    for method, need in {
        "spans": "spans",
        "steps": "step_rewards",
        "decided": "decided",
        "automata": "states",
    }.items():
        try:
            tell(["1,"], reward=Failing()).find(frozenset({need}), torch.device("cpu"))
        except Exception as error:
            line = f"{RANK} {method} {type(error).__name__}: {error}\n"
            os.write(sys.stdout.fileno(), line.encode())  # whole, beside the other rank's
    assert gather_object([RANK]) == [0, 1]
    ours(
        credit="token_baseline/seq", max_steps=1, per_device_train_batch_size=4, save_rollouts=1,
        output_dir=sys.argv[1],
    )  # fmt: skip
    leave()
