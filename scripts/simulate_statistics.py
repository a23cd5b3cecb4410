"""Simulate how often the report's intervals cover and its verdicts are wrong.

    OMP_NUM_THREADS=1 python scripts/simulate_statistics.py
    OMP_NUM_THREADS=1 python scripts/simulate_statistics.py --sims 500 --only power

Runs the report's own code on made-up seeds and prints the tables of docs/statistics.md. In a study
without a difference, every call of "better" or "worse" is false; in one of equal means and unlike
shapes, every call that a mean is higher. A share p of N simulations has a standard error of
√(p (1 - p) / N): 0.005 for 0.05 and 2,000.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from grpo_credit.experiments.report.difference import Difference
from grpo_credit.experiments.report.intervals import (
    Interval,
    Settings,
    bootstrap_interval,
    iqm,
    t_interval,
)
from grpo_credit.experiments.report.paired import differences, holm
from grpo_credit.experiments.report.statistics import compare_pairs
from grpo_credit.experiments.report.verdict import decide

Shape = tuple[int, ...]  # (..., seeds)
Row = tuple[object, ...]
Make = Callable[[np.random.Generator, Shape], np.ndarray]
SEEDS = (3, 5, 6, 8, 10)
COMPARISONS = (1, 3, 6)
SETTINGS = Settings(resamples=200)


def gaussian(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw an effect of the seed, which all strategies share, and one of the run, as large."""
    return rng.normal(size=shape[-1]) + rng.normal(size=shape)


