"""Passes of another shape are tried on the model at hand, and refused where they differ."""

import re
from types import SimpleNamespace

import pytest
import torch
from harness import TOKENIZER, difference, ours, policy, trl
from packing_helpers import build
from torch import nn
from torch.nn.functional import dropout
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM
from workloads import LONG, Workload

from grpo_credit.batching.planner import Lengths
from grpo_credit.trainer.passes.eligibility import Batching
from grpo_credit.trainer.passes.exactness import Extent, Trial, extent_of
from grpo_credit.trainer.passes.trial import (
    Reference,
    _multiplies_in_tf32,
    relative_difference,
    smallest_parameters,
)

WORK = Workload(
    ((12, 3, 5, 4), (2, 9, 4, 7), (6, 6, 10, 5), (8, 2, 3, 5)), (1,), (LONG, LONG[2:], "1=", "2=")
)
KEPT = "the micro-batches of TRL | left out: sorting, trimming and skipping"


class Linear(nn.Module):
    """Scores tokens by a weight; `changes` are what a pass does to that."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 4)
        self.head = nn.Linear(4, 1)
        self.change = change

    def forward(self, ids):
        return self.head(self.change(self, self.embedding(ids))).squeeze(2)


IDS = torch.arange(12).view(3, 4)


def refused(change, other=lambda model: model(IDS[2:]), **options):
    model = Linear(change)
    return Reference(model, lambda: [model(IDS)[2:]], **options).refuses(lambda: [other(model)])


def drawn_from(generator):
    return lambda _, x: x + 0.1 * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _, x: x, "None"),
        (lambda _, x: x - x.mean(), "log-probabilities differ by"),
        (lambda _, x: x * (1 + 1e-4 * len(x)), "log-probabilities differ by"),
        (lambda _, x: x if len(x) > 1 else x.detach(), "gradients differ by"),
        (lambda _, x: x if len(x) > 1 else x * float("nan"), "log-probabilities differ by nan"),
        (lambda _, x: dropout(x, 0.5), "log-probabilities differ by"),  # of another shape
        (drawn_from(torch.Generator()), "two equal passes differ: log-probabilities differ by"),
        (lambda _, x: x if len(x) > 1 else x[:, :, :2], "failed with RuntimeError: mat1 and mat2"),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_row_by_itself_is_compared_with_trls_pass(change, reason):
    assert str(refused(change)).startswith(reason)


def test_sharded_parameters_leave_log_probabilities_to_compare():
    detached = lambda _, x: x if len(x) > 1 else x.detach()  # noqa: E731
    assert refused(detached, with_gradient=False) is None
    assert "log-prob" in (refused(lambda _, x: x - x.mean(), with_gradient=False) or "")


def test_ranks_do_what_any_of_them_must():
    asked = []

    def elsewhere(reason):
        asked.append(reason)
        return "gradients differ on another rank"

    assert refused(lambda _, x: x, agree=elsewhere) == (
        "two equal passes differ: gradients differ on another rank"
    )
    assert asked == [None, None]


def test_nothing_is_equal_to_nothing():
    """As the gradient of tokens that are not in the rows that are tried."""
    zero = torch.zeros(3)
    assert relative_difference(zero, zero) == 0.0
    assert relative_difference(zero + 1, zero) == float("inf")


def test_known_dropout_is_off_and_nothing_is_left_behind():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.norm = nn.Embedding(20, 4), nn.BatchNorm1d(4)
            self.drop, self.attention_dropout, self.widest = nn.Dropout(0.5), 0.5, 0
            self.register_buffer("table", torch.ones(1))

        def forward(self, ids):
            x = dropout(self.drop(self.embedding(ids)), self.attention_dropout, self.training)
            self.norm(x.flatten(0, 1))  # moves its running statistics
            self.widest = max(self.widest, ids.size(1))
            self.register_buffer("table", torch.zeros(1))  # as rotary embeddings do
            return x.sum(2)

    model = Dropping()
    state, mean = torch.get_rng_state(), model.norm.running_mean.clone()
    trial = Reference(model, lambda: [model(IDS)[:1]])
    assert trial.refuses(lambda: [model(IDS[:1])]) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.norm.running_mean, mean)
    assert (model.drop.p, model.attention_dropout, model.widest) == (0.5, 0.5, 0)
    assert float(model.table) == 1.0
    assert model.embedding.weight.grad is None


def rows(prompts=(9, 4, 6), completions=(7, 3, 5)):
    def mask(lengths, left):
        place = torch.arange(max(lengths))
        return ((place.flip(0) if left else place) < torch.tensor(lengths)[:, None]).long()

    prompt, completion = mask(prompts, True), mask(completions, False)
    return {
        "prompt_ids": prompt * torch.arange(1, 10)[:9], "prompt_mask": prompt,
        "completion_ids": completion * 7, "completion_mask": completion,
    }  # fmt: skip


def test_the_rows_that_are_tried_are_the_most_trimmed_ones_that_can_be():
    seen, run = [], lambda *passes: [[*each] for each in passes]

    def score(part, _):
        seen.append(tuple(tuple(part[f"{half}_ids"].shape) for half in ("prompt", "completion")))
        return part["completion_ids"].float()

    room = lambda part: 64 - Lengths.of(part).packed  # noqa: E731
    trial = Trial(score, rows(), 4, room)
    run(trial.as_trl(), trial.ours(True, 1))
    assert seen == [
        ((4, 9), (4, 7)),  # a micro-batch of TRL, and these:
        ((1, 9), (1, 7)),  # the longest, which a window may cut in no other
        ((1, 2), (1, 7)),  # half of the shortest prompt, and the longest completion
        ((1, 9), (1, 1)),  # the longest prompt, and one token of a completion
        ((1, 2), (1, 2)),  # both halves
    ]
    assert trial.extent == Extent(9, 7, 16, 2, 1)
    seen.clear()
    run(trial.ours(False, 1))
    assert [prompt for prompt, _ in seen] == [(1, 9)] * 4
    seen.clear()
    single = Trial(score, rows(), 1, lambda part: room(part) - 48)
    run(single.as_trl(), single.ours(True, 4))
    assert [completion for _, completion in seen] == [*[(1, 7)] * 4, (4, 7)]
    seen.clear()
    # 64 tokens hold them, 15 + 8 + 2 + 1, and five of the longest, which stand before
    run(trial.ours(True, 4, packed=True), single.ours(True, 4, packed=True))
    assert seen == [((5 + 4, 9), (5 + 4, 7)), ((4, 9), (4, 7))]


def test_widths_that_outgrow_what_was_tried_are_known():
    tried = extent_of(rows())
    assert tried == Extent(9, 7, 16, 4, 3)
    assert tried.holds(extent_of(rows((9, 5, 6), (4, 5, 6))))
    for prompts, completions in [((9, 3, 6), (7, 3, 5)), ((9, 4, 6), (8, 3, 5)), ((9,), (2,))]:
        assert not tried.holds(extent_of(rows(prompts, completions)))


CHOSEN = Batching(recuts=True, skips=True, trims_prompts=True)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (lambda ids, _: ids, "sorts rows by length, cuts anew and trims padding"),
        (lambda ids, prompt: ids + prompt, "trims padding | left out: trimming prompts (a row"),
        (lambda ids, _: ids * ids.size(1), "the micro-batches of TRL | left out: sorting"),
        (lambda ids, _: ids - ids.mean(), "the micro-batches of TRL | left out: sorting"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_what_the_model_does_not_allow_is_left_out(score, expected, batch_size):
    weight = nn.Parameter(torch.ones(()))
    model = nn.ParameterList([weight])
    trial = Trial(
        lambda part, _: weight * score(part["completion_ids"].float(), part["prompt_ids"].size(1)),
        rows(), batch_size, lambda part: -len(part["prompt_ids"]),
    )  # fmt: skip
    assert expected in str(trial(CHOSEN, lambda passes: Reference(model, passes)))


def learned_positions():
    torch.manual_seed(3)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(TOKENIZER), n_positions=64, n_embd=16, n_layer=1, n_head=2,
                   resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )  # fmt: skip
    model.config._name_or_path = policy().config._name_or_path
    return model


def over_the_pass():
    model = policy()
    model.model.embed_tokens.register_forward_hook(lambda _, __, x: x - x.mean())
    return model


def over_the_width(threshold):
    """Make a model as with `longrope`: one table up to a width, another beyond."""
    model = policy()
    model.model.embed_tokens.register_forward_hook(
        lambda _, __, x: x * (1.5 if x.size(1) > threshold else 1)
    )
    return model


def noisy():
    model = policy()
    model.model.embed_tokens.register_forward_hook(lambda _, __, x: dropout(x, 0.1))
    return model


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (policy, "skips rows without credit, packs prompts and completions in one row$"),
        (learned_positions, "packs .* \\| left out: trimming prompts \\(a row by itself: log-prob"),
        (over_the_pass, re.escape(KEPT)),
        (lambda: over_the_width(36), re.escape(KEPT)),
    ],
    ids=["relative positions", "learned positions", "over the pass", "over the width"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 8])
def test_the_gradient_is_trls_and_the_line_says_what_is_done(monkeypatch, caplog, make, line, size):
    monkeypatch.setattr("harness.policy", make)
    caplog.set_level("INFO")
    options = {"arguments": WORK.arguments, "loss_type": "grpo", "max_steps": 2,
               "num_iterations": 2, "per_device_train_batch_size": size,
               "gradient_accumulation_steps": 16 // size}  # fmt: skip
    mine, theirs = ours(**options), trl(**options)
    assert max(map(difference, mine.gradients, theirs.gradients)) <= 1e-5
    assert re.search(line, caplog.text)


def test_an_adapter_with_a_kl_term_is_packed(caplog):
    """Its first pass is the reference's, in which no parameter trains."""
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    caplog.set_level("INFO")
    options = {"arguments": WORK.arguments | {"peft_config": adapter}, "loss_type": "grpo",
               "beta": 0.1, "max_steps": 2}  # fmt: skip
    mine, theirs = ours(**options), trl(**options)
    assert max(map(difference, mine.gradients, theirs.gradients)) <= 1e-5
    assert "packs prompts and completions in one row | left out: skipping" in caplog.text


