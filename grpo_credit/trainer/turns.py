"""What each call of the model wrote: watched in TRL's own loop, never searched for in the text.

TRL generates a turn for every row, runs the tools that were called, and generates the next turn for
the rows whose tools have answered. `TurnWatch` stands around these steps and notes where each turn
begins, which tools came back, and what the environment said meanwhile.
"""

import functools
import hashlib
import inspect
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

from grpo_credit.credit.turns import Turn, check_turns
from grpo_credit.errors import CreditError
from grpo_credit.rewards import message_text
from grpo_credit.trainer.places import thought_end
from grpo_credit.trainer.seams import Host, SeamError

GIVEN = "turns"  # what a rollout_func may return beside env_mask


@dataclass
class Watched:
    """A turn as it is generated.

    Args:
        start: column of its first token.
        end: one past its last.
        state: the environment's own name of the state it is written in; None if it has none.
        came_back: how many tools that it called returned.
        earned: what the environment put into its `step_rewards` before the next turn.
    """

    start: int
    end: int
    state: Any = None
    came_back: int = 0
    earned: list[float] = field(default_factory=list)


class Told(NamedTuple):
    """The turns of a generation batch of this rank.

    Args:
        turns: of each completion.
        earned: (turn, reward) pairs of each completion, that its environment gave.
        dropped: whether tools answered the last turn, and TRL dropped that for its length.
    """

    turns: list[list[Turn]]
    earned: list[list[tuple[int, float]]]
    dropped: list[bool]


def unearned(turns: list[list[Turn]]) -> Told:
    """Tell turns of which no environment says anything."""
    return Told(turns, [[] for _ in turns], [False] * len(turns))


