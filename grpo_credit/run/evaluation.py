"""How good the policy is on held-out prompts, judged by a checker that is not the reward."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments
from transformers.utils import logging

from grpo_credit.records.files import ANSWERS, read_lines
from grpo_credit.records.jsonfile import append_line
from grpo_credit.records.ranks import is_main, on_main
from grpo_credit.trainer.playing import Judge, last_text, play, plays
from grpo_credit.trainer.sft_loss import documents_of
from grpo_credit.trainer.undisturbed import in_mode, random_states_kept

logger = logging.get_logger(__name__)

RIGHT = "right"  # what a checker calls the verdict that pass@1, mean@k and pass@k count
LENGTHS = {"characters, right": 1, "characters, wrong": 0}  # of samples with that verdict
Checker = Callable[[str, Mapping[str, Any]], Mapping[str, float]]


class Completes(Protocol):
    """What a trainer must offer; `CreditGRPOTrainer` does."""

    def complete(self, prompts: list[Any], *, greedy: bool = False, seed: int = 0) -> list[str]:
        """Complete prompts."""
        ...


def measure(
    trainer: Completes,
    rows: Sequence[Mapping[str, Any]],
    checker: Checker,
    samples: int = 4,
    keep: Callable[[list[dict[str, Any]]], None] | None = None,
) -> dict[str, float]:
    """Average what a checker says over greedy and over sampled completions.

    Training goes on as if nothing had been measured. Two strategies are tested by the same draws,
    but with a vLLM server (`grpo_credit.trainer.completing.draws`). Call it on every rank; the
    checker runs on the main process alone, and the rows, with a "prompt" each, hold whatever it
    reads. There `keep` is given the greedy completions: "prompt", "completion", "right".

    Returns:
        For a checker's "right" (0 or 1): "pass@1", of the greedy completion; "mean@k", the mean
        over k samples; "pass@k", the share of prompts with at least one right sample; and mean
        "characters, right" and "characters, wrong" of the samples, without the one that has none.
        For every other name "<name> (greedy)" and "<name> (sampled)", means over the completions of
        which the checker says it. The same on every rank.

    Raises:
        Exception: what the checker raised, on every rank.
    """
    if plays(trainer):  # an environment reads more of a row than its prompt
        greedy = play(trainer, rows, last_text, greedy=True)
        sampled = play(trainer, list(rows) * samples, last_text)
    else:
        prompts = [row["prompt"] for row in rows]
        greedy = trainer.complete(prompts, greedy=True)
        sampled = trainer.complete(prompts * samples)
    return on_main(_judge, checker, rows, greedy, sampled, keep)


def measure_dialogues(
    trainer: Any,
    rows: Sequence[Mapping[str, Any]],
    judge: Judge[Mapping[str, float]],
    samples: int = 4,
) -> dict[str, float]:
    """Average what a judge says of greedy and of sampled dialogues; see `play`.

    Returns:
        The numbers of `measure`, without characters: a dialogue is more than one text.
    """
    greedy = play(trainer, rows, judge, greedy=True)
    sampled = play(trainer, list(rows) * samples, judge)
    rates = _right(greedy, sampled, [""] * len(sampled), samples)
    means = _means(greedy, "greedy") | _means(sampled, "sampled")
    return {name: value for name, value in rates.items() if name not in LENGTHS} | means


def measure_documents(trainer: Any) -> dict[str, float]:
    """Average the loss of the trainer's held-out documents over tokens, and over documents.

    Every rank goes through all of them, so that a model may be sharded. Random states are kept.

    Returns:
        "nats per token" and "nats per document" of predicted tokens; the same on every rank.
    """
    size, rows = trainer.args.per_device_eval_batch_size, list(trainer.eval_dataset)
    model, sums = trainer.model_wrapped, torch.zeros(3, dtype=torch.float64)
    with random_states_kept(), in_mode(model, training=False), torch.no_grad():
        for first in range(0, len(rows), size):
            batch = trainer._prepare_inputs(trainer.data_collator(rows[first : first + size]))
            sums += _nats(trainer, model, batch)
    nats, tokens, documents = sums.tolist()
    return {"nats per token": nats / max(1, tokens), "nats per document": nats / max(1, documents)}


def _nats(trainer: Any, model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the loss of a batch, its predicted tokens and its documents."""
    predicted, documents = documents_of(batch)
    targets = batch["labels"][:, 1:][predicted]
    with trainer.compute_loss_context_manager():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    loss = cross_entropy(logits[:, :-1][predicted].float(), targets, reduction="sum")
    return torch.tensor([float(loss), len(targets), len(documents)], dtype=torch.float64)


