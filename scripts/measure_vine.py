"""Measure what continuations buy against a larger group, at equal generated tokens.

    OMP_NUM_THREADS=1 python scripts/measure_vine.py
    OMP_NUM_THREADS=1 python scripts/measure_vine.py --windows 300 --continuations 1 4

The policy and the reward are those of `grpo-credit lab exact`, where the gradient is known. Printed
as Markdown: `loo` with groups of 8, 16, 32, 64, and both modes of `vine` with groups of 8, for each
way to cut and number of continuations. Variances fall as 1 / completions, so that variance x tokens
says which is better at equal tokens. About five minutes of one core.
"""

import argparse
from collections.abc import Iterator

from tqdm import tqdm

from grpo_credit.credit.cuts import Cuts
from grpo_credit.credit.parse import resolve_text
from grpo_credit.lab import verbs
from grpo_credit.lab.enumerable import Language, TabularPolicy
from grpo_credit.lab.measurement import Measurement, measure
from grpo_credit.lab.prefixes import Continued
from grpo_credit.lab.problem import Problem
from grpo_credit.lab.sampling import Sampling
from grpo_credit.rewards import RegexReward

GROUP, PROMPTS = 8, 8
LARGER = (1, 2, 4, 8)
MODES = {mode: f'vine/seq {{"mode": "{mode}"}}' for mode in ("difference", "baseline")}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alphabet", default="abc")
    parser.add_argument("--length", type=int, default=5)
    parser.add_argument("--pattern", default=verbs.REWARD)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--stop", type=float, default=-1.0)
    parser.add_argument("--cuts", nargs="+", default=["every:1", "every:2", "every:3", "every:4"])
    parser.add_argument("--continuations", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def problem_of(asked: argparse.Namespace) -> Problem:
    """Make the policy and the reward."""
    language = Language(asked.alphabet, asked.length)
    policy = TabularPolicy(language, asked.seed, asked.spread, asked.stop)
    return Problem(language, policy, RegexReward(asked.pattern, name="pattern"))


def rows(asked: argparse.Namespace) -> Iterator[tuple[str, float, Measurement]]:
    """Measure each estimator: its name, its tokens, and what was seen."""
    problem = problem_of(asked)
    for times in LARGER:
        sampling = Sampling(asked.windows, PROMPTS, times * GROUP, seed=asked.seed)
        [found] = measure(problem, {"loo/seq": resolve_text("loo/seq")}, sampling).rules
        yield f"`loo/seq`, G = {times * GROUP}", float(times), found
    strategies = {name: resolve_text(text) for name, text in MODES.items()}
    sampling = Sampling(asked.windows, PROMPTS, GROUP, seed=asked.seed)
    for cuts in asked.cuts:
        for count in asked.continuations:
            continued = Continued(Cuts.parse(cuts), count)
            found = measure(problem, strategies, sampling, continued=continued).rules
            for one in found:
                yield f"`vine/seq`, {one.strategy}, `{cuts}`, K = {count}", one.tokens, one


def main() -> None:
    """Print the table."""
    asked = options()
    print("| estimator | directional error | variance of a step | tokens | variance × tokens |")
    print("|---|---|---|---|---|")
    for name, tokens, found in tqdm(rows(asked)):
        direction = found.direction
        seen = f"{direction.error:.3f}" if direction.low else f"unbiased to {direction.high:.3f}"
        variance = f"{found.variance:.3f} ± {found.variance_error:.3f}"
        print(f"| {name} | {seen} | {variance} | {tokens:.2f} | {found.variance * tokens:.2f} |")


if __name__ == "__main__":
    main()
