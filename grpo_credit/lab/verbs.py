"""The verbs of `grpo-credit lab`: exact, oracle, replay."""

import argparse
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REWARD = r"a+b[abc]*|c+"
EXACT = ("seq", "uniform", "length", "dapo", "loo/seq", "decided/seq", "loo+decided/seq",
         "automaton/seq", "prefix_tree/seq", "tree_td/seq", "tempo/seq")  # fmt: skip
REPLAY = ("seq", "length", "dapo", "decided/seq", "automaton/seq", "tree_td/seq",
          "entropy_soft/seq")  # fmt: skip
ORACLE = ("seq", "decided/seq", "automaton/seq", 'automaton/seq {"mode": "td"}', "spans/seq",
          "steps/seq", "prefix_tree/seq", "tree_td/seq", "tempo/seq", "entropy_top/seq",
          "entropy_soft/seq", "gtpo/seq", "trace/seq", "ktae/seq",
          "token_baseline/seq")  # fmt: skip
TASKS = ("keys", "regex", "arithmetic", "path_star")


def add_to(verbs: Any) -> None:
    """Add the verb `lab` with its own verbs to a command."""
    lab = verbs.add_parser("lab", help="measure strategies against the truth")
    instruments = lab.add_subparsers(required=True, metavar="INSTRUMENT")
    exact = _instrument(instruments, "exact", "direction and variance against the exact gradient")
    exact.add_argument("--alphabet", default="abc", help="symbols of the policy (default: abc)")
    exact.add_argument("--length", type=int, default=5, help="longest completion (default: 5)")
    exact.add_argument("--policy", choices=("tabular", "transformer"), default="tabular")
    exact.add_argument("--pattern", nargs="+", default=[REWARD],
                       help=f"what earns 1, each apart (default: {REWARD})")  # fmt: skip
    exact.add_argument("--reward", help="pkg.mod:obj instead of --pattern; called as by TRL")
    exact.add_argument("--spread", type=float, default=0.5, help="of the table's logits")
    exact.add_argument("--stop", type=float, default=-1.0, help="added to the end's logits")
    exact.add_argument("--num_generations", type=int, nargs="+", default=[8], metavar="G")
    exact.add_argument("--scale_rewards", nargs="+", default=["none"], metavar="SCALE",
                       choices=("none", "group", "batch"))  # fmt: skip
    exact.add_argument("--completions", type=int, default=64, help="per window (default: 64)")
    exact.add_argument("--windows", type=int, default=2000, help="sampled steps (default: 2000)")
    exact.set_defaults(verb=run_exact, credit=list(EXACT))

    oracle = _instrument(instruments, "oracle", "whether a rule finds the tokens that decide")
    oracle.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS),
                        help="where to look (default: all)")  # fmt: skip
    oracle.add_argument("--batches", type=int, default=20, help="independent ones (default: 20)")
    oracle.add_argument("--groups", type=int, default=16, help="prompts per batch (default: 16)")
    oracle.add_argument("--num_generations", type=int, default=8, metavar="G")
    oracle.set_defaults(verb=run_oracle, credit=list(ORACLE))

    replay = _instrument(instruments, "replay", "real gradients of strategies on a saved window")
    replay.add_argument("run", type=Path, help="run directory with --save_rollouts=N, or a file")
    replay.add_argument("--step", type=int, help="optimizer step (default: the last one saved)")
    replay.add_argument("--model", help="weights to differentiate at (default: <run>/model)")
    replay.add_argument("--rows", type=int, default=8, help="completions per forward pass")
    replay.set_defaults(verb=run_replay, credit=list(REPLAY))