def _judge(
    checker: Checker,
    rows: Sequence[Mapping[str, Any]],
    greedy: list[str],
    sampled: list[str],
    keep: Callable[[list[dict[str, Any]]], None] | None,
) -> dict[str, float]:
    """Average the verdicts; the k-th completion of each row follows the (k - 1)-th of all rows."""
    samples = len(sampled) // len(rows)
    alone = [checker(text, row) for text, row in zip(greedy, rows, strict=True)]
    several = [checker(t, row) for t, row in zip(sampled, list(rows) * samples, strict=True)]
    if keep is not None:
        keep([
            {"prompt": row["prompt"], "completion": text, RIGHT: verdict.get(RIGHT)}
            for row, text, verdict in zip(rows, greedy, alone, strict=True)
        ])  # fmt: skip
    return {
        **_right(alone, several, sampled, samples),
        **_means(alone, "greedy"),
        **_means(several, "sampled"),
    }


def measured(verdict: Mapping[str, float], samples: int) -> list[str]:
    """List the names that `measure` may return for a checker, by one of its verdicts.

    Those of the right answers' lengths are missing there where no completion has one.

    Example:
        >>> measured({"form": 0.0}, 4)
        ['form (greedy)', 'form (sampled)']
    """
    rates = ["pass@1", f"mean@{samples}", f"pass@{samples}", *LENGTHS] if RIGHT in verdict else []
    others = [name for name in verdict if name != RIGHT]
    return rates + [f"{name} ({how})" for how in ("greedy", "sampled") for name in others]


def _right(
    alone: list[Mapping[str, float]],
    several: list[Mapping[str, float]],
    texts: list[str],
    samples: int,
) -> dict[str, float]:
    if not alone or RIGHT not in alone[0]:
        return {}
    right = [verdict[RIGHT] for verdict in several]
    by_prompt = [right[first :: len(alone)] for first in range(len(alone))]
    rates = {
        "pass@1": fmean(verdict[RIGHT] for verdict in alone),
        f"mean@{samples}": fmean(right),
        f"pass@{samples}": fmean(max(of_prompt) for of_prompt in by_prompt),
    }
    lengths = {
        name: [len(t) for t, r in zip(texts, right, strict=True) if r == value]
        for name, value in LENGTHS.items()
    }
    return rates | {name: fmean(values) for name, values in lengths.items() if values}


def _means(verdicts: list[Mapping[str, float]], how: str) -> dict[str, float]:
    names = dict.fromkeys(name for verdict in verdicts for name in verdict if name != RIGHT)
    return {f"{name} ({how})": fmean(v[name] for v in verdicts if name in v) for name in names}


