"""The verbs of `grpo-credit lab` and their options; `commands` runs them."""

import argparse
from pathlib import Path
from typing import Any

from grpo_credit.lab.asked import REWARD, Exact, Temper, defaults

EXACT = ("seq", "uniform", "length", "dapo", "loo/seq", "decided/seq", "loo+decided/seq",
         "automaton/seq", "prefix_tree/seq", "tree_td/seq", "tempo/seq")  # fmt: skip
EXACT_TOOL = (
    "seq",
    "uniform",
    "length",
    "dapo",
    "loo/seq",
    "turns/seq",
    "steps/seq",
    "to_go/seq",
    "gigpo/seq",
    "prefix_tree/seq",
    "tree_td/seq",
    "tempo/seq",
    "treerl/seq",
)
REPLAY = ("seq", "length", "dapo", "decided/seq", "automaton/seq", "tree_td/seq",
          "entropy_soft/seq")  # fmt: skip
ORACLE = ("seq", "decided/seq", "automaton/seq", 'automaton/seq {"mode": "td"}', "spans/seq",
          "steps/seq", "prefix_tree/seq", "tree_td/seq", "tempo/seq", "entropy_top/seq",
          "entropy_soft/seq", "gtpo/seq", "trace/seq", "ktae/seq",
          "token_baseline/seq")  # fmt: skip
TASKS = ("keys", "regex", "arithmetic", "path_star", "recovery", "horizon")
RACE = ("seq", "decided/seq", "automaton/seq", 'automaton/seq {"mode": "td"}', "prefix_tree/seq")
CHAINS = ("base", "filler", "graded", "early", "noisy", "forced")


def add_to(verbs: Any) -> None:
    """Add the verb `lab` with its own verbs to a command."""
    lab = verbs.add_parser("lab", help="measure strategies against the truth")
    instruments = lab.add_subparsers(required=True, metavar="INSTRUMENT")
    exact = _instrument(instruments, "exact", "direction and variance against the exact gradient")
    exact.add_argument("--alphabet", help="symbols of the policy (default: abc)")
    exact.add_argument("--length", type=int, help="longest completion (default: 5)")
    exact.add_argument("--policy", choices=("tabular", "transformer"))
    exact.add_argument("--pattern", nargs="+",
                       help=f"what earns 1, each apart (default: {REWARD})")  # fmt: skip
    exact.add_argument("--reward", help="pkg.mod:obj instead of --pattern; called as by TRL")
    exact.add_argument("--task", choices=("tool", "recovery", "horizon"),
                       help="a task instead of --pattern: tool, in which a call is answered by "
                       "chance (lab.tool_language), or one of the oracle's with its own policy, "
                       "as short as --length")  # fmt: skip
    exact.add_argument("--spread", type=float, help="of the table's logits")
    exact.add_argument("--stop", type=float, help="added to the end's logits")
    exact.add_argument("--num_generations", type=int, nargs="+", metavar="G")
    exact.add_argument("--scale_rewards", nargs="+", metavar="SCALE",
                       choices=("none", "group", "batch"))  # fmt: skip
    exact.add_argument("--completions", type=int, help="per window (default: 64)")
    exact.add_argument("--windows", type=int, help="sampled steps (default: 2000)")
    exact.add_argument("--target", nargs="+", metavar="TARGET",
                       help="whose gradient is the truth: mean (of the reward; the default), "
                       "passk:K, loglik, or maxrl:N, log p as groups of N tell it")  # fmt: skip
    exact.add_argument(
        "--together",
        action="store_true",
        help="the patterns are prompts of one problem, each with its own policy",
    )
    exact.add_argument("--vine_cuts", help="for vine, as in training")
    exact.add_argument("--vine_continuations", type=int, metavar="K",
                       help="for vine, from each cut (default: 4)")  # fmt: skip
    exact.set_defaults(verb="grpo_credit.lab.commands:run_exact", **defaults(Exact))

    oracle = _instrument(instruments, "oracle", "whether a rule finds the tokens that decide")
    oracle.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS),
                        help="where to look (default: all)")  # fmt: skip
    oracle.add_argument("--batches", type=int, default=20, help="independent ones (default: 20)")
    oracle.add_argument("--groups", type=int, default=16, help="prompts per batch (default: 16)")
    oracle.add_argument("--num_generations", type=int, default=8, metavar="G")
    oracle.set_defaults(verb="grpo_credit.lab.commands:run_oracle", credit=list(ORACLE))

    replay = _instrument(instruments, "replay", "real gradients of strategies on a saved window")
    replay.add_argument("run", type=Path, help="run directory with --save_rollouts=N, or a file")
    replay.add_argument("--step", type=int, help="optimizer step (default: the last one saved)")
    replay.add_argument("--model", help="weights to differentiate at (default: <run>/model)")
    replay.add_argument("--rows", type=int, default=8, help="completions per forward pass")
    replay.set_defaults(verb="grpo_credit.lab.commands:run_replay", credit=list(REPLAY))

    race = _instrument(instruments, "race", "steps to the target, next to perfect credit")
    race.add_argument("--task", nargs="+", choices=CHAINS, default=["base"],
                      help="chains to race on; forced is the control (default: base)")  # fmt: skip
    race.add_argument("--optimizer", nargs="+", choices=("sgd", "adamw"), default=["sgd"])
    race.add_argument("--seeds", type=int, default=12, help="runs that are told (default: 12)")
    race.add_argument("--tuning_seeds", type=int, default=8, help="runs per rate (default: 8)")
    race.add_argument("--limit", type=int, default=800, help="steps at most (default: 800)")
    race.set_defaults(verb="grpo_credit.lab.commands:run_race", credit=list(RACE))
    _add_strings(instruments)
    _add_temper(instruments)


