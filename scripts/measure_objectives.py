#!/usr/bin/env python3
"""Measure which objectives learn the choice in path-star graphs, on one core.

    OMP_NUM_THREADS=1 python scripts/measure_objectives.py
    OMP_NUM_THREADS=1 python scripts/measure_objectives.py --objectives teacherless --credit seq

Each row is a tiny model trained from scratch, asked for the paths of 1,000 held-out graphs:

* choice: the token that decides which arm is taken is right; a guess is right 1 time in --degree;
* path: the whole answer is right, end token included; both when it writes token after token,
  greedily (of `reversed`: from the goal on);
* blind: the choice is right when it is named from the prompt alone, by the best of all heads at the
  last two words of the prompt and at the dummies.

CPU s is the process time of the training, drawing graphs included. With --credit what is data is
trained by `CreditSFTTrainer`: next_token, teacherless, hybrid and reversed.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback

from grpo_credit import CreditSFTConfig, CreditSFTTrainer
from grpo_credit.tiny.heads import Headed
from grpo_credit.tiny.objective_model import STEPS, dummy_of, encoded, lesson, settings
from grpo_credit.tiny.objectives import (
    OBJECTIVES,
    SEEN,
    backward,
    documents,
    further_heads,
    teacherless,
)
from grpo_credit.tiny.path_star import DECISIVE, PathStar, problems
from grpo_credit.tiny.training import Lesson, learning_rate, optimizer_of, train

TESTED = 1000
HEADER = """\
| objective | l | seed | steps | CPU s | loss | choice | path | blind |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Train each objective with each seed, and print a row as soon as it is known."""
    args = read_arguments()
    star = PathStar(args.degree, args.length, args.nodes)
    torch.set_num_threads(1)
    print(HEADER)
    for objective in args.objectives:
        for seed in args.seeds:
            row = measured(star, objective, seed, args.steps, args.credit)
            print("|", " | ".join(row), "|", flush=True)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    about, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(OBJECTIVES)
    parser.add_argument("--objectives", nargs="+", choices=names, default=names, metavar="NAME",
                        help=f"of {', '.join(names)} (default: all)")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    parser.add_argument("--credit", help="strategy of CreditSFTTrainer (default: without it)")
    for name, default in (("degree", 2), ("length", 4), ("nodes", 12)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    args = parser.parse_args()
    if args.credit and (headed := [o for o in args.objectives if further_heads(o, args.length)]):
        parser.error(f"--credit is for what is data; leave out {', '.join(headed)}: it has heads")
    return args


def measured(
    star: PathStar, objective: str, seed: int, steps: int, credit: str | None
) -> Iterator[str]:
    """Train one model, and yield the cells of its row."""
    plan = lesson(star, objective, settings(seed, steps))
    tokenizer = plan.tokenizer()
    learner = plan.learner(plan.model(tokenizer))
    start = time.process_time()
    if credit:
        loss = train_documents(learner, tokenizer, plan, credit)
    else:
        loss = train(learner, plan.batches(tokenizer), plan.settings, plan.loss)
    seconds = time.process_time() - start
    prompts, answers = encoded(tokenizer, problems(star, TESTED, 0, "test"))
    written = answers if objective != "reversed" else backward(answers)
    right = greedy(learner, prompts, written.shape[1]) == written
    place = DECISIVE if objective != "reversed" else star.length - 1 - DECISIVE
    choice, path = right[:, place].float().mean(), right.all(1).float().mean()
    yield from (objective, str(star.length), str(seed), str(steps), f"{seconds:.0f}")
    yield f"{loss:.3f}"
    yield from (f"{x:.3f}" for x in (choice, path, blind(learner, prompts, answers, tokenizer)))


def train_documents(learner: Headed, tokenizer, plan: Lesson, credit: str) -> float:
    """Train as `training.train` does, but by `CreditSFTTrainer`; return the mean loss."""
    rows = [row for terms in plan.batches(tokenizer) for row in documents(terms)]
    optimizer = optimizer_of(learner.model, plan.settings)
    rate = LambdaLR(
        optimizer, lambda step: learning_rate(step, plan.settings) / plan.settings.learning_rate
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = CreditSFTTrainer(
            model=learner.model, processing_class=tokenizer, train_dataset=Dataset.from_list(rows),
            optimizers=(optimizer, rate),
            args=CreditSFTConfig(
                folder, credit=credit, max_steps=plan.settings.steps, seed=plan.settings.seed,
                per_device_train_batch_size=len(rows) // plan.settings.steps,
                train_sampling_strategy="sequential", max_grad_norm=plan.settings.max_grad_norm,
                max_length=len(rows[0]["input_ids"]), use_cpu=True, bf16=False,
                activation_checkpointing=False, save_strategy="no", report_to=[],
                disable_tqdm=True, logging_strategy="no",
            ),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it prints into the table
        return trainer.train().training_loss


@torch.no_grad()
def greedy(learner: Headed, prompts: torch.Tensor, length: int) -> torch.Tensor:
    """Return what the model's own head finds likeliest after what it found so, (B, length)."""
    ids = prompts
    for _ in range(length):
        said = learner.log_probs(learner.states(ids)[:, -1])[:, 0]
        ids = torch.cat([ids, said.argmax(-1, keepdim=True)], 1)
    return ids[:, prompts.shape[1] :]


@torch.no_grad()
def blind(learner: Headed, prompts: torch.Tensor, answers: torch.Tensor, tokenizer) -> torch.Tensor:
    """Return how often the best head and state that know the prompt alone name the choice."""
    inputs = teacherless(prompts, answers, dummy_of(tokenizer)).inputs
    states = learner.states(inputs)[:, prompts.shape[1] - SEEN :]
    named = learner.log_probs(states).argmax(-1) == answers[:, DECISIVE, None, None]
    return named.float().mean(0).max()


if __name__ == "__main__":
    main()