def test_a_window_that_cuts_the_longest_row_alone_is_seen(monkeypatch, caplog):
    """Prompts of 28 tokens and completions of 12: other rows of a trial have 30 at most."""

    def windowed():
        torch.manual_seed(3)
        sizes = {"vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 24}
        model = MistralForCausalLM(
            MistralConfig(**sizes, num_hidden_layers=1, num_attention_heads=2,
                          num_key_value_heads=1, sliding_window=34)
        )  # fmt: skip
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        return model

    monkeypatch.setattr("harness.policy", windowed)
    options = {"arguments": WORK.arguments, "loss_type": "grpo", "max_steps": 1}
    mine, theirs = ours(**options), trl(**options)
    assert max(map(difference, mine.gradients, theirs.gradients)) <= 1e-5
    assert "left out: packing rows (the sliding window: log-probabilities differ" in caplog.text


def test_a_reference_model_is_tried_as_well(caplog):
    """It is loaded by its name, and may have another attention."""
    options = {"arguments": WORK.arguments, "loss_type": "grpo", "max_steps": 2, "beta": 0.1,
               "model_init_kwargs": {"attn_implementation": "eager"}}  # fmt: skip
    mine, theirs = ours(**options), trl(**options)
    assert max(map(difference, mine.gradients, theirs.gradients)) <= 1e-5
    assert "packing rows (failed with NotImplementedError: add of the mask" in caplog.text


def test_random_passes_keep_trls(monkeypatch, caplog):
    monkeypatch.setattr("harness.policy", noisy)
    ours(arguments=WORK.arguments, loss_type="grpo", max_steps=1)
    assert KEPT in caplog.text


def test_what_was_tried_is_tried_again_where_widths_outgrow_it(monkeypatch, caplog):
    """The longest completions come in the second generation, beyond the threshold."""
    growing = Workload(((4, 3, 5, 4), (2, 5, 4, 3), (6, 6, 12, 5), (8, 2, 3, 5)))
    monkeypatch.setattr("harness.policy", lambda: over_the_width(12))
    options = {"arguments": growing.arguments, "loss_type": "grpo", "max_steps": 2}
    mine = ours(**options, gradient_accumulation_steps=1)
    theirs = trl(**options, gradient_accumulation_steps=1)
    assert max(map(difference, mine.gradients, theirs.gradients)) <= 1e-5
    assert mine.passes[0] != theirs.passes[0]
    assert mine.passes[-1] == theirs.passes[-1]
    assert KEPT in caplog.text


def test_the_gradient_is_of_the_smallest_parameters_of_a_large_model(monkeypatch):
    monkeypatch.setattr("grpo_credit.trainer.passes.trial.TESTED_NUMBERS", 100)
    model = build()
    assert {p.dim() for p in smallest_parameters(model)} == {1}  # five norms of 16
    assert sum(p.numel() for p in smallest_parameters(model)) == 80
    monkeypatch.setattr("grpo_credit.trainer.passes.trial.TESTED_NUMBERS", 1)
    assert len(smallest_parameters(model)) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"fp32_precision": "tf32"}, True),
        ({"fp32_precision": "ieee"}, False),
        ({"allow_tf32": True}, True),  # before PyTorch 2.9
    ],
)
def test_the_precision_of_products_is_known_in_every_pytorch(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**flags))
    assert _multiplies_in_tf32() is expected