def _add_strings(instruments: Any) -> None:
    strings = _without_credit(instruments, "strings", "the chain rule, and most likely strings")
    strings.add_argument("--alphabet", default="abc", help="symbols of the policies (default: abc)")
    strings.add_argument("--length", type=int, nargs="+", default=[4, 6],
                         help="longest strings, in tokens (default: 4 6)")  # fmt: skip
    strings.add_argument("--spread", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.5],
                         help="of the policies' logits (default: 0.5 1 1.5 2.5)")  # fmt: skip
    strings.add_argument("--beam", type=int, nargs="+", default=[2, 4], metavar="K",
                         help="widths, beside greedy decoding (default: 2 4)")  # fmt: skip
    strings.add_argument("--policies", type=int, default=400, help="random ones (default: 400)")
    strings.add_argument(
        "--text", dest="verb", action="store_const",
        const="grpo_credit.lab.text_commands:run_text",
        help="instead, how a small model of text repeats itself by temperature; trained in about "
        "40 s of one core and kept; 20 s more each time",
    )  # fmt: skip
    strings.add_argument("--texts", type=int, default=64,
                         help="of each temperature, with --text (default: 64)")  # fmt: skip
    strings.add_argument("--particles", type=int, default=16, metavar="K",
                         help="strings at work for each of these (default: 16)")  # fmt: skip
    strings.add_argument("--training_steps", type=int, default=300, metavar="N",
                         help="of the model of --text (default: 300)")  # fmt: skip
    strings.set_defaults(verb="grpo_credit.lab.string_commands:run_strings")


def _add_temper(instruments: Any) -> None:
    temper = _without_credit(instruments, "temper", "ways to temper whole strings, not tokens")
    temper.add_argument("--alphabet", help="symbols of the policies (default: abc)")
    temper.add_argument("--length", type=int, help="longest string (default: 5 tokens)")
    temper.add_argument("--spread", type=float, help="of the policies' logits")
    temper.add_argument("--policies", type=int, help="random ones (default: 5)")
    temper.add_argument("--tau", type=float, nargs="+",
                        help="temperatures (default: 0.25 0.5 0.7 0.9 1.5 2)")  # fmt: skip
    temper.add_argument("--sampled_tau", type=float, nargs="*", metavar="TAU",
                        help="those to sample and train at, too (default: 0.5)")  # fmt: skip
    temper.add_argument("--samples", type=int, nargs="+", metavar="K",
                        help="strings of which one is kept (default: 4 16 64)")  # fmt: skip
    temper.add_argument("--draws", type=int,
                        help="strings that Monte Carlo draws (default: 64000)")  # fmt: skip
    temper.add_argument("--steps", type=int, help="of training (default: 300)")
    temper.add_argument("--completions", type=int,
                        help="strings of a policy in a step (default: 64)")  # fmt: skip
    temper.add_argument("--windows", type=int,
                        help="gradients for a variance (default: 200)")  # fmt: skip
    temper.set_defaults(verb="grpo_credit.lab.string_commands:run_temper", **defaults(Temper))


def _instrument(instruments: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser = _without_credit(instruments, name, about)
    parser.add_argument(
        "--credit", nargs="+", metavar="NAME",
        help="""strategies to measure; with options as 'NAME {"alpha": 0.75}'""",
    )  # fmt: skip
    return parser


def _without_credit(instruments: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser = instruments.add_parser(name, help=about)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for lab.json, CSV and page.html")
    parser.add_argument("--json", action="store_true", help="print lab.json instead")
    return parser