def _instrument(instruments: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser = instruments.add_parser(name, help=about)
    parser.add_argument(
        "--credit", nargs="+", metavar="NAME",
        help="""strategies to measure; with options as 'NAME {"alpha": 0.75}'""",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for lab.json, CSV and page.html")
    return parser


def run_exact(asked: argparse.Namespace) -> int:
    """Measure strategies on an enumerable policy."""
    from grpo_credit.lab.exact import measure
    from grpo_credit.lab.report_exact import Setting, findings

    strategies = _prepared(asked)
    with _mistakes():
        problems, samplings = _problems(asked), _samplings(asked)
        for problem in problems.values():
            problem.rewards()  # abstentions
    measured = {
        Setting(pattern, size, scale): measure(
            problem, strategies, sampling, _bar(f"{pattern} G={size}, scale {scale}")
        )
        for pattern, problem in problems.items()
        for (size, scale), sampling in samplings.items()
    }
    return _finish(findings(problems, measured, asked.policy, command()), asked)


def _bar(label: str) -> Any:
    from tqdm import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10  # between two lines of a log
    return lambda steps: tqdm(steps, desc=label, mininterval=seconds)


def _problems(asked: argparse.Namespace) -> dict[str, Any]:
    """Make the policy, and a problem for each thing that earns a reward, by its name."""
    from grpo_credit.credit.registry import import_object
    from grpo_credit.lab.enumerable import Language, TabularPolicy, TransformerPolicy
    from grpo_credit.lab.exact import Problem
    from grpo_credit.rewards import RegexReward

    language = Language(asked.alphabet, asked.length)
    policies = {
        "tabular": lambda: TabularPolicy(language, asked.seed, asked.spread, asked.stop),
        "transformer": lambda: TransformerPolicy(language, asked.seed),
    }
    policy = policies[asked.policy]()
    if asked.reward:
        return {asked.reward: Problem(language, policy, import_object(asked.reward, "reward"))}
    rewards = {
        pattern: RegexReward(pattern, alphabet=asked.alphabet, name="pattern")
        for pattern in asked.pattern
    }
    return {pattern: Problem(language, policy, reward) for pattern, reward in rewards.items()}


def _samplings(asked: argparse.Namespace) -> dict[tuple[int, str], Any]:
    """Make a sampling for every scaling and group size, of about as many completions each."""
    from grpo_credit.lab.exact import Sampling

    return {
        (size, scale): Sampling(
            asked.windows, max(1, asked.completions // max(1, size)), size, scale, asked.seed
        )
        for scale in asked.scale_rewards
        for size in asked.num_generations
    }


def run_oracle(asked: argparse.Namespace) -> int:
    """Score strategies on tasks whose deciding tokens are known."""
    from grpo_credit.lab.batches import Sampling
    from grpo_credit.lab.oracle import measure, missing
    from grpo_credit.lab.report_oracle import Scored, findings
    from grpo_credit.lab.tasks import TASKS

    strategies = _prepared(asked)
    with _mistakes():
        sampling = Sampling(asked.batches, asked.groups, asked.num_generations, asked.seed)
    scored = {}
    for name in dict.fromkeys(asked.task):
        task = TASKS[name]()
        lacks = {credit: missing(task, strategy) for credit, strategy in strategies.items()}
        fed = {credit: strategies[credit] for credit, needs in lacks.items() if not needs}
        scored[name] = Scored(measure(task, fed, sampling, _bar(name)), lacks)
    return _finish(findings(scored, sampling, command()), asked)


def run_replay(asked: argparse.Namespace) -> int:
    """Compare the gradients of strategies on a window that a run has saved."""
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM

    from grpo_credit.credit.saved import find_rollouts, load_rollouts
    from grpo_credit.credit.strategy import CreditError
    from grpo_credit.lab.replay import replay
    from grpo_credit.lab.report_replay import findings

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
    found = replay(saved, model, strategies, rows=asked.rows, progress=tqdm)
    return _finish(findings(found, command(), {"rollouts": path, "model": name}), asked)


def command() -> str:
    """Return the command line that was typed."""
    return shlex.join(["grpo-credit", *sys.argv[1:]])


def _prepared(asked: argparse.Namespace) -> dict[str, Any]:
    """Refuse what would fail in the end; resolve the strategies, each with its options."""
    from grpo_credit.credit.parse import resolve_text
    from grpo_credit.lab.output import refuse_taken

    if asked.out is not None:
        refuse_taken(asked.out)
    return {name: resolve_text(name) for name in asked.credit}


@contextmanager
def _mistakes() -> Generator[None]:
    """Say what is wrong with what was asked in one line, without a traceback."""
    from grpo_credit.credit.strategy import CreditError

    try:
        yield
    except ValueError as error:
        raise CreditError(str(error)) from None


def _finish(found: Any, asked: argparse.Namespace) -> int:
    from rich.console import Console

    from grpo_credit.lab.output import show, write
    from grpo_credit.text import in_line

    show(found, Console())
    if asked.out is not None:
        print(f"wrote {in_line(write(found, asked.out))}")
    return 0
