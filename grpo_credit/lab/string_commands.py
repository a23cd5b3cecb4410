"""What the verbs of the lab that ask about whole strings do: strings, temper.

They load no model, and so nothing that reads one.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from grpo_credit.lab import (
    decoding,
    learning,
    report_strings,
    report_temper,
    strings,
    tempering,
)
from grpo_credit.lab.asked import Temper, call, settings
from grpo_credit.lab.enumerable import Language
from grpo_credit.lab.output import Findings
from grpo_credit.lab.report_strings import Setting
from grpo_credit.lab.running import bar, command, finish, mistakes, refuse_out, silent
from grpo_credit.lab.sampling import Progress


def run_strings(args: argparse.Namespace) -> int:
    """Hold next-token losses against whole strings, and searches against the most likely one."""
    refuse_out(args)
    with mistakes():
        languages = {length: Language(args.alphabet, length) for length in args.length}
        longest = languages[max(languages)]
        asked = strings.Searching([1, *args.beam], args.policies, args.seed)
        (policy,) = tempering.random_policies(longest, 1, min(args.spread), args.seed)
    settings = [Setting(length, spread) for length in languages for spread in args.spread]
    searches = {
        setting: strings.most_likely(languages[setting.length], setting.spread, asked)
        for setting in bar("most likely strings")(settings)
    }
    chain = strings.chain_rule(longest, policy)
    found = report_strings.findings(chain, searches, command(), _said(args))
    return finish(found, args)


def temper(*, progress: Callable[[str], Progress] = silent, **settings: Any) -> Findings:
    """Hold ways to temper against p^(1/τ) over whole strings, as `grpo-credit lab temper` does.

    Args:
        progress: makes a bar of its label.
        settings: of `asked.Temper`, such as `tau`, `sampled_tau`, `length`, `policies`.

    Returns:
        What was found; a notebook shows its tables and figures, `to_pandas(name)` the numbers of a
        table.

    Raises:
        CreditError: settings that measure nothing.

    Example:
        >>> found = temper(tau=[0.5], sampled_tau=[], length=2, policies=2)
        >>> row = found.to_pandas("look_ahead").iloc[0]
        >>> bool(row["h = 1"] > 0.01), bool(row["h = 2"] < 1e-12)
        (True, True)
    """
    asked = Temper(**settings)
    with mistakes():
        language = Language(asked.alphabet, asked.length)
        policies = tempering.random_policies(language, asked.policies, asked.spread, asked.seed)
        every = dict.fromkeys([*asked.tau, *asked.sampled_tau])
        problems = {tau: tempering.Tempering(language, policies, tau) for tau in every}
        budget = learning.Budget(asked.steps, asked.completions, asked.windows, asked.seed)
        sampled = {
            tau: _sampled(problems[tau], budget, asked, progress) for tau in asked.sampled_tau
        }
    exact = {tau: tempering.measure(problem) for tau, problem in problems.items()}
    return report_temper.findings(exact, sampled, call("temper", **settings), asdict(asked))


def run_temper(args: argparse.Namespace) -> int:
    """Hold ways to temper against p^(1/τ) over whole strings."""
    refuse_out(args)
    found = temper(progress=bar, **settings(Temper, args))
    return finish(replace(found, command=command()), args)


def _sampled(
    problem: tempering.Tempering,
    budget: learning.Budget,
    asked: Temper,
    progress: Callable[[str], Progress],
) -> report_temper.Sampled:
    label = f"τ = {problem.tau:g}"
    decoded = decoding.measure(
        problem, asked.samples, asked.draws, asked.seed, progress(f"{label}, one of several")
    )
    return report_temper.Sampled(
        decoded, learning.measure(problem, budget, progress(f"{label}, training"))
    )


def _said(args: argparse.Namespace) -> dict[str, object]:
    """Return what was asked for, without what is no setting."""
    unsaid = {"verb", "out", "traceback", "version"}
    return {name: value for name, value in vars(args).items() if name not in unsaid}
