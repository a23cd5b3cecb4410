"""`RolloutCollector`: what a credit strategy may see.

Whole groups over all ranks, before TRL shuffles and splits the batch; and of the policy, what the
strategy needs and nothing else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather, gather_object, pad_across_processes
from torch import Tensor
from transformers.utils import logging

from grpo_credit.batching.rows import Rows, counted
from grpo_credit.credit import needs
from grpo_credit.credit.advantages import total_rewards
from grpo_credit.credit.fields import PADDING
from grpo_credit.credit.rollouts import OPTIONAL, Rollouts
from grpo_credit.credit.turns import Turn, Turns
from grpo_credit.errors import CreditError
from grpo_credit.trainer import reward_annotations
from grpo_credit.trainer.answers import answer_logps
from grpo_credit.trainer.privileged import privileged_logps
from grpo_credit.trainer.reference import referring
from grpo_credit.trainer.scoring import Scored, images_of, scored_rows
from grpo_credit.trainer.seams import Host, SeamError, mode, piece
from grpo_credit.trainer.vine import estimated
from grpo_credit.trainer.window import Generation

logger = logging.get_logger(__name__)
strip_images_from_messages = piece("strip_images_from_messages")


class Generated(NamedTuple):
    """A generation batch of this rank as TRL returned it; the texts are of all ranks."""

    number: int
    output: dict[str, Any]
    prompts: list[Any]
    completions: list[Any]


# What a subclass may change in a generation batch.
RETURNED = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "advantages",
    "old_per_token_logps",
    "ref_per_token_logps",
)


class RolloutCollector:
    """Gathers the `Rollouts` of every generation batch.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.generations: dict[int, Generation] = {}  # what the window and TRL's buffer draw on
        self.generating = False  # whether TRL scores a generation batch, on every rank
        self._scored: Scored | None = None
        self._generated: Generated | None = None  # a batch that is not among them yet

    @property
    def named_rewards(self) -> list[tuple[str, Any]]:
        """The reward functions, each with its name."""
        return list(zip(self._host.reward_func_names, self._host.reward_funcs, strict=True))

    @property
    def _environments(self) -> list[tuple[str, Any]]:
        """One environment of each kind, which may give rewards of steps, with its name."""
        pools = getattr(self._host, "_environment_pool", {}).values()
        return [(type(pool[0]).__name__, pool[0]) for pool in pools]

    @property
    def _tells_steps(self) -> bool:
        every = (*self.named_rewards, *self._environments)
        return any(needs.tells(teller, "step_rewards") for _, teller in every)

    @property
    def weights(self) -> list[float]:
        """The weight of each reward function."""
        return self._host.reward_weights.tolist()

    def check(self) -> None:
        """Refuse rewards and data that do not tell what the strategy, or a reward, needs.

        Raises:
            CreditError: see `grpo_credit.credit.needs`.
        """
        plan, columns = self._host.plan, getattr(self._host.train_dataset, "column_names", None)
        if columns is not None:  # a stream does not know them before its first row
            given = ("prompts", "completions", "completion_ids", "trainer_state")  # by TRL
            needs.check_columns(self.named_rewards, [*columns, *given])
            needs.check_read(plan.strategy, plan.columns, columns)
            needs.check_continued(plan.strategy, needs.IMAGES & {*columns})
        rewards = [*self.named_rewards, *self._environments]
        weights = [*self.weights, *(1.0 for _ in self._environments)]
        needs.check_told(plan.strategy.name, plan.strategy.needs, rewards, weights)

    def rewarded(self, *scored: Any) -> Tensor:
        """Keep what TRL scored: inputs, prompts, completions, their ids, rewards; return those."""
        inputs, prompts, completions, ids, rewards = scored
        if self.generating:  # and not what is drawn beside the completions
            told = self._host._turns.tell(completions, prompts, ids)
            self._scored = Scored(inputs, prompts, completions, ids, rewards, told)
        return rewards

    def generate(self, generate: Callable[[Any], dict[str, Any]], inputs: Any) -> dict[str, Any]:
        """Let TRL generate and score a batch, and number its rows: they will be shuffled."""
        self.generating, self._scored = True, None
        try:
            with referring(self._host, self._host.plan.refers):
                output = generate(inputs)
        finally:
            self.generating = False
        host = self._host
        rows, device = len(output["advantages"]), host.accelerator.device
        everyone = rows * host.accelerator.num_processes
        self._check_scored(everyone)
        if host.plan.refers and "ref_per_token_logps" not in output:
            raise SeamError("ref_per_token_logps of _generate_and_score_completions")
        first = host.accelerator.process_index * rows
        number = max(self.generations, default=-1) + 1
        output["row"] = torch.arange(first, first + rows, device=device)
        output["generation"] = torch.tensor(number, device=device)
        # TRL's log holds all ranks, in this order
        texts = (list(host._logs[name])[-everyone:] for name in ("prompt", "completion"))
        self._generated = Generated(number, dict(output), *texts)
        if host.beta == 0.0:
            output.pop("ref_per_token_logps", None)  # the loss has no use for them
        return output

    def _check_scored(self, everyone: int) -> None:
        scored = self._scored
        if scored is None:
            if self._host.overrides("_calculate_rewards"):
                raise CreditError(
                    f"{type(self._host).__name__}._calculate_rewards does not call super(), which "
                    "keeps the rewards that credit is made of; call it."
                )
            raise SeamError("call of _calculate_rewards in _generate_and_score_completions")
        if len(scored.rewards) != everyone:
            raise SeamError("_calculate_rewards that returns the rewards of all ranks")

    @property
    def _batch(self) -> Scored:
        assert self._scored is not None  # see `_check_scored`
        return self._scored

    def gather(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Gather the batch that was generated for these inputs, if one was; return the inputs."""
        if self._generated is not None:  # and a subclass may have changed what it returned
            buffered = list(self._host._buffered_inputs or [])
            batches = buffered if self._host.model.training else [inputs]
            self._gather_generation(self._generated, batches)
            self._generated = None
        return inputs

    def _gather_generation(self, generated: Generated, batches: list[dict[str, Any]]) -> None:
        output = {**generated.output, **self._returned(generated.output, batches)}
        own = output["advantages"]
        advantages = gather(own if own.dim() == 1 else pad_across_processes(own, dim=1))
        prompts, completions = (
            [strip_images_from_messages(text) for text in column]
            for column in (generated.prompts, generated.completions)
        )
        rollouts = self._gather_rollouts(output, advantages)
        self._say_another_count(int(rollouts.mask.sum()), batches[0])
        found = Generation(
            rollouts,
            advantages if advantages.dim() == 2 else advantages[:, None],
            prompts,
            completions,
            self._gather_prompt_ids(output) if self._saving else [],
        )
        self.generations = {**self.generations, generated.number: found}

    def _say_another_count(self, tokens: int, batch: dict[str, Any]) -> None:
        """Say where a subclass masks tokens that TRL's denominator would still count."""
        aggregation = self._host.plan.strategy.aggregation
        if not self._host.overrides("_generate_and_score_completions") or not aggregation:
            return
        items = int(batch.get("num_items_in_batch", tokens))
        if aggregation.name == "dapo" and tokens != items:
            logger.warning_once(
                f"{type(self._host).__name__}._generate_and_score_completions leaves {tokens} "
                f"tokens to train on, and num_items_in_batch at {items}: TRL would divide by the "
                "latter, credit 'dapo' divides by the tokens that are trained on."
            )

    def _returned(self, output: dict[str, Any], batches: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Put what `_generate_and_score_completions` returned, of a subclass too, in order of rows.

        Rows that a subclass left out are as if masked as a whole; no optimizer step uses them.
        """
        method = f"{type(self._host).__name__}._generate_and_score_completions"
        if any("row" not in batch for batch in batches):
            raise CreditError(
                f"{method} returned no 'row', which says whose rewards a completion has; return "
                "what super() returned, with the entries that you change."
            )
        row = torch.cat([batch["row"] for batch in batches]) - int(output["row"][0])
        rows, twice, found = len(output["row"]), len(row.unique()) < len(row), {}
        for name in RETURNED:
            if (value := batches[0].get(name)) is None:
                continue
            value = torch.cat([batch[name] for batch in batches])
            found[name] = value.new_zeros(rows, *value.shape[1:]).index_put((row,), value)
            if twice and not _alike(found[name][row], value):
                raise CreditError(
                    f"{method} returned a completion twice, with unlike {name!r}; credit is one "
                    "row per completion."
                )
        return found

    def _gather_rollouts(self, output: dict[str, Any], advantages: Tensor) -> Rollouts:
        scored, device = self._batch, self._host.accelerator.device
        rewards_per_func = scored.rewards
        ends = {*self._host.eos_token_ids, self._host._tokenizer.pad_token_id}
        dropped = scored.told.dropped if scored.told else [False] * len(scored.ids)
        truncated = [
            bool(ids) and (ids[-1] not in ends or over)
            for ids, over in zip(scored.ids, dropped, strict=True)
        ]
        rewards = total_rewards(rewards_per_func, self._host.reward_weights)
        columns = {"completion_ids": output["completion_ids"], "mask": counted(output)}
        gathered = {
            name: gather(pad_across_processes(value, dim=1, pad_index=PADDING.get(name, torch.nan)))
            for name, value in (columns | self._forward(output)).items()
        }
        generations: Any = (
            self._host.num_generations
            if self._host.model.training
            else self._host.num_generations_eval
        )
        mask = gathered.pop("mask").bool()
        if advantages.dim() == 2:
            advantages = (advantages * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        rollouts = Rollouts(
            mask=mask,
            **gathered,
            **self._annotations(output),
            turns=self._turns(),
            advantages=advantages,
            rewards=rewards,
            rewards_per_func=rewards_per_func,
            reward_names=tuple(self._host.reward_func_names),
            reward_weights=tuple(self.weights),
            group=torch.arange(len(rewards), device=rewards.device) // generations,
            truncated=gather(torch.tensor(truncated, device=device).long()).bool(),
            max_completion_length=self._host.args.max_completion_length,
            scale_rewards=self._host.scale_rewards,
        )
        if "prefix_values" not in self.needs:
            return rollouts
        return estimated(self._host, rollouts, scored, self._gather_prompt_ids(output))

    def _turns(self) -> Turns | None:
        turns = self._own_turns()
        return None if turns is None else tuple(map(tuple, gather_object(turns)))

    def _own_turns(self) -> list[list[Turn]] | None:
        """Return the turns of this rank's completions, if there are any or a strategy asks."""
        scored = self._batch
        if scored.told is not None or "turns" not in self._host.plan.strategy.needs:
            return None if scored.told is None else scored.told.turns
        return [[Turn(0, len(ids), 0, "answer")] if ids else [] for ids in scored.ids]

    @property
    def _saving(self) -> bool:
        """Whether rollouts generated now are of an optimizer step that is to be saved."""
        if not self._host.save_every or not self._host.model.training:
            return False
        batches = self._host.args.steps_per_generation * self._host.num_iterations
        whole, rest = divmod(batches, self._host.args.gradient_accumulation_steps)
        steps = whole + 2 * (rest > 0)  # one that is cut off at each end
        first = self._host.state.global_step + 1
        return (first + steps - 1) // self._host.save_every > (first - 1) // self._host.save_every

    @property
    def needs(self) -> frozenset[str]:
        """What rollouts generated now must hold beyond the fields that are always there."""
        plan = self._host.plan
        own = plan.strategy.needs | (plan.vine.cuts.needs if plan.vine else frozenset())
        if "turns" in own and self._tells_steps:
            own |= {"step_rewards"}  # which belong to turns
        kept = (
            frozenset(OPTIONAL)
            - (needs.OF_A_TRAINER - ({"ref_logps"} if plan.refers else set()))
            - (needs.SETTLED if self._host.tools else set())
        )
        return own | kept if self._saving else own

    def _gather_prompt_ids(self, output: dict[str, Any]) -> list[list[int]]:
        rows = zip(output["prompt_ids"], output["prompt_mask"], strict=True)
        return gather_object([ids[mask.bool()].tolist() for ids, mask in rows])

    def _annotations(self, output: dict[str, Any]) -> dict[str, Any]:
        """Ask the rewards where in the text they were earned, if the strategy wants to know."""
        if not self.needs & reward_annotations.NEEDS:
            return {}
        scored, host = self._batch, self._host
        names = [name for name in scored.inputs[0] if name not in ("prompt", "completion")]
        columns: dict[str, Any] = {
            "prompts": scored.prompts, "completion_ids": scored.ids, "trainer_state": host.state,
            "log_metric": host._log_metric, "log_extra": host._log_completion_extra,
        }  # fmt: skip
        columns |= {} if host.environments is None else {"environments": host.environments}
        columns |= {name: [row.get(name) for row in scored.inputs] for name in names}
        annotations = reward_annotations.Annotations(
            self.named_rewards,
            self.weights,
            scored.completions,
            scored.ids,
            output["completion_ids"].size(1),
            host._tokenizer,
            columns,
            scored.told,
        )
        return annotations.find(self.needs, host.accelerator.device)

    def _forward(self, output: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the per-token fields that the strategy needs of the policy, and no others."""
        wanted = self.needs & {"old_logps", "entropies", "sum_sq_probs"}
        found: dict[str, Any] = {"old_logps": output.get("old_per_token_logps")}
        if any(found.get(name) is None for name in wanted):
            found = self._score(output, output["prompt_ids"], output["prompt_mask"])
        if "ref_logps" in self.needs:
            wanted, found["ref_logps"] = wanted | {"ref_logps"}, output["ref_per_token_logps"]
        there = output["completion_mask"] != 0
        found = {  # every rank gathers in this order
            name: torch.where(there, found[name], PADDING[name]) for name in sorted(wanted)
        }
        if "privileged_logps" in self.needs:
            found["privileged_logps"] = privileged_logps(
                self._host, output, self._batch, self._score
            )
        if "answer_logps" in self.needs:
            found["answer_logps"] = answer_logps(
                self._host, output, self._batch, self._own_turns() or [], self._score
            )
        return found

    @torch.no_grad()
    def _score(
        self, output: dict[str, Any], prompt_ids: Tensor, prompt_mask: Tensor
    ) -> dict[str, Tensor]:
        host, images = self._host, images_of(output)

        def score(rows: Rows, batch_size: int | None = None) -> tuple[Tensor | None, ...]:
            return scored_rows(host, rows, batch_size, images)

        completions = {name: output[name] for name in ("completion_ids", "completion_mask")}
        rows = {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask, **completions}
        batch_size: int = getattr(host.args, f"per_device_{mode(host)}_batch_size")
        told = host._engine.in_passes(score, rows, batch_size, plain=not images)
        found = dict(zip(("old_logps", "entropies", "sum_sq_probs"), told, strict=True))
        return {name: value for name, value in found.items() if value is not None}


def _alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, NaN included."""
    return bool(((a == b) | ((a != a) & (b != b))).all())