def bounded(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw rates in [0, 1], skewed, around a rate that depends on the seed."""
    centre = rng.uniform(0.5, 0.95, size=shape[-1])
    return rng.beta(8 * centre, 8 * (1 - centre), size=shape)


def saturated(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw the share of right answers to 64 prompts that nearly all are answered."""
    return rng.binomial(64, 0.98, size=shape) / 64


def collapsing(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw runs of which half fail altogether."""
    return rng.integers(0, 2, size=shape) * 0.9 + rng.uniform(0, 0.05, size=shape)


def coin(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw 0 or 1: differences are often all equal."""
    return rng.integers(0, 2, size=shape).astype(float)


def long_tail(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw a lognormal baseline, and strategies that steadily have its mean, √e."""
    steady = rng.normal(np.exp(0.5), 0.1, size=shape)
    return np.concatenate([rng.lognormal(size=(1, shape[-1])), steady[1:]])


def rare_failures(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw a baseline of which 15 % fail, and strategies that steadily have its mean."""
    level = np.full(shape, 0.85 * 0.9)
    level[0] = 0.9 * (rng.random(shape[-1]) < 0.85)
    return level + rng.uniform(0, 0.05, size=shape)


MAKERS: tuple[Make, ...] = (gaussian, bounded, saturated, collapsing, coin)
UNLIKE: tuple[Make, ...] = (long_tail, rare_failures)  # equal means, the first row is another shape


class Made(NamedTuple):
    """A study: the comparisons of the report, and the differences that they are of."""

    found: list[Difference]
    raw: list[np.ndarray]


def verdict(made: Made) -> list[bool]:
    """Call what the report calls."""
    return [decide(each, SETTINGS).outcome in ("better", "worse") for each in made.found]


def skew_too(made: Made) -> list[bool]:
    """Call what the report calls and t corrected for skewness rejects, too (Holm)."""
    p_values = holm([hall_p(each) for each in made.raw])
    agrees = (p <= SETTINGS.alpha for p in p_values)
    return [called and too for called, too in zip(verdict(made), agrees, strict=True)]


def hall_p(found: np.ndarray) -> float:
    """Return the two-sided p of t after Hall's transformation (1992), in the mean's direction.

        T = √n (w + g w²/3 + g² w³/27 + g/(6n)),   w = mean / s,   g = skewness,   as t_{n-1}

    Args:
        found: Differences `(n,)`.
    """
    n, mean, spread = len(found), found.mean(), found.std(ddof=1)
    if spread == 0:
        return 2 / 3**n if mean else 1.0
    w, g = mean / spread, ((found - mean) ** 3).mean() / spread**3
    t = np.sqrt(n) * (w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * n))
    return min(1.0, 2 * float(stdtr(n - 1, -np.sign(mean) * t)))


def by_interval(differences: Iterable[Difference], field: str) -> list[bool]:
    """Call whatever an interval says."""
    found: list[Interval | None] = [getattr(each, field) for each in differences]
    return [interval is not None and interval.excludes(0) for interval in found]


# A way to call winners, and the comparisons of a study that it calls.
RULES: dict[str, Callable[[Made], list[bool]]] = {
    "the verdict": verdict,
    "and Hall's t": skew_too,
    "t alone, Holm": lambda made: [each.p_holm <= SETTINGS.alpha for each in made.found],
    "sign flips, Holm": lambda made: [
        p <= SETTINGS.alpha for p in holm([each.sign_flip_p for each in made.found])
    ],
    "95 % t interval": lambda made: by_interval(made.found, "interval"),
    "95 % bootstrap": lambda made: by_interval(made.found, "bootstrap"),
}


def study(runs: np.ndarray) -> Made:
    """Compare the other rows `(m, seeds)` with the first."""
    pairs = {str(row): (values, runs[0]) for row, values in enumerate(runs[1:], 1)}
    found = list(compare_pairs(pairs, SETTINGS).values())
    return Made(found, [differences(*pair) for pair in pairs.values()])


def false_claims(make: Make, strategies: int, seeds: int, sims: int) -> list[float]:
    """Return the share of studies with one false claim or more, under each rule."""
    return called(lambda rng: make(rng, (strategies + 1, seeds)), any, sims, (strategies, seeds))


def power(effect: float, strategies: int, seeds: int, sims: int) -> list[float]:
    """Return the share of studies that call the one strategy that is better, under each rule.

    Args:
        effect: Its advantage in standard deviations of a paired difference.
        strategies: Compared with the baseline, the better one included.
        seeds: Pairs.
        sims: Studies.
    """

    def better(rng: np.random.Generator) -> np.ndarray:
        runs = gaussian(rng, (strategies + 1, seeds))
        runs[1] += effect * 2**0.5  # the difference of two runs has a standard deviation of √2
        return runs

    return called(better, lambda calls: calls[0], sims, (strategies, seeds))


def called(
    runs: Callable[[np.random.Generator], np.ndarray],
    counts: Callable[[list[bool]], bool],
    sims: int,
    size: tuple[int, int],
) -> list[float]:
    """Return the share of studies whose calls count, under each rule."""
    rng, shares = np.random.default_rng(size[1] * 100 + size[0]), np.zeros(len(RULES))
    for _ in range(sims):
        made = study(runs(rng))
        shares += [counts(rule(made)) for rule in RULES.values()]
    return (shares / sims).tolist()


def coverage(make: Make, seeds: int, sims: int) -> list[float]:
    """Give the share of intervals that cover the truth: t, bootstrap of the mean and of the IQM."""
    rng = np.random.default_rng(seeds)
    population = np.concatenate([make(rng, (1, 1_000)).ravel() for _ in range(400)])
    truths = (population.mean(), population.mean(), iqm(population))
    covered = np.zeros(3)
    for _ in range(sims):
        values = make(rng, (1, seeds))[0]
        found = (
            t_interval(values),
            bootstrap_interval(values, settings=SETTINGS),
            bootstrap_interval(values, iqm, SETTINGS),
        )
        covered += [
            interval is not None and (interval.degenerate or interval.low <= truth <= interval.high)
            for interval, truth in zip(found, truths, strict=True)
        ]
    return (covered / sims).tolist()


def table(title: str, head: tuple[str, ...], rows: Iterable[Row]) -> None:
    """Print a table in Markdown, row by row."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        print(f"| {' | '.join(cells)} |", flush=True)


def claims(sims: int, makers: tuple[Make, ...], seeds: tuple[int, ...]) -> Iterator[Row]:
    """Yield the share of studies with a false claim, by kind of values, seeds and comparisons."""
    for make, n, m in product(makers, seeds, COMPARISONS):
        yield (make.__name__, n, m, *false_claims(make, m, n, sims))


PARTS: dict[str, tuple[str, tuple[str, ...], Callable[[int], Iterable[Row]]]] = {
    "coverage": (
        "Coverage of 95 % intervals",
        ("values", "seeds", "Student t", "bootstrap of the mean", "bootstrap of the IQM"),
        lambda sims: (
            (make.__name__, n, *coverage(make, n, sims)) for make, n in product(MAKERS[:3], SEEDS)
        ),
    ),
    "false": (
        "Studies with one false claim or more, all strategies being equal",
        ("values", "seeds", "comparisons", *RULES),
        lambda sims: claims(sims, MAKERS, (3, 6, 8, 10)),
    ),
    "unlike": (
        "Studies with one false claim or more, equal means and unlike shapes",
        ("values", "seeds", "comparisons", *RULES),
        lambda sims: claims(sims, UNLIKE, (6, 8, 10, 16)),
    ),
    "power": (
        "Studies that call the one better strategy",
        ("effect / s.d.", "seeds", "comparisons", *RULES),
        lambda sims: (
            (effect, n, m, *power(effect, m, n, sims))
            for effect, n, m in product((1, 2), (6, 8, 10), COMPARISONS)
        ),
    ),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sims", type=int, default=2_000, help="simulations for each row")
    parser.add_argument("--only", choices=PARTS, help="one table of the four")
    args = parser.parse_args()
    for title, head, rows in [PARTS[args.only]] if args.only else PARTS.values():
        table(title, head, rows(args.sims))


if __name__ == "__main__":
    main()
