"""What the verbs of `grpo-credit lab` do: exact, oracle, replay."""

import argparse
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from grpo_credit.credit.parse import resolve_text
from grpo_credit.credit.registry import import_object
from grpo_credit.credit.saved import find_rollouts, load_rollouts
from grpo_credit.errors import CreditError
from grpo_credit.lab import (
    batches,
    exact,
    oracle,
    replay,
    report_exact,
    report_oracle,
    report_replay,
)
from grpo_credit.lab.enumerable import Language, TabularPolicy, TransformerPolicy
from grpo_credit.lab.output import refuse_taken, show, write
from grpo_credit.lab.tasks import TASKS
from grpo_credit.rewards import RegexReward
from grpo_credit.text import in_line


def run_exact(asked: argparse.Namespace) -> int:
    """Measure strategies on an enumerable policy."""
    strategies = _prepared(asked)
    with _mistakes():
        problems, samplings = _problems(asked), _samplings(asked)
        for problem in problems.values():
            problem.rewards()  # abstentions
    measured = {
        report_exact.Setting(pattern, size, scale): exact.measure(
            problem, strategies, sampling, _bar(f"{pattern} G={size}, scale {scale}")
        )
        for pattern, problem in problems.items()
        for (size, scale), sampling in samplings.items()
    }
    return _finish(report_exact.findings(problems, measured, asked.policy, command()), asked)


def _bar(label: str) -> Any:
    seconds = 0.1 if sys.stderr.isatty() else 10  # between two lines of a log
    return lambda steps: tqdm(steps, desc=label, mininterval=seconds)


def _problems(asked: argparse.Namespace) -> dict[str, Any]:
    """Make the policy, and a problem for each thing that earns a reward, by its name."""
    language = Language(asked.alphabet, asked.length)
    policies = {
        "tabular": lambda: TabularPolicy(language, asked.seed, asked.spread, asked.stop),
        "transformer": lambda: TransformerPolicy(language, asked.seed),
    }
    policy = policies[asked.policy]()
    if asked.reward:
        return {
            asked.reward: exact.Problem(language, policy, import_object(asked.reward, "reward"))
        }
    rewards = {
        pattern: RegexReward(pattern, alphabet=asked.alphabet, name="pattern")
        for pattern in asked.pattern
    }
    return {pattern: exact.Problem(language, policy, reward) for pattern, reward in rewards.items()}


def _samplings(asked: argparse.Namespace) -> dict[tuple[int, str], Any]:
    """Make a sampling for every scaling and group size, of about as many completions each."""
    return {
        (size, scale): exact.Sampling(
            asked.windows, max(1, asked.completions // max(1, size)), size, scale, asked.seed
        )
        for scale in asked.scale_rewards
        for size in asked.num_generations
    }


def run_oracle(asked: argparse.Namespace) -> int:
    """Score strategies on tasks whose deciding tokens are known."""
    strategies = _prepared(asked)
    with _mistakes():
        sampling = batches.Sampling(asked.batches, asked.groups, asked.num_generations, asked.seed)
    scored = {}
    for name in dict.fromkeys(asked.task):
        task = TASKS[name]()
        lacks = {credit: oracle.missing(task, strategy) for credit, strategy in strategies.items()}
        fed = {credit: strategies[credit] for credit, needs in lacks.items() if not needs}
        scored[name] = report_oracle.Scored(oracle.measure(task, fed, sampling, _bar(name)), lacks)
    return _finish(report_oracle.findings(scored, sampling, command()), asked)


def run_replay(asked: argparse.Namespace) -> int:
    """Compare the gradients of strategies on a window that a run has saved."""
    strategies = _prepared(asked)
    if asked.rows < 1:
        raise CreditError(f"--rows is {asked.rows}, expected at least 1 completion per pass.")
    path = asked.run if asked.run.is_file() else find_rollouts(asked.run, asked.step)
    saved = load_rollouts(path)
    name = asked.model or str(asked.run / "model")
    if asked.model is None and not Path(name).is_dir():
        raise CreditError(f"there is no {name}; name the weights with --model.")
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype="float32", trust_remote_code=False
    ).eval()
    found = replay.replay(saved, model, strategies, rows=asked.rows, progress=tqdm)
    return _finish(
        report_replay.findings(found, command(), {"rollouts": path, "model": name}), asked
    )


def command() -> str:
    """Return the command line that was typed."""
    return shlex.join(["grpo-credit", *sys.argv[1:]])


def _prepared(asked: argparse.Namespace) -> dict[str, Any]:
    """Refuse what would fail in the end; resolve the strategies, each with its options."""
    if asked.out is not None:
        refuse_taken(asked.out)
    return {name: resolve_text(name) for name in asked.credit}


@contextmanager
def _mistakes() -> Generator[None]:
    """Say what is wrong with what was asked in one line, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise CreditError(str(error)) from None


def _finish(found: Any, asked: argparse.Namespace) -> int:
    show(found, Console())
    if asked.out is not None:
        print(f"wrote {in_line(write(found, asked.out))}")
    return 0
