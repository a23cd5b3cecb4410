"""Whether the rewards of a run can tell what its strategy needs, checked before it starts."""

from collections.abc import Collection, Mapping, Sequence

from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.text import did_you_mean

# What a strategy needs, and the members of a reward one of which tells it.
TOLD_BY = {
    "spans": ("spans",),
    "decided": ("decided",),
    "states": ("automaton", "automaton_for", "automata"),
    "step_rewards": ("steps", "turn_rewards", "step_rewards"),  # the last, of an environment
}
SETTLED = frozenset({"decided", "states"})  # true of one message, not of a loop of several
# What a trainer alone can find: a second prompt or model, more completions, an answer's odds.
OF_A_TRAINER = frozenset({"privileged_logps", "ref_logps", "prefix_values", "answer_logps"})
# What a strategy needs, and the option that names the column which it reads for that.
READS = {
    "privileged_logps": ("privileged_column", "scores completions after the prompts of"),
    "answer_logps": ("answer_text_column", "asks at each turn how likely it finds the answer in"),
}
IMAGES = frozenset({"image", "images"})  # as TRL names their columns
UNCONTINUED = {
    "tools": "what a tool returned there would have to be asked for again",
    "environment_factory": "an environment does not go back to the state that it had there",
    "rollout_func": "how that samples is not known",
    **dict.fromkeys(sorted(IMAGES), "images are not among them"),
}


def check_columns(rewards: Sequence[tuple[str, object]], there: Sequence[str]) -> None:
    """Refuse a reward that declares (`columns`) a column that the data set lacks.

    Raises:
        CreditError: naming the reward, the column and the columns there are.
    """
    for name, reward in rewards:
        columns = getattr(reward, "columns", ())
        for column in [columns] if isinstance(columns, str) else columns:
            if column not in there:
                raise CreditError(
                    f"reward {name!r} needs the column {column!r}; the data set has "
                    f"{', '.join(there)}.{did_you_mean(column, there)} Rename a column, or name "
                    "the right one when making the reward."
                )


def check_read(strategy: Strategy, columns: Mapping[str, str], there: Sequence[str]) -> None:
    """Refuse a strategy that reads a column of the data set that there is not.

    Args:
        strategy: with all its chains.
        columns: option that names it -> column, for the options in `READS`.
        there: the columns of the data set.

    Raises:
        CreditError: naming the column and the columns there are.
    """
    for need, (option, what) in READS.items():
        if need in strategy.needs and columns[option] not in there:
            raise CreditError(
                f"{strategy.name!r} {what} the column {columns[option]!r}; the data set has "
                f"{', '.join(there)}. Add the column, or name another with {option}."
            )


def tells(reward: object, need: str) -> bool:
    """Return whether a reward tells a need: the first member that it has for it is not None."""
    has = [member for member in TOLD_BY[need] if hasattr(reward, member)]
    if need == "step_rewards":  # that may stand beside each other
        return any(getattr(reward, member) is not None for member in has)
    return bool(has) and getattr(reward, has[0]) is not None


def check_arguments(strategy: Strategy, arguments: Mapping[str, object]) -> None:
    """Refuse what cannot go with a trainer's arguments; see `check_loop`, `check_continued`."""
    check_loop(strategy, arguments)
    check_continued(strategy, [name for name in UNCONTINUED if arguments.get(name)])


def check_continued(strategy: Strategy, given: Collection[str]) -> None:
    """Refuse a rule that continues prefixes where a prefix of token ids is not all there is.

    Args:
        strategy: with all its chains.
        given: names of arguments of the trainer, or of columns.

    Raises:
        CreditError: naming the first of them.
    """
    ways = [name for name in UNCONTINUED if name in given]
    if ways and "prefix_values" in strategy.needs:
        raise CreditError(
            f"{strategy.name!r} cannot be used with {ways[0]}: it lets the policy go on from the "
            f"token ids of a prompt and a prefix, and {UNCONTINUED[ways[0]]}. Use a strategy "
            "without, such as 'loo'."
        )


def check_loop(strategy: Strategy, arguments: Mapping[str, object]) -> None:
    """Refuse a rule of turns where there is one, and one that asks what is settled where tools are.

    A reward reads the last message. What settles that message settles nothing while the model may
    still call a tool and write another one, so the credit could have the wrong sign.

    Args:
        strategy: with all its chains.
        arguments: the trainer's; `tools` and `environment_factory` let a model go on writing.

    Raises:
        CreditError: naming the rules, the argument and what to use instead.
    """
    loops = ("tools", "environment_factory", "rollout_func")
    if "turns" in strategy.needs and not any(arguments.get(name) for name in loops):
        raise CreditError(
            f"{strategy.name!r} needs turns, and without {', '.join(loops[:2])} or {loops[2]} a "
            "completion is one turn; pass one of them, or use a strategy without, such as 'seq'."
        )
    rules = [rule.name for rule in strategy.rules if rule.needs & SETTLED]
    given = [name for name in ("tools", "environment_factory") if arguments.get(name)]
    if rules and given:
        raise CreditError(
            f"{strategy.name!r} cannot be used with {given[0]}: {', '.join(rules)} would call a "
            "message settled although a later call opens a new one. Use a strategy without, such "
            "as 'seq', or 'turns' with a reward that has `turn_rewards`."
        )


def check_told(
    strategy: str,
    needs: frozenset[str],
    rewards: Sequence[tuple[str, object]],
    weights: Sequence[float],
) -> None:
    """Refuse a strategy that needs what no reward tells: it would train on nothing, silently.

    Raises:
        CreditError: naming what is missing and the rewards.
    """
    counted = [reward for (_, reward), weight in zip(rewards, weights, strict=True) if weight != 0]
    for need in sorted(needs & set(TOLD_BY)):
        members = TOLD_BY[need]
        if not any(tells(reward, need) for reward in counted):
            names = ", ".join(name for name, _ in rewards)
            raise CreditError(
                f"{strategy!r} needs {need!r}, which no reward with a weight tells ({names}); "
                f"use one that has `{members[0]}`, see rewards/README.md."
            )