class TurnWatch:
    """Watches TRL generate.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watched: list[list[Watched]] | None = None  # per row, while TRL generates
        self._kept: list[list[Watched]] = []
        self.seconds: dict[str, float] = {}  # that each tool took in the last batch
        self._given: list[Any] | None = None
        self._mask: list[list[int]] | None = None
        self._loop: _Loop | None = None
        self._counted: list[int] = []  # rewards that each environment has given so far

    def generate(self, generate: Callable[[Any], Any], prompts: Any) -> Any:
        """Let TRL generate a batch, and note its turns."""
        self._watched, self._loop, self.seconds = [[] for _ in prompts], None, {}
        self._counted = [len(self._steps(row)) for row in range(len(prompts))]
        try:
            output = generate(prompts)
            self._kept = self._watched
        finally:
            self._watched = None
        ids, self._mask, extra = output[1], output[2], output[5]
        for own, tokens in zip(self._kept, ids, strict=True):
            for turn in own:  # TRL cuts the last one off at the limit
                turn.end = min(turn.end, len(tokens))
        self._given = extra.get(GIVEN) if self._host.rollout_func is not None else None
        return output

    def turn(self, generate: Callable[..., Any], prompt_ids: Any, *rest: Any, **named: Any) -> Any:
        """Let TRL generate a turn of each row that is at work."""
        if self._watched is None:  # outside of training, such as `complete`
            return generate(prompt_ids, *rest, **named)
        places = self._places(prompt_ids)
        states = [self._state(row) for row, _ in places]
        output = generate(prompt_ids, *rest, **named)
        for (row, start), state, ids in zip(places, states, output[0], strict=True):
            self._watched[row].append(Watched(start, start + len(ids), state))
        return output

    def _places(self, prompt_ids: Sequence[Any]) -> list[tuple[int, int]]:
        """Return the rows that TRL generates now, and at which column each goes on."""
        if self._loop is None:
            return [(row, 0) for row in range(len(prompt_ids))]
        self._collect(self._watched or [])
        return self._loop.places(prompt_ids)

    def loop(self, loop: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Let TRL call tools, and note which of them came back."""
        if self._watched is not None:
            _, prompts, completions, conversations, *_ = given
            self._loop = _Loop(list(map(len, prompts)), conversations)
            for own, ids in zip(self._watched, completions, strict=True):
                own[:] = own or [Watched(0, len(ids))]  # that a rollout_func wrote
            self._note_returns()
        return loop(*given, **named)

    def _note_returns(self) -> None:
        for kind in ("_sync_tool_dicts", "_async_tool_dicts"):
            if not hasattr(self._host, kind):
                raise SeamError(f"{kind} in _tool_call_loop")
            for row, tools in enumerate(getattr(self._host, kind)):
                tools.update({name: self._noting(row, name, tool) for name, tool in tools.items()})

    def _noting(self, row: int, name: str, tool: Callable[..., Any]) -> Callable[..., Any]:
        """Make a tool that notes its return and its time, and is otherwise the same."""

        def note() -> None:
            if self._watched is not None:
                self._watched[row][-1].came_back += 1

        @functools.wraps(tool)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._timed(name):
                result = tool(*args, **kwargs)
            note()
            return result

        @functools.wraps(tool)
        async def wait(*args: Any, **kwargs: Any) -> Any:
            with self._timed(name):
                result = await tool(*args, **kwargs)
            note()
            return result

        return wait if inspect.iscoroutinefunction(tool) else call

    @contextmanager
    def _timed(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    # ---- the environment ----------------------------------------------------------------------

    def _environment(self, row: int) -> Any:
        return self._host.environments[row] if self._host.environments else None

    def _state(self, row: int) -> Any:
        return getattr(self._environment(row), "state_id", None)

    def _steps(self, row: int) -> Sequence[float]:
        steps = getattr(self._environment(row), "step_rewards", None)
        return () if steps is None or callable(steps) else steps

    def _collect(self, watched: Sequence[list[Watched]]) -> None:
        """Give the rewards that environments have added since to the turns before."""
        for row, turns in enumerate(watched):
            steps, known = self._steps(row), self._counted[row]
            if len(steps) < known:
                raise CreditError(
                    f"the `step_rewards` of {type(self._environment(row)).__name__} went from "
                    f"{known} to {len(steps)} entries within a completion; append to the list, and "
                    "empty it in reset()."
                )
            turns[-1].earned.extend(steps[known:])
            self._counted[row] = len(steps)

    # ---- what is told -------------------------------------------------------------------------

    def tell(self, completions: Sequence[Any], prompts: Sequence[Any], ids: Any) -> Told | None:
        """Return the turns of the batch; None where every completion is one.

        Raises:
            CreditError: if a `rollout_func` returned turns that cannot be, or an environment gave
                rewards that are no numbers.
        """
        if self._given is not None:
            return unearned(_given(self._given, ids))
        if self._mask is None:
            return None
        if not self._host.tools or _columns(self._kept, self._mask) != self._mask:
            return unearned(list(map(_by_mask, self._mask)))
        self._collect(self._kept)
        rows = [
            _Row(*row, self._host.max_tool_calling_iterations, self._host._tokenizer)
            for row in zip(self._kept, map(_texted, prompts), completions, ids, strict=True)
        ]
        told = [(row.turns(), row.earned(), row.dropped) for row in rows]
        return Told(*map(list, zip(*told, strict=True)))


class _Loop:
    """Where TRL's loop is, as its conversations show: it adds to them as it goes.

    Args:
        prompts: the length of each prompt, in tokens.
        conversations: the messages of each completion.
    """

    def __init__(self, prompts: Sequence[int], conversations: Sequence[Sequence[Any]]) -> None:
        self._prompts, self._conversations = prompts, conversations
        self._seen = [len(messages) for messages in conversations]

    def places(self, prompt_ids: Sequence[Any]) -> list[tuple[int, int]]:
        """Return the rows whose tools have answered, and at which column each goes on."""
        rows = [row for row in range(len(self._seen)) if self._was_answered(row)]
        if len(rows) != len(prompt_ids):
            raise SeamError("_tool_call_loop that generates for the rows whose tools answered")
        for row, messages in enumerate(self._conversations):
            self._seen[row] = len(messages) + (row in rows)  # with the message that comes now
        lengths = zip(rows, map(len, prompt_ids), strict=True)
        return [(row, length - self._prompts[row]) for row, length in lengths]

    def _was_answered(self, row: int) -> bool:
        messages = self._conversations[row]
        return len(messages) > self._seen[row] and messages[-1].get("role") == "tool"


@dataclass(frozen=True)
class _Row:
    """A completion whose turns were watched: what they are called.

    Args:
        watched: its turns.
        prompt: as text.
        conversation: its messages; those of the assistant are its turns.
        ids: its tokens.
        limit: how many turns may call tools.
        tokenizer: of the model.
    """

    watched: Sequence[Watched]
    prompt: str
    conversation: Sequence[Mapping[str, Any]]
    ids: Sequence[int]
    limit: int
    tokenizer: Any

    def turns(self) -> list[Turn]:
        """Return the turns."""
        return [
            self._turn(n, *pair)
            for n, pair in enumerate(zip(self.watched, self._messages, strict=False))
        ]

    def earned(self) -> list[tuple[int, float]]:
        """Return what the environment gave for each turn."""
        return [(n, float(r)) for n, turn in enumerate(self.watched) for r in turn.earned]

    @property
    def dropped(self) -> bool:
        """Whether tools have answered the last turn, and TRL left that out for its length."""
        last = self.conversation[-1]
        return bool(last.get("tool_calls")) and len(self.watched) <= self.limit

    @property
    def _messages(self) -> list[tuple[Mapping[str, Any], str]]:
        """Return each message of the assistant, with what it was written in answer to."""
        found, before = [], self.prompt
        for message in self.conversation:
            if message.get("role", "assistant") == "assistant":
                found.append((message, before))
                before = ""
            else:
                before += _texted([message])
        return found

    def _turn(self, n: int, watched: Watched, message: tuple[Mapping[str, Any], str]) -> Turn:
        wrote, before = message
        calls = wrote.get("tool_calls") or []
        ran = n < self.limit
        own = self.ids[watched.start : watched.end]
        return Turn(
            watched.start,
            watched.end,
            watched.start + thought_end(self.tokenizer, own, wrote),
            "call" if calls else "answer",
            tuple(str(call.get("function", call).get("name", "")) for call in calls),
            ran and watched.came_back < len(calls),
            _digest(before if watched.state is None else repr(watched.state)),
        )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _texted(prompt: Any) -> str:
    """Return what a prompt, or messages, say; images are left out."""
    if isinstance(prompt, str):
        return prompt
    return repr([(message.get("role"), message_text(message)) for message in prompt])


def _columns(turns: Sequence[Sequence[Watched]], masks: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the mask that turns make, to be held against TRL's."""
    made = [[0] * len(mask) for mask in masks]
    for row, own in zip(made, turns, strict=True):
        for turn in own:
            row[turn.start : turn.end] = [1] * (turn.end - turn.start)
    return made


def _by_mask(mask: Sequence[int]) -> list[Turn]:
    """Take runs of the model's tokens for turns; one that somebody answered was a call."""
    edges = [*accumulate((len(list(run)) for _, run in groupby(map(bool, mask))), initial=0)]
    own = [(start, end) for start, end in pairwise(edges) if mask[start]]
    return [Turn(s, e, s, "call" if e < len(mask) else "answer") for s, e in own]


def _given(turns: Sequence[Any], ids: Sequence[Sequence[int]]) -> list[list[Turn]]:
    """Read the turns that a `rollout_func` returned: `Turn`s, or dicts of their fields."""
    if len(turns) != len(ids):
        raise CreditError(
            f"rollout_func returned the {GIVEN!r} of {len(turns)} completions, expected {len(ids)}."
        )
    found = []
    for row, (own, tokens) in enumerate(zip(turns, ids, strict=True)):
        try:
            read = [t if isinstance(t, Turn) else Turn(**_defaults(t), **t) for t in own]
            check_turns([read], len(tokens))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CreditError(
                f"rollout_func returned the {GIVEN!r} {own!r:.80} for completion {row} of "
                f"{len(tokens)} tokens ({error}); expected a list of dicts with start and end, and "
                f"any of {', '.join(f.name for f in fields(Turn))}."
            ) from error
        found.append(read)
    return found


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    plain = {"thought": given["start"], "role": "answer"}
    return {name: value for name, value in plain.items() if name not in given}
