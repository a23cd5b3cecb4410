"""Whether a strategy, anybody's, obeys the laws, and if not, where it breaks them.

Some laws bind every strategy. Others are promises: they are asked of a rule that declares them
(`conserves_mass`, `keeps_sign`), or does not declare otherwise (`linear=False`, `sign_free=False`).
The laws are the same of every stage, and are tried on what it trains on (`STAGES`).

Example:
    >>> from grpo_credit import resolve_credit
    >>> [found.law for found in examine(resolve_credit("seq")) if found.failed]
    []
"""

import functools
import inspect
import itertools
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch.nn.functional import pad

from grpo_credit.credit import documents, shading
from grpo_credit.credit.laws import ALWAYS, PROMISES, Law, listed
from grpo_credit.credit.parse import Named, resolve_with
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.credit.turns import Turn


@dataclass(frozen=True)
class LawVerdict:
    """What came of one law.

    Args:
        law: the law's name.
        sentence: what it says.
        promised: whether it is asked of the strategy: by all, or by what the strategy declares.
        counterexample: in words, the smallest one found; empty if the law holds.
        declaration: what a decorator declares to promise it; empty for a law that binds all.
    """

    law: str
    sentence: str
    promised: bool
    counterexample: str
    declaration: str = ""

    @property
    def failed(self) -> bool:
        """Whether the strategy breaks a law that it is held to."""
        return self.promised and bool(self.counterexample)

    @property
    def verdict(self) -> str:
        """`holds`, `holds, though not declared`, `declared otherwise` or `fails`."""
        if self.promised:
            return "fails" if self.counterexample else "holds"
        return "declared otherwise" if self.counterexample else "holds, though not declared"


