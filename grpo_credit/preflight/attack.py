"""Rewards attacked before they are trusted: the verb `grpo-credit attack`, and a finding."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpo_credit.errors import CreditError
from grpo_credit.preflight.columns import reward_name, spread
from grpo_credit.preflight.findings import Finding
from grpo_credit.run.files import parse_object
from grpo_credit.visible import in_line

TRIED = 4  # rows that the preflight attacks with
EXAMPLE = 100  # characters of a completion that are shown
# What is attacked with where no data are named.
SUMS = [
    {"prompt": f"What is {a} + {b}?", "answer": str(a + b), "solution": f"${a + b}$"}
    for a, b in ((17, 25), (8, 5), (120, 14), (33, 66), (250, 9), (71, 13), (40, 2), (64, 36))
]


def add_to(verbs: Any) -> None:
    """Add the verb to a command."""
    parser = verbs.add_parser(
        "attack", help="find what a reward pays without the job being done",
        description="Find what a reward pays without the job being done. The exit code is 1 if it "
        "pays for anything of that kind, else 0.",
        epilog="example:\n  grpo-credit attack my_rewards:right --dataset_name train.jsonl\n"
        """  grpo-credit attack rewards:RegexReward --reward_kwargs '{"pattern": "<a>.+</a>"}'""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("reward", help="pkg.mod:obj, called as by TRL; or a class that makes one")
    parser.add_argument(
        "--reward_kwargs", metavar="JSON", default="{}",
        help="arguments of a class, as JSON (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--dataset_name", help="a folder, a file or a name, as for a recipe (default: eight sums "
        "with the columns prompt, answer and solution)",
    )  # fmt: skip
    parser.add_argument("--dataset_config", help="its configuration, if it has several")
    parser.add_argument("--dataset_train_split", default="train", metavar="SPLIT")
    parser.add_argument(
        "--gold", metavar="COLUMN",
        help="the column with the right answer (default: what the reward names)",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=16, help="to attack with (default: 16)")
    parser.add_argument(
        "--hang", action="store_true",
        help="try expressions that take forever, too; for a guarded reward",
    )  # fmt: skip
    parser.set_defaults(verb=run_attack)


def run_attack(asked: argparse.Namespace) -> int:
    """Print what the reward pays without the job; return 1 if it pays for anything."""
    from grpo_credit.rewards import attack
    from grpo_credit.terminal import console

    if asked.rows < 1:
        raise CreditError(f"--rows is {asked.rows}, expected at least 1.")
    reward, rows = _reward(asked), _rows(asked)
    found = attack(reward, rows, gold=asked.gold, max_rows=asked.rows, hang=asked.hang)
    _print(reward_name(reward), found, min(asked.rows, len(rows)), console())
    return int(bool(found))


def attacked(
    name: str, reward: Any, rows: Iterable[Mapping[str, Any]], calls: Sequence[tuple[int, float]]
) -> list[Finding]:
    """Attack a reward of a run with some rows of its data.

    Args:
        name: of the reward.
        reward: what is asked by the completion, so that slow and asynchronous ones are left alone.
        rows: of the data.
        calls: (completions, seconds) of those that were seen; none for a reward model.
    """
    from grpo_credit.preflight.watch import SLOW, is_async
    from grpo_credit.rewards import attack

    if not calls or is_async(reward) or max(seconds for _, seconds in calls) > SLOW:
        return []
    found = [paid for paid in attack(reward, rows, max_rows=TRIED) if not paid.error]
    if not found:
        return []
    shown = "; ".join(
        f"{paid.attack} ({_short(paid.completion)!r} earns {_number(paid.score)})"
        for paid in found[:3]
    )
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return [
        Finding(
            "warning",
            f"reward {name}: attack",
            f"it pays without the job being done: {shown}{more}.",
            "Demand the form (rewards.gate), judge what stands in it alone, and see all of it with "
            "`grpo-credit attack`.",
        )
    ]


def _reward(asked: argparse.Namespace) -> Any:
    from grpo_credit.registry import import_object

    made = import_object(asked.reward, "reward")
    options = parse_object(asked.reward_kwargs, "--reward_kwargs")
    if isinstance(made, type):
        try:
            return made(**options)
        except (TypeError, ValueError, ImportError) as error:
            raise CreditError(f"{asked.reward} cannot be made: {error}") from None
    if options:
        raise CreditError(f"{asked.reward} is no class, so it takes no --reward_kwargs.")
    if not callable(made):
        raise CreditError(f"{asked.reward} is {made!r:.80}, expected a reward function.")
    return made


def _rows(asked: argparse.Namespace) -> Sequence[Mapping[str, Any]]:
    if asked.dataset_name is None:
        return SUMS
    from grpo_credit.run.data import load_split

    data = load_split(asked.dataset_name, asked.dataset_config, asked.dataset_train_split)
    if rows := spread(data, asked.rows):
        return rows
    raise CreditError(f"{asked.dataset_name} has no rows.")


def _print(name: str, found: Sequence[Any], rows: int, out: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    if not found:
        out.print(f"{name}: no attack was paid, in {rows} rows. A policy tries more.")
        return
    table = Table(title=Text(f"what {name} pays without the job"), title_justify="left")
    for column in ("attack", "example", "earns", "right", "rows"):
        table.add_column(column, overflow="fold", justify="left" if column in "attack example" else
                         "right")  # fmt: skip
    for paid in found:
        example = in_line(paid.error or _short(paid.completion))
        table.add_row(
            paid.attack, Text(example), "raises" if paid.error else _number(paid.score),
            _number(paid.right), f"{paid.rows}/{paid.tried}",
        )  # fmt: skip
    out.print(table)


def _number(score: float | None) -> str:
    return "None" if score is None else f"{score:.3g}"


def _short(text: str) -> str:
    return text if len(text) <= EXAMPLE else f"{text[:EXAMPLE]}…"