@dataclass(eq=False)
class HeldOut(TrainerCallback):
    """Measure before training, every N optimizer steps, and at the end; keep it in a file.

    A line of the file is {"step", ...what `measure` returns}, and one of answers.jsonl beside it
    {"step", "prompt", "completion", "right"} of a greedy completion. What a resumed run measured
    already is read from there. An evaluation of the trainer (`eval_strategy`) gets the numbers too,
    as "eval_<name>", so that `metric_for_best_model` may name one. It warns, once, if the reward
    rises while the metric falls; a resumed run remembers the rewards of earlier attempts.

    Args:
        path: the file; made when it is not there, never truncated.
        rows: held-out rows.
        checker: judges completions.
        metric: the number that matters, a share of completions or prompts.
        samples: completions per prompt when sampling.
        every: optimizer steps between measurements; 0 for before and after only.
        trainer: set once there is one.
        measures: returns the numbers of a trainer, in place of `measure`.
    """

    path: Path
    rows: Sequence[Mapping[str, Any]]
    checker: Checker
    metric: str
    samples: int = 4
    every: int = 0
    trainer: Any = None
    measures: Callable[[Any], dict[str, float]] | None = None
    _warned: bool = False

    def known(self, step: int) -> dict[str, float]:
        """Return what was measured at an optimizer step; nothing if it was not."""
        lines = on_main(read_lines, self.path)
        return next((line for line in lines if line.pop("step") == step), {})

    def at(self, step: int) -> dict[str, float]:
        """Return what was measured at an optimizer step, measuring now if it was not yet."""
        if not self.rows and self.measures is None:
            return {}
        if numbers := self.known(step):
            return numbers
        if is_main():
            print(f"step {step}: held-out test", flush=True)
        if self.measures is None:
            keep = partial(self._keep, step)
            numbers = measure(self.trainer, self.rows, self.checker, self.samples, keep)
        else:
            with in_mode(self.trainer.model, training=False):
                numbers = self.measures(self.trainer)
        if is_main():
            append_line(self.path, {"step": step, **numbers})
            self._warn(read_lines(self.path))
        return numbers

    def _keep(self, step: int, answers: list[dict[str, Any]]) -> None:
        for answer in answers:
            append_line(self.path.with_name(ANSWERS), {"step": step, **answer})

    def _warn(self, lines: Sequence[Mapping[str, float]]) -> None:
        values = {int(line["step"]): line[self.metric] for line in lines if self.metric in line}
        logged = self.trainer.state.log_history  # a checkpoint keeps it
        rewards = {log["step"]: log["reward"] for log in logged if log.get("reward") is not None}
        warning = falls_while_reward_rises(values, rewards, self.metric, len(self.rows))
        if warning and not self._warned:
            self._warned = True
            logger.warning(warning)

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Measure before the first step, where a sharded model is put together already."""
        if state.global_step == 0:
            self.at(0)

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Measure, if it is this step's turn."""
        if self.every and state.global_step % self.every == 0:
            self.at(state.global_step)

    def on_evaluate(
        self, args: Arguments, state: State, control: Control, metrics: Any = None, **_: Any
    ) -> None:
        """Add the held-out numbers to the trainer's own, which choose the best checkpoint."""
        if metrics is not None:
            metrics |= {f"eval_{name}": v for name, v in self.at(state.global_step).items()}


def falls_while_reward_rises(
    values: Mapping[int, float], rewards: Mapping[int, float], metric: str, prompts: int
) -> str | None:
    """Return a warning if the last value of a metric fell below its best while the reward rose.

    A fall counts from two standard errors of a share over n = `prompts`: 2 √(v (1 − v) / n), with
    v the best value. The reward's rise is that of its mean over the logged steps since the best
    value, against the mean over as many up to it. `values` and `rewards` are by optimizer step.
    """
    if len(values) < 2 or not rewards:
        return None
    now = max(values)
    best = max(values, key=lambda step: (values[step], step))
    fall = values[best] - values[now]
    if fall <= 2 * (values[best] * (1 - values[best]) / max(1, prompts)) ** 0.5:
        return None
    since = [reward for step, reward in sorted(rewards.items()) if best < step <= now]
    before = [reward for step, reward in sorted(rewards.items()) if step <= best]
    before = before[-len(since) :] or since[:1]
    if not since or fmean(since) <= fmean(before):
        return None
    return (
        f"the reward rises ({fmean(before):.3f} to {fmean(since):.3f}) while the held-out "
        f"{metric!r} falls: {values[best]:.3f} at step {best}, {values[now]:.3f} at step {now}. "
        "The model learns what the reward sees and not what you want; look at completions/, and "
        "see metric_for_best_model to keep the best checkpoint."
    )