class Laws(list[LawVerdict]):
    """What came of every law, as a notebook shows it and as a table; see `check`.

    Attributes:
        name: of the strategy.
    """

    def __init__(self, name: str, verdicts: Iterable[LawVerdict]) -> None:
        super().__init__(verdicts)
        self.name = name

    @property
    def broken(self) -> list[LawVerdict]:
        """The laws that the strategy breaks and is held to."""
        return [law for law in self if law.failed]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each law: its name, what it says, its verdict, a counterexample."""
        names = ("law", "sentence", "verdict", "counterexample", "declaration")
        return pd.DataFrame({name: [getattr(law, name) for law in self] for name in names})

    def _repr_html_(self) -> str:
        return shading.listing(
            f"the laws of {self.name}: {len(self.broken)} of {len(self)} broken",
            ["verdict", "law", "counterexample"],
            [[law.verdict, law.sentence, law.counterexample] for law in self],
            [shading.BELOW if law.failed else "" for law in self],
        )


def check(credit: Named, *, stage: str = "alignment", **options: Any) -> Laws:
    """Hold a strategy, anybody's, to the laws, as `grpo-credit check` does.

    Args:
        credit: whatever `resolve_credit` takes.
        stage: "alignment", or "supervised" for documents of the data.
        options: the strategy's keyword arguments.

    Returns:
        A verdict for each law, with the smallest counterexample that was found.

    Raises:
        CreditError: see `resolve_credit`; or a strategy that looks at what documents do not have.

    Example:
        >>> def by_rows(rollouts):  # over the rows at hand, not those of the window
        ...     return rollouts.advantages[:, None] * rollouts.mask / len(rollouts.mask)
        >>> len(check(by_rows).broken), len(check("seq").broken)
        (1, 0)
    """
    return check_with(credit, options, stage)


def check_with(credit: Named, options: Mapping[str, object], stage: str) -> Laws:
    """Do the same with options that may have any name, such as those of a command line."""
    strategy = resolve_with(credit, options)
    if stage == "supervised":
        documents.check_documents(strategy)
    return Laws(strategy.name, examine(strategy, stage))


def examine(strategy: Strategy, stage: str = "alignment") -> Iterator[LawVerdict]:
    """Run every law on a strategy, those that it declares itself free of included.

    A whole-credit callable has no allocation and no aggregation to promise anything about. `stage`
    is one of `STAGES`; what a strategy looks at there is for `documents.check_documents`.
    """
    for law, promised, declaration in _laws(strategy):
        sentence, broken = inspect.getdoc(law) or "", counterexample(law, strategy, stage)
        yield LawVerdict(law.__name__, sentence, promised, broken, declaration)


def _laws(strategy: Strategy) -> Iterator[tuple[Law, bool, str]]:
    """Return every law that can be asked, whether it is promised, and by which declaration."""
    yield from ((law, True, "") for law in ALWAYS)
    if strategy.aggregation is None:
        return
    for name, law in PROMISES.items():
        promised = bool(getattr(strategy.aggregation if name == "sign_free" else strategy, name))
        yield law, promised, f"{name}={promised}"


def counterexample(law: Law, strategy: Strategy, stage: str = "alignment") -> str:
    """Search the examples of a stage for one that breaks a law, then for the smallest that does.

    Returns:
        The counterexample in words; empty if there is none.
    """
    small, every = STAGES[stage]
    if not _first(law, strategy, every()):
        return ""
    return _first(law, strategy, itertools.chain(small(), every()))


def _first(law: Law, strategy: Strategy, among: Iterable[Rollouts]) -> str:
    for rollouts in among:
        try:
            law(strategy, rollouts)
        except Exception as error:  # anybody's rule: whatever it raises is the verdict
            of = f"{_reason(error)} (lengths {rollouts.lengths.int().tolist()}"
            scored = not documents.are_documents(rollouts)
            return f"{of}, rewards {listed(rollouts.rewards)})" if scored else f"{of})"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, AssertionError | CreditError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} in {place.filename}, line {place.lineno}"


# ---- examples ---------------------------------------------------------------------------------


def _made_once(make: Callable[..., Iterator[Rollouts]]) -> Callable[..., Iterator[Rollouts]]:
    """Keep what is made, and yield copies of it, since a rule may change what it is given."""
    made = functools.cache(lambda *count: tuple(make(*count)))

    @functools.wraps(make)
    def copies(*count: int) -> Iterator[Rollouts]:
        for rollouts in made(*count):
            yield rollouts.rows(torch.arange(len(rollouts.group)))

    return copies


@_made_once
def smallest() -> Iterator[Rollouts]:
    """Yield one group of two completions of up to two tokens, the shortest first."""
    lengths = sorted(itertools.product(range(3), repeat=2), key=sum)
    rewards = [(1.0, 0.0), (0.0, 1.0), (None, 1.0), (1.0, 1.0)]
    for two, scores in itertools.product(lengths, rewards):
        yield _made(list(two), list(scores))


@_made_once
def examples(count: int = 8) -> Iterator[Rollouts]:
    """Yield rollouts, the degenerate first: empty rows, one token, abstentions, dead groups.

    Every second of the `count` random ones has groups of several sizes, tool outputs, rows of other
    windows, and two reward functions.
    """
    yield _made([0, 1, 3, 5], [1.0, 0.0, 1.0, 0.0])
    yield _made([1, 1, 1, 1], [1.0, 0.0, 0.0, 0.0])
    yield _made([2, 4, 3, 1], [None, None, 1.0, 0.0])
    yield _made([2, 4, 3, 1], [1.0, 1.0, 0.0, 0.0])
    yield _made([0, 0, 0, 0], [None, None, None, None])
    for seed in range(count):
        rng = random.Random(seed)
        if seed % 2:
            yield _intricate(Rollouts.cat([_drawn(rng, 1, size) for size in (3, 4, 2)]))
        else:
            yield _drawn(rng, rng.randint(1, 4), 2)


def _drawn(rng: random.Random, groups: int, size: int) -> Rollouts:
    rows = groups * size
    return _made(
        [rng.randint(0, 6) for _ in range(rows)],
        [rng.choice([0.0, 0.25, 1.0, None]) for _ in range(rows)],
        size,
    )


def _intricate(rollouts: Rollouts) -> Rollouts:
    """Make some tokens a tool's, spread rows over windows, and add a function of weight 0."""
    rows, columns = map(torch.arange, rollouts.mask.shape)
    first = rollouts.rewards_per_func
    second = torch.where(rows[:, None] % 2 == 1, 1 - first, torch.nan)
    assert rollouts.spans is not None  # `_made` fills every field
    assert rollouts.decided is not None
    return replace(
        rollouts,
        mask=rollouts.mask & (columns % 4 != 1),
        window_count=rows % 3,
        rewards_per_func=torch.cat([first, second], dim=1),
        reward_names=("reward", "other"),
        reward_weights=(1.0, 0.0),
        spans={**rollouts.spans, "other/last": rollouts.mask & (columns > 2)},
        decided=torch.cat([rollouts.decided, rollouts.decided // 2], dim=1),
    )


def _made(lengths: list[int], rewards: list[float | None], size: int = 2) -> Rollouts:
    """Make rollouts with every optional field; group members share prefixes, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    rollouts = Rollouts.from_lists(
        lengths,
        rewards,
        num_generations=size,
        max_completion_length=6,
        completion_ids=[
            torch.randint(0, 3, (n,), generator=generator).cumsum(0).tolist() for n in lengths
        ],
        dtype=torch.float64,
    )
    mask, ends = rollouts.mask, rollouts.mask.sum(dim=1, keepdim=True)
    noise = torch.rand(mask.shape, dtype=torch.float64, generator=generator)
    before = torch.arange(mask.shape[1] + 1).minimum(ends)  # like the states: constant at the end
    characters = torch.stack([before[:, :-1], before[:, 1:]], dim=2)
    return replace(
        rollouts,
        old_logps=-noise,
        entropies=noise,
        sum_sq_probs=0.5 + noise / 2,
        ref_logps=-noise.flip(1),
        privileged_logps=-noise.flip(0),
        spans={"reward/first": mask & (rollouts.position < 2)},
        decided=(ends + 1) // 2,
        states=before // 2,
        step_rewards=torch.where(mask & (rollouts.position % 2 == 1), noise, torch.nan),
        prefix_values=torch.where(before % 3 == 2, pad(noise, (1, 0)), torch.nan),
        answer_logps=pad(-noise, (1, 0), value=-1.0),
        texts=tuple("wait, 1"[:n] for n in lengths),
        offsets=characters,
        turns=tuple(map(_two_turns, lengths)),
    )


def _two_turns(length: int) -> tuple[Turn, ...]:
    """Cut a completion into a call of two tokens and what comes after it."""
    call = Turn(0, min(2, length), min(1, length), "call", ("look",), length > 3, str(length % 2))
    return (call, Turn(2, length, 2, "answer"))[: (length > 0) + (length > 2)]


STAGES = {  # the smallest examples, and all, of what a stage trains on
    "alignment": (smallest, examples),
    "supervised": (documents.smallest, documents.examples),
}
