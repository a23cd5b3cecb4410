"""What the verbs of `grpo-credit lab` do: exact, oracle, replay, race."""

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import AutoModelForCausalLM

from grpo_credit.credit.cuts import Cuts
from grpo_credit.credit.parse import resolve_text
from grpo_credit.credit.registry import import_object
from grpo_credit.credit.saved import find_rollouts, load_rollouts
from grpo_credit.credit.strategy import Strategy
from grpo_credit.errors import CreditError
from grpo_credit.lab import (
    exact,
    oracle,
    replay,
    report_exact,
    report_oracle,
    report_race,
    report_replay,
    verbs,
)
from grpo_credit.lab.enumerable import Language, TabularPolicy, policy_of
from grpo_credit.lab.output import refuse_taken
from grpo_credit.lab.prefixes import Continued
from grpo_credit.lab.race import compare
from grpo_credit.lab.race.chain import TASKS as CHAINS
from grpo_credit.lab.race.racing import Race
from grpo_credit.lab.running import bar, command, finish, mistakes
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.targets import Target
from grpo_credit.lab.tasks import SHORT, TASKS
from grpo_credit.lab.tool_language import Relayed, ToolLanguage
from grpo_credit.lab.transformer import TransformerPolicy
from grpo_credit.rewards import RegexReward


def run_exact(args: argparse.Namespace) -> int:
    """Measure strategies on an enumerable policy."""
    if args.task == "tool" and args.credit == list(verbs.EXACT):  # some of which refuse tools
        args.credit = list(verbs.EXACT_TOOL)
    strategies = _prepared(args)
    continued = Continued(Cuts.parse(args.vine_cuts), args.vine_continuations)
    targets = [Target.parse(text) for text in dict.fromkeys(args.target)]
    with mistakes():
        problems = _problems(args)
        for problem in problems.values():
            problem.rewards()  # abstentions
        cases: dict[str, Any] = dict(problems)
        if args.together:
            cases = {f"{len(problems)} prompts": list(problems.values())}
        samplings = _samplings(args, len(problems) if args.together else 1)
    cells = {
        report_exact.Setting(name, size, scale, str(target)): (case, sampling, target)
        for name, case in cases.items()
        for (size, scale), sampling in samplings.items()
        for target in targets
    }
    measured = {
        setting: exact.measure(
            case, strategies, sampling, bar(setting.label), target=target, continued=continued
        )
        for setting, (case, sampling, target) in cells.items()
    }
    return finish(report_exact.findings(problems, measured, args.policy, command()), args)


def _problems(args: argparse.Namespace) -> dict[str, exact.Problem]:
    """Make a problem for each thing that earns a reward, by its name; alone, of one policy."""
    if args.task:
        return {args.task: _of_task(args)}
    language = Language(args.alphabet, args.length)
    make = {
        "tabular": lambda seed: TabularPolicy(language, seed, args.spread, args.stop),
        "transformer": lambda seed: TransformerPolicy(language, seed),
    }[args.policy]
    if args.reward:
        reward: Any = import_object(args.reward, "reward")
        return {args.reward: exact.Problem(language, make(args.seed), reward)}
    rewards = {
        pattern: RegexReward(pattern, alphabet=args.alphabet, name="pattern")
        for pattern in args.pattern
    }
    return {
        pattern: exact.Problem(language, make(args.seed + n * args.together), reward)
        for n, (pattern, reward) in enumerate(rewards.items())
    }


def _of_task(args: argparse.Namespace) -> exact.Problem:
    if args.policy != "tabular":
        raise CreditError(f"--task {args.task} has a table for a policy; leave --policy out.")
    if args.task in SHORT:
        task = SHORT[args.task](length=args.length)
        return exact.Problem(Language(task.alphabet, task.length), policy_of(task), task.reward)
    language = ToolLanguage("ocf", args.length)
    policy = TabularPolicy(language, args.seed, args.spread, args.stop)
    return exact.Problem(language, policy, Relayed(language))


def _samplings(args: argparse.Namespace, prompts: int) -> dict[tuple[int, str], Sampling]:
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
    if args.out is not None:
        refuse_taken(args.out)
    return {name: resolve_text(name) for name in args.credit}
