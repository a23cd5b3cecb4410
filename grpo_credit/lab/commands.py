"""What the verbs of `grpo-credit lab` do: exact, oracle, replay, race."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import AutoModelForCausalLM

from grpo_credit.credit.cuts import Cuts
from grpo_credit.credit.parse import Named, resolve_credit, resolve_text
from grpo_credit.credit.registry import import_object
from grpo_credit.credit.saved import find_rollouts, load_rollouts
from grpo_credit.credit.strategy import Strategy
from grpo_credit.errors import CreditError
from grpo_credit.lab import (
    measurement,
    oracle,
    replay,
    report_exact,
    report_oracle,
    report_race,
    report_replay,
    verbs,
)
from grpo_credit.lab.asked import Exact, call, settings
from grpo_credit.lab.enumerable import Language, TabularPolicy, policy_of
from grpo_credit.lab.output import Findings
from grpo_credit.lab.prefixes import Continued
from grpo_credit.lab.problem import Problem
from grpo_credit.lab.race import compare
from grpo_credit.lab.race.chain import TASKS as CHAINS
from grpo_credit.lab.race.racing import Race
from grpo_credit.lab.running import bar, command, finish, mistakes, refuse_out, silent
from grpo_credit.lab.sampling import Progress, Sampling
from grpo_credit.lab.targets import Target
from grpo_credit.lab.tasks import SHORT, TASKS
from grpo_credit.lab.tool_language import Relayed, ToolLanguage
from grpo_credit.lab.transformer import TransformerPolicy
from grpo_credit.rewards import RegexReward


def exact(
    credit: Sequence[Named] | None = None,
    *,
    progress: Callable[[str], Progress] = silent,
    **settings: Any,
) -> Findings:
    r"""Measure strategies against the exact gradient, as `grpo-credit lab exact` does.

    Args:
        credit: strategies, as `resolve_credit` takes them, by default those of the command; text
            may have options after it, such as 'trace/seq {"decay": 0.5}'.
        progress: makes a bar of its label.
        settings: of `asked.Exact`, such as `pattern`, `length`, `num_generations`, `windows`.

    Returns:
        What was found; a notebook shows its tables and figures, `to_pandas()` its numbers.

    Raises:
        CreditError: a strategy that cannot be fed, or settings that measure nothing.

    Example:
        >>> found = exact(["seq", "length"], alphabet="ab", length=2, num_generations=2,
        ...               completions=2, pattern="a+b|b+")
        >>> found.to_pandas()[["credit", "verdict"]]
           credit               verdict
        0     seq  unbiased to rounding
        1  length      biased by 0.0763
        2   truth           the ceiling
    """
    asked = Exact(**settings)
    strategies = _named(credit or (verbs.EXACT_TOOL if asked.task == "tool" else verbs.EXACT))
    continued = Continued(Cuts.parse(asked.vine_cuts), asked.vine_continuations)
    targets = [Target.parse(text) for text in dict.fromkeys(asked.target)]
    with mistakes():
        problems = _problems(asked)
        for problem in problems.values():
            problem.rewards()  # abstentions
        cases: dict[str, Any] = dict(problems)
        if asked.together:
            cases = {f"{len(problems)} prompts": list(problems.values())}
        samplings = _samplings(asked, len(problems) if asked.together else 1)
    cells = {
        report_exact.Setting(name, size, scale, str(target)): (case, sampling, target)
        for name, case in cases.items()
        for (size, scale), sampling in samplings.items()
        for target in targets
    }
    measured = {
        setting: measurement.measure(
            case, strategies, sampling, progress(setting.label), target=target, continued=continued
        )
        for setting, (case, sampling, target) in cells.items()
    }
    made_by = call("exact", [*strategies], **settings)
    return report_exact.findings(problems, measured, asked.policy, made_by)


def run_exact(args: argparse.Namespace) -> int:
    """Measure strategies on an enumerable policy."""
    refuse_out(args)
    found = exact(args.credit, progress=bar, **settings(Exact, args))
    return finish(replace(found, command=command()), args)


def _problems(args: Exact) -> dict[str, Problem]:
    """Make a problem for each thing that earns a reward, by its name; alone, of one policy."""
    if args.task:
        return {args.task: _of_task(args)}
    language = Language(args.alphabet, args.length)
    make = {
        "tabular": lambda seed: TabularPolicy(language, seed, args.spread, args.stop),
        "transformer": lambda seed: TransformerPolicy(language, seed),
    }[args.policy]
    if args.reward:
        named = isinstance(args.reward, str)
        reward: Any = import_object(args.reward, "reward") if named else args.reward
        problem = Problem(language, make(args.seed), reward)
        return {args.reward if named else problem.name: problem}
    rewards = {
        pattern: RegexReward(pattern, alphabet=args.alphabet, name="pattern")
        for pattern in args.pattern
    }
    return {
        pattern: Problem(language, make(args.seed + n * args.together), reward)
        for n, (pattern, reward) in enumerate(rewards.items())
    }


def _of_task(args: Exact) -> Problem:
    if args.policy != "tabular":
        raise CreditError(f"--task {args.task} has a table for a policy; leave --policy out.")
    if args.task in SHORT:
        task = SHORT[args.task](length=args.length)
        return Problem(Language(task.alphabet, task.length), policy_of(task), task.reward)
    language = ToolLanguage("ocf", args.length)
    policy = TabularPolicy(language, args.seed, args.spread, args.stop)
    return Problem(language, policy, Relayed(language))


def _samplings(args: Exact, prompts: int) -> dict[tuple[int, str], Sampling]:
    """Make a sampling for every scaling and group size, of about as many completions each."""
    return {
        (size, scale): Sampling(
            args.windows,
            prompts * max(1, args.completions // max(1, size * prompts)),
            size,
            scale,
            args.seed,
        )
        for scale in args.scale_rewards
        for size in args.num_generations
    }


def run_oracle(args: argparse.Namespace) -> int:
    """Score strategies on tasks whose deciding tokens are known."""
    strategies = _prepared(args)
    with mistakes():
        sampling = Sampling(args.batches, args.groups, args.num_generations, seed=args.seed)
    scored = {}
    for name in dict.fromkeys(args.task):
        task = TASKS[name]()
        lacks = {credit: oracle.missing(task, strategy) for credit, strategy in strategies.items()}
        fed = {credit: strategies[credit] for credit, needs in lacks.items() if not needs}
        scored[name] = report_oracle.Scored(oracle.measure(task, fed, sampling, bar(name)), lacks)
    return finish(report_oracle.findings(scored, sampling, command()), args)


def run_replay(args: argparse.Namespace) -> int:
    """Compare the gradients of strategies on a window that a run has saved."""
    strategies = _prepared(args)
    if args.rows < 1:
        raise CreditError(f"--rows is {args.rows}, expected at least 1 completion per pass.")
    path = args.run if args.run.is_file() else find_rollouts(args.run, args.step)
    saved = load_rollouts(path)
    name = args.model or str(args.run / "model")
    if args.model is None and not Path(name).is_dir():
        raise CreditError(f"there is no {name}; name the weights with --model.")
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype="float32", trust_remote_code=False
    ).eval()
    replayed = replay.replay(saved, model, strategies, rows=args.rows, progress=tqdm)
    return finish(
        report_replay.findings(replayed, command(), {"rollouts": path, "model": name}), args
    )


def run_race(args: argparse.Namespace) -> int:
    """Race strategies against perfect credit on chains whose true advantages are known."""
    strategies = _prepared(args)
    with mistakes():
        races = {
            f"{task}, {optimizer}": Race(
                CHAINS[task], optimizer, args.limit, args.seeds, args.tuning_seeds, args.seed
            )
            for task in dict.fromkeys(args.task)
            for optimizer in dict.fromkeys(args.optimizer)
        }
    raced = {name: compare.run(race, strategies, bar(name)) for name, race in races.items()}
    return finish(report_race.findings(raced, command()), args)


def _prepared(args: argparse.Namespace) -> dict[str, Strategy]:
    """Refuse what would fail in the end; resolve the strategies, each with its options."""
    refuse_out(args)
    return _named(args.credit)


def _named(credit: Sequence[Named]) -> dict[str, Strategy]:
    """Resolve strategies, by the text that names them, or else the name that they have."""
    found = [(e, resolve_text(e) if isinstance(e, str) else resolve_credit(e)) for e in credit]
    return {e if isinstance(e, str) else strategy.name: strategy for e, strategy in found}
