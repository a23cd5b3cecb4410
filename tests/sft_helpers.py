"""Documents, slow sums over them in float64, and one step of supervised training on them."""

import math
import random
import statistics
import tempfile

import torch
from datasets import Dataset
from harness import TOKENIZER, Trace, policy, whole_gradient
from transformers import TrainerCallback

from grpo_credit import CreditSFTConfig, CreditSFTTrainer

LIMIT = 24
FOUR = ("uniform", "length", "seq", "dapo")
SIZES = (2, 20, 5, 11, 3, 17, 5, 14)  # tokens: four packed rows of 24; 55 are predicted
PADDED = [{"rows": rows, "steps": 8 // rows} for rows in (8, 4, 2, 1)]
PACKED = [{"rows": rows, "steps": 4 // rows, "packing": True} for rows in (4, 1)]
FREE = [{"rows": r, "steps": 8 // r, "padding_free": True, "max_length": None} for r in (8, 2)]


def documents():
    """Return token ids and labels of each document; every second begins with a masked prompt."""
    rng, known = random.Random(0), TOKENIZER.encode("0123456789abcdef")
    ids = [[rng.choice(known) for _ in range(size)] for size in SIZES]
    return [
        {
            "input_ids": row,
            "labels": [-100] * (n % 2 * len(row) // 3) + row[n % 2 * len(row) // 3 :],
        }
        for n, row in enumerate(ids)
    ]


def predicted():
    """Return the ids that each document has predicted."""
    return [[i for i in document["labels"][1:] if i != -100] for document in documents()]


def weights_of(name):
    """Return the weight of each predicted token of each document, in the words of a paper."""
    lengths = [len(ids) for ids in predicted()]
    one = {
        "uniform": lambda _: 1 / (len(lengths) * LIMIT),
        "length": lambda length: 1 / (len(lengths) * length),
        "seq": lambda _: 1 / len(lengths),
        "dapo": lambda _: 1 / sum(lengths),
    }[name]
    return [[one(length)] * length for length in lengths]


TEMPERED = {"credit": "lhts/seq", "credit_kwargs": {"tau": 0.5, "horizon": 3}}


def sampled():
    """Give each token of the documents a log-probability, the first none."""
    rng = random.Random(1)
    return Dataset.from_list([
        {**row, "old_logps": [None, *(-2 * rng.random() for _ in row["input_ids"][1:])]}
        for row in documents()
    ])  # fmt: skip


def tempered_weights():
    """Return the weights of TEMPERED: e^(H - b), three tokens ahead, over the documents."""
    logps = [
        [p for p, label in zip(row["old_logps"][1:], row["labels"][1:], strict=True)
         if label != -100]
        for row in sampled()
    ]  # fmt: skip
    ahead = [[sum(row[t : t + 3]) for t in range(len(row))] for row in logps]
    mean = [
        statistics.fmean(row[t] for row in ahead if t < len(row))
        for t in range(max(map(len, ahead)))
    ]
    return [
        [math.exp(min(h - b, 3)) / len(ahead) for h, b in zip(row, mean, strict=False)]
        for row in ahead
    ]


def slow(weights):
    """Compute the loss and its gradient in float64, document by document, token by token."""
    model = policy().double()
    loss = torch.zeros((), dtype=torch.float64)
    for document, own in zip(documents(), weights, strict=True):
        logps = model(torch.tensor([document["input_ids"]])).logits[0].log_softmax(-1)
        left = iter(own)
        for t, label in enumerate(document["labels"][1:]):
            if label != -100:
                loss = loss - next(left) * logps[t, label]
    loss.backward()
    return float(loss.detach()), whole_gradient(model)


class Losses(TrainerCallback):
    """What a trainer says of its losses."""

    def __init__(self):
        self.train, self.logs = [], []

    def on_log(self, *_, logs, **__):
        self.logs.append(logs)
        if "loss" in logs:
            self.train.append(logs["loss"])


def trainer(rows=8, steps=1, cls=CreditSFTTrainer, config=CreditSFTConfig, given=None, **options):
    """Make a trainer on the documents; it keeps its gradients and losses."""
    settings = {
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": steps, "max_steps": 1,
        "max_length": LIMIT, "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True,
        "output_dir": tempfile.mkdtemp(), **options,
    }  # fmt: skip
    trace, losses = Trace(), Losses()
    made = cls(
        model=policy(), args=config(**settings), processing_class=TOKENIZER,
        callbacks=[trace, losses],
        **{"train_dataset": Dataset.from_list(documents()), **(given or {})},
    )  # fmt: skip
    made.trace, made.losses = trace, losses
    return made


def trained(**options):
    """Train, and return the trainer."""
    made = trainer(**options)
    made.train()
    return made
