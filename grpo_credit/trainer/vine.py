"""Values of prefixes: the policy goes on from cuts of its completions, and the rewards judge that.

After a generation batch, K continuations of each cut are drawn by TRL's own generation, scored by
the same reward functions and averaged. Nothing else is touched: neither the completions, their
rewards, what is logged of them, nor the random numbers that the next ones are drawn with.

Every rank takes an equal share of each round of prefixes, whichever rank's completions they are of,
so that all make the same calls.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from time import perf_counter
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object, set_seed
from jaxtyping import Float
from torch import Tensor
from trl import is_conversational
from trl.chat_template_utils import parse_response

from grpo_credit.credit import needs
from grpo_credit.credit.advantages import total_rewards
from grpo_credit.credit.cuts import Cuts
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import Strategy
from grpo_credit.errors import CreditError
from grpo_credit.trainer.completing import replaced, rows_at_once, seeded_vllm, seeds
from grpo_credit.trainer.options import CreditOptions
from grpo_credit.trainer.scoring import Scored
from grpo_credit.trainer.seams import Host
from grpo_credit.trainer.undisturbed import random_states_kept

# Options of transformers and vLLM that count from where a call begins: anew after a cut.
FROM_THE_START = (
    "min_new_tokens", "min_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip


@dataclass(frozen=True)
class Vine:
    """What is drawn beside the completions.

    Args:
        cuts: where completions are cut.
        continuations: of each cut, K.
        tokens: that a generation may draw at most, over all ranks.
    """

    cuts: Cuts
    continuations: int
    tokens: int

    @classmethod
    def of(cls, args: Any, strategy: Strategy) -> "Vine | None":
        """Read a configuration; None where no rule asks for values of prefixes.

        Raises:
            CreditError: if an option is out of range, or another one does not go with it.
        """
        if "prefix_values" not in strategy.needs:
            return None
        given = {name: getattr(args, name, getattr(CreditOptions, name))
                 for name in ("vine_cuts", "vine_continuations", "vine_tokens")}  # fmt: skip
        vine = cls(Cuts.parse(given["vine_cuts"]), *list(given.values())[1:])
        if vine.tokens < 1 or vine.continuations < 1:
            raise CreditError(
                f"vine_tokens is {vine.tokens} and vine_continuations {vine.continuations}, "
                f"expected 1 or more of both: {strategy.name!r} draws completions beside those "
                "that are trained on, and vine_tokens is what they may cost in a generation. The "
                "same tokens as a larger num_generations usually do more; 'loo' needs none."
            )
        if found := [n for n in FROM_THE_START if n in (args.generation_kwargs or {})]:
            raise CreditError(
                f"generation_kwargs has {found[0]!r}, which counts from where a call begins, so "
                f"anew after each cut: what {strategy.name!r} draws would not be what the policy "
                "does there. Drop it, or use 'loo'."
            )
        return vine


class Prefix(NamedTuple):
    """A prefix to go on from. In order, those that come first have seen nothing of later cuts.

    Args:
        cut: how many tokens it has.
        member: which of its group it is of.
        row: the completion, of all ranks.
    """

    cut: int
    member: int
    row: int


def estimated(
    host: Host, rollouts: Rollouts, scored: Scored, prompt_ids: Sequence[list[int]]
) -> Rollouts:
    """Return rollouts with `prefix_values`; those of an evaluation have none.

    Args:
        host: the trainer.
        rollouts: a generation batch of all ranks.
        scored: of this rank, as the rewards were given it.
        prompt_ids: of all ranks.
    """
    rows, columns = rollouts.mask.shape
    values = rollouts.rewards.new_full((rows, columns + 1), torch.nan)
    if host.model.training:
        needs.check_continued(host.plan.strategy, needs.IMAGES & {*scored.inputs[0]})
        since, vines = perf_counter(), Vines(host, rollouts, scored, prompt_ids)
        unlogged = {name: defaultdict(list) for name in ("_pending_extra_logs", "_pending_metrics")}
        with random_states_kept(), replaced(host, unlogged):
            found = vines.values()
        for prefix, value in found.items():
            values[prefix.row, prefix.cut] = value
        numbers = {"tokens": vines.spent, "cuts": len(found) / rows}
        for name, value in (numbers | {"time_s": perf_counter() - since}).items():
            host._metrics["train"][f"credit/vine_{name}"].append(value)
    return replace(rollouts, prefix_values=values)


class Vines:
    """The continuations of a generation batch, in rounds.

    Prefixes go in order of their length, in rounds of as many rows as the trainer generates at
    once, each row as long as the first one of the round may become. A round begins only if the
    longest that may come of it is within what is left; a prefix that is too dear is passed over.
    Whether a prefix is continued hangs on shorter prefixes alone, never on how its own completion
    goes on.

    Args:
        host: the trainer.
        rollouts: of all ranks.
        scored: of this rank.
        prompt_ids: of all ranks.
    """

    def __init__(
        self, host: Host, rollouts: Rollouts, scored: Scored, prompt_ids: Sequence[list[int]]
    ) -> None:
        self._host, self._rollouts = host, rollouts
        self._scored, self._prompt_ids = scored, prompt_ids
        self._vine: Vine = host.plan.vine
        self._ranks: int = host.accelerator.num_processes
        self._rank: int = host.accelerator.process_index
        self.spent = 0  # tokens, over all ranks

    def values(self) -> dict[Prefix, float]:
        """Return the mean reward after each prefix that was continued; NaN where all abstained."""
        return {
            prefix: float(torch.tensor(rewards).nanmean())
            for prefix, rewards in self._judged(self._drawn()).items()
        }

    def _prefixes(self) -> list[Prefix]:
        """List the cuts of all completions, the shortest prefixes first, then group by group."""
        tokenizer, size = self._host._tokenizer, self._host.num_generations
        places = self._vine.cuts.places(self._rollouts, lambda token: tokenizer.decode([token]))
        return sorted(Prefix(cut, row % size, row) for row, cut in places.nonzero().tolist())

    def _drawn(self) -> dict[Prefix, list[list[int]]]:
        """Return what was written: whole completions, K of each prefix that was continued."""
        queue, drawn = deque(self._prefixes()), {}
        [seed, *_] = gather_object([int(torch.randint(2**31, ()))])
        set_seed(seeds(seed, self._ranks)[self._rank])
        while queue:
            width = self._rollouts.max_completion_length - queue[0].cut
            dearest = width * self._vine.continuations * self._ranks
            left = (self._vine.tokens - self.spent) // dearest
            share = min(ceil(len(queue) / self._ranks), rows_at_once(self._host.args), left)
            taken = [queue.popleft() for _ in range(min(len(queue), max(1, share * self._ranks)))]
            if share:
                written = self._round(taken, width, share, seed + len(drawn) + 1)
                drawn |= dict(zip(taken, written, strict=True))
        return drawn

    def _round(
        self, taken: Sequence[Prefix], width: int, share: int, seed: int
    ) -> list[list[list[int]]]:
        """Continue prefixes, of which each rank takes its share; the last one fills the rest."""
        first, times = self._rank * share, self._vine.continuations
        own = [taken[min(first + n, len(taken) - 1)] for n in range(share)]
        asked = [self._prompt_ids[prefix.row] + self._start(prefix) for prefix in own]
        rows = share * self._ranks
        every = seeds(seed, times * rows)
        written = [self._continued(asked, width, every[k * rows :][:rows]) for k in range(times)]
        several = gather_object(list(zip(*written, strict=True)))  # of every rank, row by row
        self.spent += sum(len(ids) for of_row in several for ids in of_row)
        limit = self._rollouts.max_completion_length
        return [
            [(self._start(prefix) + list(ids))[:limit] for ids in of_row]
            for prefix, of_row in zip(taken, several, strict=False)
        ]

    def _start(self, prefix: Prefix) -> list[int]:
        return self._rollouts.completion_ids[prefix.row, : prefix.cut].tolist()

    def _continued(self, asked: list[list[int]], width: int, every: list[int]) -> Any:
        """Let TRL generate, up to `width` tokens after what is asked."""
        host: Any = self._host
        if host.use_vllm:
            owner, changes = host.vllm_generation, seeded_vllm(host, every)
            changes["max_completion_length"] = width
        else:
            owner, changes = host.generation_config, {"max_new_tokens": width}
        with replaced(owner, changes):
            return host._generate_single_turn(asked, None, {}, 1)[0]

    def _judged(self, drawn: dict[Prefix, list[list[int]]]) -> dict[Prefix, list[float]]:
        """Score what was written, each rank what is of its own rows, and all equally often."""
        rows = len(self._scored.ids)
        pairs = [(prefix, ids) for prefix, several in drawn.items() for ids in several]
        by_rank = [[p for p in pairs if p[0].row // rows == rank] for rank in range(self._ranks)]
        rewards: dict[Prefix, list[float]] = {prefix: [] for prefix in drawn}
        most = max(map(len, by_rank))
        for first in range(0, most, rows):
            parts = [own[first : first + rows] for own in by_rank]
            told = self._rewards(parts[self._rank], min(rows, most - first))
            for part, of_rank in zip(parts, told.view(self._ranks, -1).tolist(), strict=True):
                for (prefix, _), reward in zip(part, of_rank, strict=False):
                    rewards[prefix].append(reward)
        return rewards

    def _rewards(self, part: Sequence[tuple[Prefix, list[int]]], count: int) -> Float[Tensor, " n"]:
        """Score completions, and the first of this rank in place of those that are missing."""
        scored, missing = self._scored, count - len(part)
        source = [prefix.row % len(scored.ids) for prefix, _ in part] + [0] * missing
        written = [self._completion(prefix, ids) for prefix, ids in part]
        told = self._host._calculate_rewards(
            [scored.inputs[row] for row in source],
            [scored.prompts[row] for row in source],
            written + scored.completions[:1] * missing,
            [ids for _, ids in part] + scored.ids[:1] * missing,
        )
        return total_rewards(told, self._host.reward_weights)

    def _completion(self, prefix: Prefix, ids: list[int]) -> Any:
        """Decode token ids as TRL does: a text, or a message after a conversation."""
        tokenizer = self._host._tokenizer
        conversational = is_conversational({"prompt": self._scored.prompts[0]})
        parsers = (getattr(tokenizer, f"response_{kind}", None) for kind in ("template", "schema"))
        if conversational and any(parsers):
            return [parse_response(tokenizer, ids, prefix=self._prompt_ids[prefix.row])]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return [{"role": "assistant", "content": text}] if conversational else text
