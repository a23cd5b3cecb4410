"""The rows of a plan: what each part of a configuration comes to, in words."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grpo_credit.credit.needs import OF_A_TRAINER
from grpo_credit.preflight.batches import Batches
from grpo_credit.preflight.memory import Engine, Memory, ModelSize
from grpo_credit.text import size_of

if TYPE_CHECKING:
    from grpo_credit.trainer.config import Plan
    from grpo_credit.trainer.vine import Vine

_FORWARD = frozenset({"old_logps", "entropies", "sum_sq_probs", "privileged_logps"})
Row = tuple[str, str]
PromptTokens = tuple[float, int, int] | None  # mean, maximum and number of those counted


def batch_rows(b: Batches, prompt_tokens: PromptTokens) -> Iterator[Row]:
    """Say what a step and a generation are made of, and how many of them there are."""
    yield (
        "optimizer step",
        f"{b.completions:,} completions of {number(b.completions / b.group)} prompts x {b.group} "
        f"(per device {b.micro} x accumulation {b.accumulation} x processes {b.ranks})",
    )
    yield (
        "generation",
        f"{b.generated:,} completions of {b.generated_prompts} prompts at once (per device "
        f"{b.micro} x steps_per_generation {b.slices} x processes {b.ranks})",
    )
    yield "", _window(b)
    yield "policy", _policy(b)
    epochs = "a stream" if b.epochs is None else f"{number(b.epochs)} epochs"
    data = "" if b.prompts is None else f" of {b.prompts:,} prompts"
    yield "optimizer steps", f"{b.steps:,} ({epochs}{data}), {b.generations:,} generations"
    yield (
        "tokens",
        f"of completions: at most {b.step_tokens:,} a step, {b.all_tokens:,} generated in all "
        f"(max_completion_length {b.longest}){_prompts(prompt_tokens)}",
    )


def _window(b: Batches) -> str:
    if b.uses == b.accumulation:
        return "one generation is one optimizer step"
    if b.uses > b.accumulation:
        return f"one generation serves {number(b.uses / b.accumulation)} optimizer steps"
    return f"one optimizer step joins {number(b.accumulation / b.uses)} generations"


def _policy(b: Batches) -> str:
    if b.on_policy:
        again = f", each completion {b.passes} times" if b.passes > 1 else ""
        return f"on-policy: a step trains on what its own policy sampled{again}"
    return (
        f"off-policy by up to {b.lag} steps (num_iterations {b.passes}, steps_per_generation "
        f"{b.slices}, accumulation {b.accumulation}): the ratio and its clipping matter"
    )


def _prompts(tokens: PromptTokens) -> str:
    if tokens is None:
        return ""
    mean, longest, count = tokens
    return f"; of a prompt: {mean:.0f} on average, {longest} at most ({count} looked at)"


def model_rows(
    size: ModelSize | None, memory: Memory | None, available: int | None
) -> Iterator[Row]:
    """Say what is trained and what memory that takes, of the `available` bytes of a device."""
    if size is None or memory is None:
        yield "parameters", "of the recipe's own tiny model, which is made when training starts"
        return
    share = f"{size.trained / size.parameters:.2%}"
    what = f"an adapter's, {share} of {size.parameters:,}" if size.adapter else "all"
    yield "parameters trained", f"{size.trained:,} ({what})"
    unknown = "unknown" if memory.optimizer is None else size_of(memory.optimizer)
    counted = f"weights {size_of(memory.weights)}, gradients {size_of(memory.gradients)}, "
    counted += f"optimizer {unknown}"
    counted += f", reference model {size_of(memory.reference)}" if memory.reference else ""
    yield "memory per process", f"counted: {counted}"
    has = "" if available is None else f" of the device's {size_of(available)}"
    yield (
        "",
        f"estimated: activations {size_of(memory.activations)} in a micro-batch, cache "
        f"{size_of(memory.cache)} while generating; {size_of(memory.peak)}{has} at the peak, "
        "fragmentation and CUDA's own memory not included",
    )


def engine_rows(engine: Engine | None, available: int | None, longest: int) -> Iterator[Row]:
    """Say what vLLM takes of a device of `available` bytes, and what it leaves to training.

    Args:
        engine: what it holds; None without one in this process.
        available: bytes of the device, None where it is not seen from here.
        longest: tokens of the longest prompt with its completion.
    """
    if engine is None:
        return
    fixed = f"weights {size_of(engine.weights)}, keys and values {size_of(engine.token)} a token"
    if available is None:
        yield "vLLM", f"takes {engine.share:.0%} of each device: {fixed}"
        yield "", f"{1 - engine.share:.0%} of the device is left to training"
        return
    tokens = engine.tokens(available)
    yield "vLLM", f"takes {size_of(engine.share * available)} of each device: {fixed}"
    yield (
        "",
        f"room for {tokens:,} tokens, {tokens / longest:.1f} completions at full length at once; "
        f"{size_of((1 - engine.share) * available)} are left to training",
    )


def credit_rows(credit: "Plan", rewards: Sequence[str], saves: bool) -> Iterator[Row]:
    """Say how rewards become credit, and what that costs, with rollouts that are saved or not."""
    yield from rule_rows(credit)
    yield "rewards", ", ".join(rewards)
    yield "credit needs", _needs(credit.strategy.needs, saves)


def vine_rows(vine: "Vine | None", b: Batches) -> Iterator[Row]:
    """Say what continuations may cost, and what the same tokens would be as completions."""
    if vine is None:
        return
    completions = b.generated * b.longest
    yield (
        "continuations",
        f"{vine.continuations} of each cut ({vine.cuts}): at most {vine.tokens:,} tokens of each "
        f"generation, beside {completions:,} of its completions at most "
        f"(x{1 + vine.tokens / completions:.3g})",
    )
    larger = b.group + vine.tokens / (b.generated_prompts * b.longest)
    yield (
        "",
        f"the same tokens as completions: num_generations={number(larger)} for {b.group}, which "
        "has less variance unless continuations are nearly free (docs/vine.md)",
    )


def rule_rows(planned: Any) -> Iterator[Row]:
    """Say what the credit is made of."""
    yield "credit", str(planned)
    for rule in planned.strategy.rules:
        yield "", f"{rule.kind} {rule.name}: {rule.formula or rule.summary}"


def document_rows(args: Any, documents: int | None) -> Iterator[Row]:
    """Say what a step of supervised training is made of, and how many steps there are."""
    micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    rows = micro * accumulation * args.world_size
    what = "packed rows" if args.packing else "documents"
    yield (
        "optimizer step",
        f"{rows:,} {what} (per device {micro} x accumulation {accumulation} x processes "
        f"{args.world_size})",
    )
    if args.max_steps > 0:
        yield "optimizer steps", f"{args.max_steps:,}"
    elif documents is not None and not args.packing:
        steps = math.ceil(math.ceil(documents / rows) * args.num_train_epochs)
        yield "optimizer steps", f"{steps:,} ({number(args.num_train_epochs)} epochs)"
    yield "documents", "a stream" if documents is None else f"{documents:,}"
    longest = "as they are" if args.max_length is None else f"cut at {args.max_length:,} tokens"
    yield "", longest


def _needs(needs: frozenset[str], saves: bool) -> str:
    from_rewards = sorted(needs - _FORWARD - OF_A_TRAINER - {"turns"})
    forward = sorted(needs & _FORWARD)
    parts = [f"{', '.join(from_rewards)}, told by the rewards"] if from_rewards else []
    if forward:
        parts.append(
            f"{', '.join(forward)}: a forward pass over each generation"
            + (" (two: one after the privileged prompts)" if len(forward) > 1
               and "privileged_logps" in forward else "")
        )  # fmt: skip
    if "ref_logps" in needs:
        parts.append("ref_logps: a forward pass of the reference model over each generation")
    if "prefix_values" in needs:
        parts.append("prefix_values: continuations and their rewards")
    if "answer_logps" in needs:
        parts.append("answer_logps: a forward pass for each turn")
    if "turns" in needs:
        parts.append("turns, by TRL's own loop")
    if saves:
        parts.append("a forward pass more in steps whose rollouts are saved")
    return "; ".join(parts) or "nothing beyond rewards and masks"


def number(value: float) -> str:
    """Write a count without needless digits.

    Example:
        >>> [number(v) for v in (8.0, 0.5, 1234.5678)]
        ['8', '0.5', '1,235']
    """
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.3g}"
