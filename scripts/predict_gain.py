"""Try the law that predicts the gain of perfect credit, on settings that it was not found on.

    OMP_NUM_THREADS=1 python scripts/predict_gain.py
    OMP_NUM_THREADS=1 python scripts/predict_gain.py --settings 6 --seeds 6

`grpo_credit.credit.headroom.predicted_gain` says how many times fewer steps perfect credit needs
than `seq`, from the variance of a step before training. Here chains are drawn by chance, `seq` and
true advantages race on each, each at its best rate, by SGD and by AdamW in turn. Printed are the
gains, how far off the law was, and rank correlations; apart from them, chains whose filler has
parameters of its own. About ten minutes of one core.
"""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from scipy.stats import spearmanr

from grpo_credit.lab.race.chain import Chain
from grpo_credit.lab.race.compare import SEQ, TRUTH, Raced, run
from grpo_credit.lab.race.racing import Race

OPTIMIZERS = ("sgd", "adamw")
LIMIT = 600


@dataclass(frozen=True)
class Tried:
    """A setting on which the law was tried.

    Args:
        raced: what came of it.
        predicted: by the law.
    """

    raced: Raced
    predicted: float

    @property
    def seen(self) -> float:
        """The gain of the race."""
        return self.raced.headroom.value

    @property
    def known(self) -> bool:
        """Whether `seq` and true advantages came to the target."""
        return all(self.raced.told[rule].arrived for rule in (SEQ, TRUTH))


def draw_chain(rng: random.Random, apart: bool) -> Chain:
    """Draw a chain; no number of symbols or features is that of a chain the law was found on."""
    decisions = rng.choice((1, 2, 3, 5, 6))
    graded = rng.random() < 0.3
    begins = rng.uniform(0.3, 0.5) if graded else rng.uniform(0.04, 0.3) ** (1 / decisions)
    groups = rng.choice((2, 3, 6, 12))
    return Chain(
        length=rng.choice((8, 12, 20, 28, 48, 80)),
        decisions=decisions,
        chance=round(begins, 3),
        graded=graded,
        early=rng.random() < 0.3,
        forced=not apart and rng.random() < 0.2,
        apart=apart,
        noise=rng.choice((0.0, 0.0, 0.0, 0.3)),
        symbols=rng.choice((2, 3, 6, 8)),
        features=rng.choice((8, 12, 24)),
        pool=max(groups, rng.choice((6, 12, 24))),
        groups=groups,
        num_generations=rng.choice((4, 6, 12)),
    )


def try_law(count: int, apart: bool, seeds: int) -> list[Tried]:
    """Race on some settings and print each."""
    rng = random.Random(f"fresh {apart}")
    tried = []
    for number, optimizer in zip(range(count), cycle(OPTIMIZERS), strict=False):
        chain = draw_chain(rng, apart)
        raced = run(Race(chain, optimizer, LIMIT, seeds, seeds, seed=100 + number), {})
        tried.append(Tried(raced, raced.predicted(TRUTH) or math.nan))
        print(_line(number, tried[-1]), flush=True)
    return tried


def _line(number: int, tried: Tried) -> str:
    raced, chain = tried.raced, tried.raced.race.chain
    paid = "share" if chain.graded else "all"
    other = [name for name in ("early", "forced", "apart") if getattr(chain, name)]
    steps = [f"{'' if t.arrived else '>'}{t.steps}" for t in map(raced.told.get, (SEQ, TRUTH)) if t]
    return (
        f"{number + 1:3} {raced.race.optimizer:5} T={chain.length:<2} k={chain.decisions} {paid:5} "
        f"batch {chain.groups}x{chain.num_generations:<2} noise {chain.noise} "
        f"{'+'.join(other):12} steps {steps[0]:>4} {steps[1]:>4} predicted {tried.predicted:5.2f} "
        f"seen {tried.seen:5.2f} [{raced.headroom.low:.2f}, {raced.headroom.high:.2f}]"
    )


def summary(title: str, tried: Sequence[Tried]) -> str:
    """Say how far off the law was, and whether it ranked the settings."""
    known = [each for each in tried if each.known]
    if len(known) < 3:
        return f"{title}: {len(known)} of {len(tried)} settings came to the target, too few."
    off = np.array([math.log(each.seen / each.predicted) for each in known])
    half, most = np.exp(np.quantile(np.abs(off), [0.5, 0.9]))
    ranks = float(spearmanr([e.seen for e in known], [e.predicted for e in known]).statistic)
    return (
        f"{title}: {len(known)} settings ({len(tried) - len(known)} more did not come to the "
        f"target); half within a factor of {half:.2f}, nine in ten within {most:.2f}; seen / "
        f"predicted {math.exp(off.mean()):.2f} on geometric average; rank correlation {ranks:.2f}."
    )


def main() -> None:
    """Try the law and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=36, help="with shared parameters")
    parser.add_argument("--apart", type=int, default=8, help="whose filler has its own")
    parser.add_argument("--seeds", type=int, default=12, help="of each race, and to tune on")
    asked = parser.parse_args()
    shared = try_law(asked.settings, False, asked.seeds)
    apart = try_law(asked.apart, True, asked.seeds)
    print(summary("shared parameters", shared))
    for optimizer in OPTIMIZERS:
        print(summary(optimizer, [t for t in shared if t.raced.race.optimizer == optimizer]))
    print(summary("filler apart", apart))


if __name__ == "__main__":
    main()
