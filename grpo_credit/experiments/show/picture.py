"""What is to be shown: which completions of a step, and their credit under each strategy."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from markupsafe import escape
from torch import Tensor

from grpo_credit.credit.documents import are_documents, check_documents
from grpo_credit.credit.parse import resolve_text, resolve_with
from grpo_credit.credit.registry import named_by
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.saved import SavedRollouts, credit_of, find_rollouts, load_rollouts
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.experiments.figures.shading import Completion, Shaded, Token
from grpo_credit.experiments.report.limits import cut, fitting
from grpo_credit.experiments.show.choice import choose, settled_at
from grpo_credit.records.files import step_of
from grpo_credit.text import prompt_text, visible

BASELINE = "even/dapo"
LARGEST = 4_000_000  # bytes of a page, about; whatever is asked for
_SHARES = 32  # of them: no completion takes more than one where so many are shown
_PROMPT = 10_000  # characters


@dataclass(frozen=True)
class Picture(Shaded):
    """What a renderer draws.

    Args:
        title: run and step.
        dead: groups without credit, which are not shown.
    """

    title: str = ""
    dead: int = 0

    @property
    def about_dead(self) -> str:
        """Return how many groups have no credit; nothing where each has some."""
        some = f"{self.dead:,} more group{' has' if self.dead == 1 else 's have'}"
        return f"{some} no credit; --group=N shows one." if self.dead else ""

    @property
    def notice(self) -> str:
        """Return what is left out and how to see it; nothing where all is there."""
        tokens = sum(completion.left_out for completion in self.completions)
        kinds = ((self.left_out, "completions"), (tokens, "tokens at the end of those shown"))
        missing = " and ".join(f"{count:,} {kind}" for count, kind in kinds if count)
        return missing and (
            f"Left out, to keep this below {LARGEST / 1e6:g} MB: {missing}. For more of each, ask "
            "for fewer --rows, one --group=N or one --credit; grpo_credit.load_rollouts reads all."
        )


def picture(
    run: Path,
    step: int | None = None,
    credit: Sequence[str] = (),
    *,
    rows: int = 8,
    group: int | None = None,
) -> Picture:
    """Compute the credit of a step's saved rollouts and choose the completions to show.

    Of supervised training they are its documents; then the prompt is what was not predicted before.

    Args:
        run: the run directory.
        step: optimizer step; the last one saved if None.
        credit: strategies, with options as `'NAME {"alpha": 0.75}'`; the run's own and `even/dapo`
            if there are none.
        rows: how many completions: of each group its best beside its worst, groups with the
            largest spread of rewards first.
        group: of this group only.

    Raises:
        CreditError: nothing is saved, unknown step, group or strategy, or one that needs a field
            that was not saved, or, of documents, rewards or groups. One that is code
            (`pkg.mod:obj`) is imported only if `credit` names it, or if it is a rule of a module
            that was imported before.
    """
    path = find_rollouts(run, step)
    saved = load_rollouts(path)
    with named_by(path, credit):
        chosen = _strategies(saved, credit)
        if are_documents(saved.rollouts):
            for strategy in chosen.values():
                check_documents(strategy)
        matrices = [credit_of(name, strategy, saved, path) for name, strategy in chosen.items()]
    shown, dead = _select(saved.rollouts, matrices[0], rows, group)
    title = f"{run.resolve().name}, step {step_of(path)}"
    completions = _fitting(saved, matrices, shown)
    drawn = shown[: len(completions)]
    scales = [float(matrix[drawn].abs().max()) for matrix in matrices]
    return Picture(list(chosen), scales, completions, len(shown) - len(drawn), title, dead)


def _strategies(saved: SavedRollouts, names: Sequence[str]) -> dict[str, Strategy]:
    if names:
        return {text: named(text, saved) for text in names}
    try:
        own = named(saved.credit, saved)
    except CreditError as error:
        why = str(error).rstrip(".")
        raise CreditError(
            f"the run's own strategy {saved.credit!r} is not found here ({why}); "
            "say with --credit which strategies to show."
        ) from None
    return {saved.credit: own, BASELINE: resolve_text(BASELINE)}


def named(text: str, saved: SavedRollouts) -> Strategy:
    """Resolve a name with options after it; the run's own strategy brings its options along."""
    own = text.strip() == saved.credit
    return resolve_with(saved.credit, saved.options) if own else resolve_text(text)


def _select(
    rollouts: Rollouts, credit: Tensor, count: int, group: int | None
) -> tuple[list[int], int]:
    """Choose rows, of a group or of all with credit; and count the groups without any."""
    used = rollouts.window_count > 0
    if group is not None:
        used &= rollouts.group == group
    if count < 1 or not used.any():
        raise CreditError(
            f"no completions to show of group {group}, rows {count}; expected at least 1 row, and "
            f"a group from {int(rollouts.group.min())} to {int(rollouts.group.max())}."
        )
    groups = {int(number) for number in rollouts.group[used]}
    live = {int(number) for number in rollouts.group[used & credit.any(dim=1)]} or groups
    order = dict.fromkeys([*choose(rollouts, len(used)), *used.nonzero().flatten().tolist()])
    rows = [row for row in order if used[row] and int(rollouts.group[row]) in live]
    return rows[:count], len(groups - live)


def _fitting(saved: SavedRollouts, matrices: list[Tensor], rows: list[int]) -> list[Completion]:
    """Make completions until they fill a page; the first one in any case."""
    share = LARGEST // min(len(rows), _SHARES)
    made = (_completion(saved, matrices, row, share) for row in rows)
    return [completion for completion, _ in fitting(made, itemgetter(1), LARGEST)]


def _completion(
    saved: SavedRollouts, matrices: list[Tensor], row: int, room: int
) -> tuple[Completion, int]:
    """Make a completion of at most so many bytes of a page; return also how many it takes."""
    rollouts, texts = saved.rollouts, saved.tokens[row]
    per_token = zip(*(matrix[row].tolist() for matrix in matrices), strict=True)
    columns = zip(texts, rollouts.mask[row].tolist(), per_token, strict=False)
    prompt = cut(prompt_text(saved.prompts[row]), _PROMPT)
    size = _bytes(prompt) + 400 + 100 * len(matrices)
    last, tokens = settled_at(rollouts, row), list[Token]()
    for text, counted, credit in columns:
        token = Token(text, counted, list(credit), settled=len(tokens) + 1 == last)
        size += (len(matrices) + 1) * _bytes(token.text) + 60 * len(matrices) + 50
        if size > room:
            break
        tokens.append(token)
    times = int(rollouts.window_count[row])
    notes = [f"used {times} times"] if times > 1 else []
    if last is not None:
        notes.append(f"reward settled after {last}")
    document = f"document {row} | predicted tokens {int(rollouts.lengths[row])}"
    made = Completion(
        row=row,
        group=int(rollouts.group[row]),
        reward=float(rollouts.rewards[row]),
        advantage=float(rollouts.advantages[row]),
        prompt=prompt,
        tokens=tokens,
        left_out=len(texts) - len(tokens),
        notes=notes,
        named=document if are_documents(rollouts) else "",
    )
    return made, size


def _bytes(text: str) -> int:
    return len(escape(visible(text)).encode())
