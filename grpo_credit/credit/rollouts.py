"""The data contract: what a credit strategy may see.

A `Rollouts` holds whole groups from every rank, before TRL shuffles and splits them. Normalisers
(`num_completions`, `num_prompts`, `num_tokens`, `window_sum`) are totals over the *window*, all
completions of one optimizer step: credit is the same for every cut into micro-batches and ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit import shading
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.fields import OF_PREFIXES, PADDING, ROWWISE, check_fields
from grpo_credit.credit.turns import Turns, numbered

# What a strategy may declare to need, and the fields that come with it.
OPTIONAL = {
    "old_logps": ("old_logps",),
    "entropies": ("entropies",),
    "sum_sq_probs": ("sum_sq_probs",),
    "ref_logps": ("ref_logps",),
    "privileged_logps": ("privileged_logps",),
    "spans": ("spans",),
    "decided": ("decided",),
    "states": ("states",),
    "step_rewards": ("step_rewards",),
    "prefix_values": ("prefix_values",),
    "answer_logps": ("answer_logps",),
    "texts": ("texts", "offsets"),
    "turns": ("turns",),
}


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Completions of whole groups, with the totals of the window that is being trained on.

    The fields from `old_logps` on are None unless the strategy declares to need them.

    Args:
        completion_ids: token ids, padded on the right.
        mask: True for counted tokens: completion mask x tool mask. A row may be all False.
        advantages: TRL's group-relative advantage, before credit; dimensionless.
        rewards: weighted sum over the reward functions; NaN where every function abstained.
        rewards_per_func: one column per reward function, NaN for an abstention.
        reward_names: the columns' names.
        group: the index of the prompt a completion belongs to.
        truncated: True where the completion was cut at the length limit.
        max_completion_length: the configured limit `L_max`, in tokens.
        window_count: how often a row is trained on in this optimizer step: 1 in the usual plan,
            0 for rows of other steps (`steps_per_generation` > accumulation steps), 2 and more
            where several iterations fall into one step.
        reward_weights: what TRL multiplies each reward function's column by; 1 each if not given.
        scale_rewards: TRL's `"group"`, `"batch"` or `"none"`: what the advantages were divided by.
        generation: the index of the batch that a completion was generated in, 0 if not given; a
            step may draw on several, and `"batch"` is within one.
        old_logps: log-probability of each token under the policy that generated it, nats.
        entropies: entropy of the next-token distribution at each token, nats.
        sum_sq_probs: Σ_v π_v² of the next-token distribution at each token, in (0, 1].
        ref_logps: log-probability of each token under the model of TRL's KL term, nats.
        privileged_logps: log-probability of each token after the privileged prompt instead, nats.
        spans: `"<reward>/<span>"` -> the tokens that hold a character which the reward names.
        decided: per reward function, how many columns of the row were there when its score was
            settled, the deciding token included; the row's last token where only the end settles
            it, or where the function does not say.
        states: what the rewards' automata still remember of the prefix, before the first token and
            after each; equal numbers mean equal futures. 0 where no reward has an automaton.
        step_rewards: reward of the step that ends at a token, NaN at other tokens.
        prefix_values: expected reward after so many columns; NaN where it was not estimated.
        answer_logps: mean log-probability, nats per token, that the policy gives the row's right
            answer after so many columns; NaN where it was not asked.
        texts: the completions as text.
        offsets: the half-open range of characters of each token in its text.
        turns: what each call of the model wrote, where tools, an environment or a `rollout_func`
            wrote in between; None where a completion is one turn.

    Raises:
        ValueError: if a field's shape does not fit, a number is not finite where it must be, a
            tensor carries a gradient, or the counts are negative.

    Example:
        >>> two = Rollouts.from_lists([2, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4)
        >>> two.mask.sum(dim=1), two.num_tokens
        (tensor([2, 3]), tensor(5.))
    """

    completion_ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    advantages: Float[Tensor, " B"]
    rewards: Float[Tensor, " B"]
    rewards_per_func: Float[Tensor, "B K"]
    reward_names: tuple[str, ...]
    group: Int[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    max_completion_length: int
    window_count: Int[Tensor, " B"] = field(default=None)  # ty: ignore[invalid-assignment]
    reward_weights: tuple[float, ...] = ()
    scale_rewards: str = "group"
    generation: Int[Tensor, " B"] = field(default=None)  # ty: ignore[invalid-assignment]
    old_logps: Float[Tensor, "B T"] | None = None
    entropies: Float[Tensor, "B T"] | None = None
    sum_sq_probs: Float[Tensor, "B T"] | None = None
    ref_logps: Float[Tensor, "B T"] | None = None
    privileged_logps: Float[Tensor, "B T"] | None = None
    spans: Mapping[str, Bool[Tensor, "B T"]] | None = None
    decided: Int[Tensor, "B K"] | None = None
    states: Int[Tensor, "B T1"] | None = None
    step_rewards: Float[Tensor, "B T"] | None = None
    prefix_values: Float[Tensor, "B T1"] | None = None
    answer_logps: Float[Tensor, "B T1"] | None = None
    texts: tuple[str, ...] | None = None
    offsets: Int[Tensor, "B T 2"] | None = None
    turns: Turns | None = None

    def __post_init__(self) -> None:
        if self.window_count is None:
            object.__setattr__(self, "window_count", torch.ones_like(self.group))
        if self.generation is None:
            object.__setattr__(self, "generation", torch.zeros_like(self.group))
        if not self.reward_weights:
            object.__setattr__(self, "reward_weights", (1.0,) * len(self.reward_names))
        check_fields(self, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in every.items() if isinstance(value, Tensor)}

    # ---- per row ------------------------------------------------------------------------------

    @property
    def lengths(self) -> Float[Tensor, " B"]:
        """Counted tokens of each completion, `L_i`; 0 for a fully masked row."""
        return self.mask.sum(dim=1).to(self.advantages.dtype)

    @property
    def position(self) -> Int[Tensor, "B T"]:
        """How many counted tokens precede each token of its completion: 0, 1, ..., L_i - 1."""
        return self.mask.cumsum(dim=1) - self.mask.long()

    @property
    def turn(self) -> Int[Tensor, "B T"]:
        """Which turn each token is of, from 1; what others wrote is of the turn before it.

        Where no turns are known, a turn is a maximal run of counted tokens.
        """
        if self.turns is None:
            return (self.mask & ~pad(self.mask, (1, -1))).cumsum(dim=1)
        return numbered(self.turns, self.mask)

    # ---- what a notebook shows ----------------------------------------------------------------

    def token_texts(self, row: int) -> list[str]:
        """Return the tokens of a completion up to the last counted one: texts, or else ids."""
        columns = self.mask[row].nonzero()
        width = int(columns[-1]) + 1 if len(columns) else 0
        if self.texts is None or self.offsets is None:
            return list(map(str, self.completion_ids[row, :width].tolist()))
        return [self.texts[row][start:end] for start, end in self.offsets[row, :width].tolist()]

    def shaded(self, numbers: Float[Tensor, "B T"]) -> str:
        """Return the first completions as an HTML table, their tokens shaded by a number each."""
        shown = []
        for row in range(min(len(numbers), shading.ROWS)):
            own, mask = self.token_texts(row), self.mask[row]
            told = numbers[row].masked_fill(~mask, torch.nan).tolist()[: len(own)]
            head = (
                f"group {int(self.group[row])} | R {float(self.rewards[row]):.4g} | "
                f"A {float(self.advantages[row]):+.3g}"
            )
            shown.append(shading.Row(head, own, told))
        return shading.table(shown, len(numbers))

    def _repr_html_(self) -> str:
        return self.shaded(self.advantages[:, None].expand(self.mask.shape))

    # ---- totals of the window -----------------------------------------------------------------

    def window_sum(self, per_row: Float[Tensor, " B"]) -> Float[Tensor, ""]:
        """Sum one number per completion over the window, counting a row as often as it is used."""
        return (per_row * self.window_count).sum()

    @property
    def num_completions(self) -> Float[Tensor, ""]:
        """`N`, completions in the window; fully masked rows count."""
        return self.window_sum(torch.ones_like(self.advantages)).clamp(min=1)

    @property
    def num_tokens(self) -> Float[Tensor, ""]:
        """`Σ_j L_j`, counted tokens in the window, at least 1."""
        return self.window_sum(self.lengths).clamp(min=1)

    @property
    def num_prompts(self) -> Float[Tensor, ""]:
        """`P`, prompts with at least one completion in the window."""
        used = self.group[self.window_count > 0]
        return self.advantages.new_tensor(max(1, used.unique().numel()))

    # ---- building -----------------------------------------------------------------------------

    @classmethod
    def from_lists(
        cls,
        lengths: Sequence[int],
        rewards: Sequence[float | None],
        *,
        num_generations: int,
        max_completion_length: int,
        advantages: Sequence[float] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        scale_rewards: str = "group",
        dtype: torch.dtype = torch.float32,
    ) -> "Rollouts":
        """Build rollouts by hand, for tests and notebooks.

        Args:
            lengths: counted tokens of each completion; 0 makes a fully masked row.
            rewards: one number per completion, None for an abstention.
            num_generations: completions per prompt; consecutive rows form a group.
            max_completion_length: the limit in tokens; a completion this long is `truncated`.
            advantages: taken as given; otherwise computed from the rewards as TRL does.
            completion_ids: token ids per completion; otherwise every token has its position as id.
            scale_rewards: TRL's `"group"`, `"batch"` or `"none"`.
            dtype: of every floating-point field.

        Returns:
            Rollouts whose window is all rows, once each.

        Raises:
            ValueError: if the lists differ in length, do not divide into groups, or exceed the
                limit.

        Example:
            >>> Rollouts.from_lists([2, 3], [1.0, 0.0], num_generations=2,
            ...                     max_completion_length=4, scale_rewards="none").advantages
            tensor([ 0.5000, -0.5000])
        """
        rows = len(lengths)
        if len(rewards) != rows or rows == 0 or num_generations < 1 or rows % num_generations:
            raise ValueError(
                f"got {rows} lengths and {len(rewards)} rewards; expected equally many, in groups "
                f"of num_generations={num_generations}."
            )
        if max(lengths) > max_completion_length or min(lengths) < 0:
            raise ValueError(
                f"lengths span {min(lengths)} to {max(lengths)}, expected 0 to "
                f"max_completion_length={max_completion_length}."
            )
        columns = max(1, *lengths)
        mask = torch.arange(columns) < torch.tensor(lengths)[:, None]
        ids = torch.arange(columns).repeat(rows, 1) * mask
        for row, tokens in enumerate(completion_ids or ()):
            ids[row, : lengths[row]] = torch.tensor(tokens)
        scores = torch.tensor([float("nan") if r is None else r for r in rewards], dtype=dtype)
        group = torch.arange(rows) // num_generations
        return cls(
            completion_ids=ids,
            mask=mask,
            advantages=group_advantages(scores, group, scale_rewards)
            if advantages is None
            else torch.tensor(advantages, dtype=dtype),
            rewards=scores,
            rewards_per_func=scores[:, None],
            reward_names=("reward",),
            group=group,
            truncated=torch.tensor([length == max_completion_length for length in lengths]),
            max_completion_length=max_completion_length,
            scale_rewards=scale_rewards,
        )

    @classmethod
    def from_documents(
        cls,
        lengths: Sequence[int],
        *,
        max_length: int | None = None,
        token_ids: Sequence[Sequence[int]] | None = None,
        old_logps: Sequence[Sequence[float]] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Rollouts":
        """Build what supervised training knows: documents of the data, each with advantage 1.

        A document is a group of its own, no reward scored it (NaN), and none is `truncated`. The
        window is all documents, once each.

        Args:
            lengths: tokens of each document that are predicted and counted; its first token and
                masked ones, such as a prompt's, are not, and have no column.
            max_length: `L_max`, in tokens; the longest document if not given.
            token_ids: the ids of these tokens; otherwise every token has its position as id.
            old_logps: their log-probabilities, nats, under the model that wrote the documents.
            dtype: of every floating-point field.

        Raises:
            ValueError: if there is no document, or one is longer than `max_length`.

        Example:
            >>> Rollouts.from_documents([2, 3]).advantages
            tensor([1., 1.])
        """
        longest = max(1, *lengths) if max_length is None else max_length
        if max(lengths, default=0) > longest:
            raise ValueError(
                f"a document has {max(lengths)} predicted tokens, expected at most "
                f"max_length={max_length}; truncate it, or raise max_length."
            )
        built = cls.from_lists(
            lengths, [None] * len(lengths), num_generations=1, max_completion_length=longest,
            advantages=[1.0] * len(lengths), completion_ids=token_ids, dtype=dtype,
        )  # fmt: skip
        built = replace(built, truncated=torch.zeros_like(built.truncated))
        if old_logps is None:
            return built
        logps = torch.zeros_like(built.mask, dtype=dtype)
        logps[built.mask] = torch.tensor([logp for own in old_logps for logp in own], dtype=dtype)
        return replace(built, old_logps=logps)

    # ---- changing the layout, never the content -----------------------------------------------

    def rows(self, index: Tensor) -> "Rollouts":
        """Take rows in the given order; the window is then made of these rows."""
        taken: dict[str, Any] = {name: value[index] for name, value in self._tensors().items()}
        if self.spans is not None:
            taken["spans"] = {name: tokens[index] for name, tokens in self.spans.items()}
        every = torch.arange(len(self.mask), device=index.device)[index].tolist()
        for name in ROWWISE:
            if (value := getattr(self, name)) is not None:
                taken[name] = tuple(value[row] for row in every)
        return replace(self, **taken)

    def padded(self, columns: int) -> "Rollouts":
        """Pad on the right to `columns` tokens."""
        extra = columns - self.mask.shape[1]
        wide: dict[str, Any] = {
            name: pad(value, (0, extra), value=filler)
            for name, filler in PADDING.items()
            if (value := getattr(self, name)) is not None
        }
        if self.spans is not None:
            wide["spans"] = {name: pad(tokens, (0, extra)) for name, tokens in self.spans.items()}
        if self.states is not None:
            last = self.states[:, -1:].expand(-1, extra)
            wide["states"] = torch.cat([self.states, last], dim=1)
        for name in OF_PREFIXES:
            if (value := getattr(self, name)) is not None:
                wide[name] = pad(value, (0, extra), value=torch.nan)
        if self.offsets is not None:
            wide["offsets"] = pad(self.offsets, (0, 0, 0, extra))
        return replace(self, **wide)

    @classmethod
    def cat(cls, parts: Sequence["Rollouts"]) -> "Rollouts":
        """Join rollouts of several generation batches; groups stay apart.

        An optional field that one of them lacks is left out.
        """
        if len(parts) == 1:
            return parts[0]
        columns = max(part.mask.shape[1] for part in parts)
        shifted, group, generation = [], 0, 0
        for part in parts:
            own = {"group": part.group + group, "generation": part.generation + generation}
            shifted.append(replace(part.padded(columns), **own))
            group, generation = (int(numbers.max()) + 1 for numbers in own.values())
        tensors = [part._tensors() for part in shifted]
        joined: dict[str, Any] = {
            name: torch.cat([t[name] for t in tensors]) if all(name in t for t in tensors) else None
            for name in tensors[0]
        }
        joined["spans"] = _cat_spans(shifted)
        for name in ROWWISE:
            every = [getattr(part, name) for part in shifted]
            joined[name] = None if None in every else tuple(v for values in every for v in values)
        return replace(shifted[0], **joined)


def _cat_spans(parts: Sequence[Rollouts]) -> dict[str, Tensor] | None:
    """Join spans; a generation batch in which a reward named nothing lacks the name."""
    every = [part.spans for part in parts if part.spans is not None]
    if len(every) < len(parts):
        return None
    names = dict.fromkeys(name for spans in every for name in spans)
    none = [torch.zeros_like(part.mask) for part in parts]
    return {
        name: torch.cat([spans.get(name, n) for spans, n in zip(every, none, strict=True)])
        for name in names
    }
