"""A few groups from the real model, drawn by the trainer that will train it; nothing is trained.

What TRL does in a training step until the loss is done here by the same methods: tokenizing,
generation, tools and environments, reward calls, advantages. Afterwards the trainer, its logs, the
order of the data and the random states are as they were. Not restored: what rewards and
environments keep for themselves, and vLLM's own random state.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.errors import CreditError
from grpo_credit.preflight.batches import Batches
from grpo_credit.preflight.columns import spread
from grpo_credit.preflight.engine import differences
from grpo_credit.preflight.sample import Relief, RewardSample, Sample
from grpo_credit.preflight.tool_use import ToolUse, joined
from grpo_credit.preflight.variants import SPECIAL, relieve
from grpo_credit.preflight.watch import Watched, watch
from grpo_credit.rewards import completion_text
from grpo_credit.trainer.probing import can_probe, probe
from grpo_credit.trainer.undisturbed import untouched

if TYPE_CHECKING:
    from grpo_credit.trainer.seams import Seams

WANTED = 128  # completions, where two generation batches hold as many
PER_PROMPT = (16, 8, 4, 2)  # completions of a prompt; the first that leaves enough prompts
PROMPTS = 4  # that there should be at least


class Draw(NamedTuple):
    """How many completions are drawn: `rows` on each rank in a call, `size` of each prompt."""

    calls: int
    rows: int
    ranks: int
    size: int

    @property
    def prompts(self) -> int:
        """Different prompts."""
        return self.calls * self.rows * self.ranks // self.size

    @property
    def unit(self) -> int:
        """Completions of one prompt that lie on one rank together."""
        return math.gcd(self.size, self.rows)


def how_many(generated: int, ranks: int, group: int) -> Draw:
    """Choose how many completions to draw: 128, or as many as two generation batches hold.

    `group` (`num_generations`) are drawn of a prompt where no usual size divides the batch.

    Example:
        >>> how_many(64, 1, 8)
        Draw(calls=2, rows=64, ranks=1, size=16)
        >>> how_many(8, 2, 4)
        Draw(calls=2, rows=4, ranks=2, size=4)
    """
    batch = min(generated, max(WANTED, ranks))
    batch -= batch % ranks
    calls = 1 if batch >= WANTED else 2
    fitting = (n for n in PER_PROMPT if batch % n == 0 and batch * calls // n >= PROMPTS)
    return Draw(calls, batch // ranks, ranks, next(fitting, group if batch % group == 0 else batch))


@dataclass
class _Drawn:
    """What one rank has drawn so far."""

    lengths: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    special: list[bool] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)  # rendered
    first: str = ""  # of the completions, as text
    prompt_tokens: int = 0  # of the longest one
    scores: list[torch.Tensor] = field(default_factory=list)  # of all ranks
    uncertainty: list[np.ndarray] = field(default_factory=list)
    sketches: list[np.ndarray] = field(default_factory=list)
    tools: ToolUse | None = None


def draw(trainer: "Seams", clock: Callable[[], float] = time.perf_counter) -> Sample:
    """Sample groups as a training step does; call it on every rank, all of which get the sample.

    Args:
        trainer: a `CreditGRPOTrainer`, or a `GRPOTrainer`, before training.
        clock: tells the time in seconds.
    """
    args = trainer.args
    ranks = trainer.accelerator.num_processes
    how = how_many(args.generation_batch_size, ranks, args.num_generations)
    with untouched(trainer, training=True):  # TRL samples while training
        watched = [watch(reward, how.size, clock) for reward in trainer.reward_funcs]
        trainer.reward_funcs, trainer.num_generations = watched, how.size
        trainer.state.max_steps = Batches.of(args, trainer.train_dataset).steps  # rewards may ask
        vars(trainer)["save_every"] = 0  # no forward pass for rollouts that are not saved
        drawn, seconds = _Drawn(), 0.0
        _listen(trainer, drawn)
        for rows in _rows(trainer, how):
            start = clock()
            output = trainer._generate_and_score_completions(rows)
            seconds += clock() - start
            _look_inside(trainer, how, drawn, output)
        for reward in watched:
            seconds -= sum(call.seconds for call in getattr(reward, "calls", ()))
        sample = _joined(trainer, how, drawn, _reward_samples(trainer, watched, drawn), seconds)
        return replace(sample, apart=differences(trainer._metrics["train"]))


def _rows(trainer: "Seams", how: Draw) -> Iterator[list[dict[str, Any]]]:
    """Yield this rank's rows of each call: whole groups over all ranks, as TRL's sampler lays them.

    The prompts are spread over the data, or the first ones of a stream.
    """
    count = how.prompts
    prompts = spread(trainer.train_dataset, count)
    if not prompts:
        raise CreditError("the training data are empty; give a data set with prompts.")
    rows = [prompts[i % len(prompts)] for i in range(count) for _ in range(how.size)]
    for call in range(how.calls):
        first = (call * how.ranks + trainer.accelerator.process_index) * how.rows
        yield [dict(row) for row in rows[first : first + how.rows]]


def _listen(trainer: "Seams", drawn: _Drawn) -> None:
    """Keep what the trainer generates and what it is worth."""
    inner, generate = trainer._calculate_rewards, trainer._generate
    tokenizer = trainer._tokenizer
    ends = {*trainer.eos_token_ids, tokenizer.pad_token_id}
    limit = trainer.max_tool_calling_iterations
    if trainer.tools:
        drawn.tools = ToolUse([tool.__name__ for tool in trainer.tools])

    def generated(prompts: Any) -> Any:
        output = generate(prompts)
        if drawn.tools is not None and (turns := getattr(trainer, "_turns", None)) is not None:
            drawn.tools.took(turns.seconds)
        drawn.prompt_tokens = max(drawn.prompt_tokens, *map(len, output[0]))
        drawn.prompts += [tokenizer.decode(ids[-64:]) for ids in output[0]]
        return output

    def scored(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        drawn.first = drawn.first if drawn.lengths else _text(completions[0])
        drawn.lengths += [len(row) for row in ids]
        cut = [drawn.tools is not None and drawn.tools.see(c, limit) for c in completions]
        drawn.truncated += [c or row[-1] not in ends for c, row in zip(cut, ids, strict=True)]
        drawn.special += [bool(SPECIAL.search(_text(c))) for c in completions]
        drawn.scores.append(inner(inputs, prompts, completions, ids))
        return drawn.scores[-1]

    vars(trainer).update(_generate=generated, _calculate_rewards=scored)


def _look_inside(trainer: "Seams", how: Draw, drawn: _Drawn, output: dict[str, Any]) -> None:
    """Ask the policy how uncertain it was, and for gradients of `seq`, where that can be."""
    if not can_probe(trainer, output):
        return
    scores = drawn.scores[-1]
    totals = (scores * trainer.reward_weights.to(scores)).nansum(1)
    totals = totals.masked_fill(scores.isnan().all(1), torch.nan)
    group = torch.arange(len(totals), device=totals.device) // how.size
    advantages = group_advantages(totals, group, "none")
    first = trainer.accelerator.process_index * how.rows
    found = probe(trainer, output, advantages[first : first + how.rows], how.unit)
    drawn.uncertainty += found.uncertainty
    drawn.sketches += found.sketches


def _text(completion: Any) -> str:
    return completion_text(completion) if completion else ""


def _reward_samples(trainer: "Seams", watched: Sequence[Any], drawn: _Drawn) -> list[RewardSample]:
    """Return what the rewards did on this rank; the scores are of all ranks."""
    scores = torch.cat(drawn.scores).float().cpu().numpy()
    samples = []
    for k, (name, reward) in enumerate(zip(trainer.reward_func_names, watched, strict=True)):
        sample = RewardSample(name, float(trainer.reward_weights[k]), scores[:, k])
        if isinstance(reward, Watched):
            calls = [(len(call.completions), call.seconds) for call in reward.calls]
            relief = relieve(reward, drawn.prompts)
            sample = replace(
                sample, calls=calls, failures=reward.failures, slow=reward.slow, relief=relief
            )
        samples.append(sample)
    return samples


def _joined(
    trainer: "Seams", how: Draw, drawn: _Drawn, rewards: list[RewardSample], seconds: float
) -> Sample:
    """Gather the ranks' parts; a rank's rows of the calls are taken apart to lie in order."""
    columns = [drawn.lengths, drawn.truncated, drawn.special, drawn.uncertainty]
    found = (columns, rewards, seconds, drawn.first, drawn.sketches, drawn.prompt_tokens,
             drawn.tools)  # fmt: skip
    parts = gather_object([found])
    lengths, truncated, special, uncertainty = (_in_order(parts, how, k) for k in range(4))
    sketches = [sketch for part in parts for sketch in part[4]]
    return Sample(
        size=how.size,
        lengths=lengths,
        truncated=truncated,
        special=special,
        rewards=[_merged(of_ranks) for of_ranks in zip(*(part[1] for part in parts), strict=True)],
        longest=trainer.args.max_completion_length,
        group=trainer.args.num_generations,
        generated=trainer.args.generation_batch_size,
        seconds=max(part[2] for part in parts),
        at_once=how.calls * how.rows * how.ranks,
        first=parts[0][3],
        uncertainty=uncertainty,
        products=np.array([[a @ b for b in sketches] for a in sketches]),
        unit=how.unit,
        prompt_tokens=max(part[5] for part in parts),
        tools=joined(part[6] for part in parts),
    )


def _in_order(parts: Sequence[Any], how: Draw, column: int) -> list[Any]:
    rows = [slice(call * how.rows, (call + 1) * how.rows) for call in range(how.calls)]
    return [value for row in rows for part in parts for value in part[0][column][row]]


def _merged(of_ranks: Sequence[RewardSample]) -> RewardSample:
    """Add what a reward did on each rank, and keep the changes that helped."""
    relief: dict[str, Relief] = {}
    for kind, of_kind in (item for sample in of_ranks for item in sample.relief.items()):
        helped, tried = relief.get(kind, (0, 0))
        relief[kind] = Relief(helped + of_kind.helped, tried + of_kind.tried)
    return replace(
        of_ranks[0],
        calls=[call for sample in of_ranks for call in sample.calls],
        failures=[failure for sample in of_ranks for failure in sample.failures],
        slow=sum((sample.slow for sample in of_ranks), Counter()),
        relief={kind: of_kind for kind, of_kind in relief.items() if of_kind.helped},
    )
