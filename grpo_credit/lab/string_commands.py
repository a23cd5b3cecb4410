"""What the verbs of the lab that ask about whole strings do: strings, temper.

They load no model, and so nothing that reads one.
"""

import argparse

from grpo_credit.lab import (
    decoding,
    learning,
    report_strings,
    report_temper,
    strings,
    tempering,
)
from grpo_credit.lab.enumerable import Language
from grpo_credit.lab.output import refuse_taken
from grpo_credit.lab.report_strings import Setting
from grpo_credit.lab.running import bar, command, finish, mistakes


def run_strings(args: argparse.Namespace) -> int:
    """Hold next-token losses against whole strings, and searches against the most likely one."""
    _refuse_taken(args)
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


def run_temper(args: argparse.Namespace) -> int:
    """Hold ways to temper against p^(1/τ) over whole strings."""
    _refuse_taken(args)
    with mistakes():
        language = Language(args.alphabet, args.length)
        policies = tempering.random_policies(language, args.policies, args.spread, args.seed)
        every = dict.fromkeys([*args.tau, *args.sampled_tau])
        problems = {tau: tempering.Tempering(language, policies, tau) for tau in every}
        budget = learning.Budget(args.steps, args.completions, args.windows, args.seed)
        sampled = {tau: _sampled(problems[tau], budget, args) for tau in args.sampled_tau}
    exact = {tau: tempering.measure(problem) for tau, problem in problems.items()}
    return finish(report_temper.findings(exact, sampled, command(), _said(args)), args)


def _sampled(
    problem: tempering.Tempering, budget: learning.Budget, args: argparse.Namespace
) -> report_temper.Sampled:
    label = f"τ = {problem.tau:g}"
    decoded = decoding.measure(
        problem, args.samples, args.draws, args.seed, bar(f"{label}, one of several")
    )
    return report_temper.Sampled(
        decoded, learning.measure(problem, budget, bar(f"{label}, training"))
    )


def _refuse_taken(args: argparse.Namespace) -> None:
    if args.out is not None:
        refuse_taken(args.out)


def _said(args: argparse.Namespace) -> dict[str, object]:
    """Return what was asked for, without what is no setting."""
    unsaid = {"verb", "out", "traceback", "version"}
    return {name: value for name, value in vars(args).items() if name not in unsaid}
