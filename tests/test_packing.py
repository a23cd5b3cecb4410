"""Log-probabilities, entropies and gradients of packed rows are those of TRL's own pass."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from packing_helpers import (
    CONFIGS,
    GROUPED,
    batch,
    build,
    difference,
    gradient,
    packed_scores,
    trl_scores,
)
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torchrun import launch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig

from grpo_credit.batching.packing import (
    Attention,
    Packed,
    Packing,
    Tree,
    TreeMask,
    attention_of,
    by_mask,
    variable_lengths,
)
from grpo_credit.batching.planner import Budget, packed_length

WINDOWS = {name for name in CONFIGS if "window" in name}


def check(model, rows, tolerance=2e-6, **packing):
    """Compare everything with TRL's pass."""
    expected = trl_scores(model, *rows)
    packed = packed_scores(model, *rows, **packing)
    for ours, host in zip(packed, expected, strict=True):
        assert ours.dtype == host.dtype
        assert difference(ours.detach(), host.detach()) <= tolerance
    assert difference(gradient(model, *packed), gradient(model, *expected)) <= tolerance


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted({*CONFIGS} - WINDOWS))
def test_every_family_scores_as_in_trl(family, attention):
    check(build(family, attention), batch())


@pytest.mark.parametrize(
    "rows",
    [
        batch(prompts=(1, 1, 1)),
        batch(prompts=(2, 1, 2)),
        batch(prompts=(9, 9, 9)),
        batch(of=(0,) * 6),
        batch(prompts=(9, 8, 7, 4, 2, 1), of=(5, 4, 3, 2, 1, 0)),
        batch(completions=(1, 1, 0, 1, 1, 1)),
        batch(completions=(7,) * 6),
        batch(prompts=(1,), completions=(1,), of=(0,)),
    ],
    ids=["prompts of one token", "short prompts", "equal prompts", "one prompt", "all unlike",
         "completions of one token", "equal completions", "two tokens"],
)  # fmt: skip
def test_rows_of_any_shape_score_as_in_trl(rows):
    check(build(), rows)


@pytest.mark.parametrize("few_sizes", [False, True])
@pytest.mark.parametrize("rows", [batch(), batch(of=(0, 1, 2) * 10, completions=(7,) * 30)])
def test_rows_that_are_filled_up_score_as_in_trl(rows, few_sizes):
    """Also with more tokens than a padded row has columns."""
    sdpa = Attention(by_mask("sdpa", torch.float32), every_pair=True)  # as for a compiled model
    for attention in (None, sdpa):
        check(
            build(), rows, attention=attention,
            rounded=lambda n: int(packed_length(n, 8, few_sizes=few_sizes)),
        )  # fmt: skip


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_scores_as_in_trl(reentrant):
    model = build()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    rows, weights = batch(), torch.arange(42).sin().view(6, 7)
    gradients = []
    for scores in (trl_scores, packed_scores):
        model.zero_grad()
        (weights * scores(model, *rows)[0]).sum().backward()  # reentrant: no `autograd.grad`
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert difference(*gradients) <= 2e-6


def test_adapters_score_as_in_trl():
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    check(get_peft_model(build(), lora), batch())


def test_dropout_of_adapters_has_trls_gradient_in_the_mean():
    """One draw serves all copies of a prompt; each completion sees what it would have seen."""
    lora = LoraConfig(r=2, target_modules=["v_proj"], lora_dropout=0.5, init_lora_weights=False)
    model, rows = get_peft_model(build(), lora), batch()

    def drawn(scores):
        return torch.stack([gradient(model, *scores(model, *rows)) for _ in range(100)])

    torch.manual_seed(0)
    packed, trls = drawn(packed_scores), drawn(trl_scores)
    assert packed.std(dim=0).max() > 0
    error = ((packed.var(dim=0) + trls.var(dim=0)) / 100).sum() ** 0.5
    assert (packed.mean(dim=0) - trls.mean(dim=0)).norm() < 2 * error


@pytest.mark.parametrize("cast", [False, True])
def test_bfloat16_scores_as_in_trl_within_its_precision(cast):
    check(build(attention="eager", cast_lm_head_to_fp32=cast).bfloat16(), batch(), 2.0**-6)
    check(build(cast_lm_head_to_fp32=cast).bfloat16(), batch(), 2.0**-6)


def test_rows_are_packed_under_autocast():
    """Rotary positions are float32 and values bfloat16, where the norm has weights in float32."""
    model, rows = build(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        expected, packed = trl_scores(model, *rows)[0], packed_scores(model, *rows)[0]
    assert difference(packed.detach(), expected.detach()) <= 2.0**-6


def kept_for_backward(score):
    """Count the bytes of all that a forward pass keeps."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes(), tensor  # alive, so that no place is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(("prompt", "completion"), [(90, 4), (30, 30), (60, 20), (8, 40)])
def test_a_full_pass_keeps_no_more_than_trls(monkeypatch, prompt, completion):
    """As many completions of one prompt as a pass may have where TRL runs eight rows."""
    monkeypatch.setitem(CONFIGS, "llama", LlamaConfig(**GROUPED | {"hidden_size": 128}))
    model, ids = build(), torch.arange(prompt)[None] % 40 + 2

    def rows(count):
        prompts, completions = ids.expand(count, -1), torch.full((count, completion), 7)
        return prompts, torch.ones_like(prompts), completions, torch.ones_like(completions)

    budget = Budget(8 * (prompt + completion), pass_cost=0)
    trls = kept_for_backward(lambda: trl_scores(model, *rows(8)))
    count = (budget.packed_tokens - prompt + 1) // completion
    assert kept_for_backward(lambda: packed_scores(model, *rows(count))) <= 1.05 * trls


def test_every_token_is_run_once_and_padding_never():
    model, rows, ran = build(), batch(), []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: ran.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    packed_scores(model, *rows)  # prompts of 9, 4, 1; a completion of none keeps a token
    assert ran == [8 + 3 + 0 + 7 + 3 + 5 + 7 + 1 + 2]
    ran.clear()
    trl_scores(model, *rows)
    assert ran == [6 * 16]


def layout():
    """Two prompts, of three tokens and of one, whose completions have 2, 1 and 2 tokens."""
    ids = torch.tensor([[5, 6, 7, 11, 12], [5, 6, 7, 13, 0], [0, 0, 9, 14, 15]])
    mask = (ids > 0).long()
    return ids, mask, Packing.of(ids, mask, 2, rounded=lambda n: n + 1)


def test_a_packed_row_is_laid_out_as_by_hand():
    ids, _, packing = layout()
    assert packing.pick(ids).tolist() == [[5, 6, 7, 11, 7, 9, 14, 5]]  # the last one fills up
    assert packing.column.tolist() == [0, 1, 2, 3, 2, 2, 3, 0]
    assert packing.of_completion.tolist() == [False, False, *[True] * 5, False]
    assert packing.pick(ids, after=1)[0, 2:7].tolist() == [11, 12, 13, 14, 15]
    assert packing.place.tolist() == [[2, 3], [4, 8], [5, 6]]
    found = packing.unpack(torch.arange(1.0, 9.0)[None], 4)
    assert found.tolist() == [[0, 0, 3, 4], [0, 0, 5, 0], [0, 0, 6, 7]]


SEES = [
    "x.......",
    "xx......",
    "xxx.....",
    "xxxx....",
    "xx..x...",
    ".....x..",
    ".....xx.",
    ".......x",
]


def test_a_mask_shows_each_token_its_prompt_and_its_own_completion():
    _, _, packing = layout()
    mask = by_mask("sdpa", torch.float32)(packing)["attention_mask"][0, 0]
    assert ["".join(".x"[seen] for seen in row) for row in mask.tolist()] == SEES
    added = by_mask("eager", torch.float32)(packing)["attention_mask"][0, 0]
    assert torch.equal(added == 0, mask)
    assert added.min() == torch.finfo(torch.float32).min


@pytest.mark.parametrize("run", [1, 64])
def test_attention_by_trees_is_that_of_the_whole_mask(monkeypatch, run):
    """Also for prompts with completions of very unlike lengths, which are run apart."""
    ids, mask = torch.cat(batch()[::2], dim=1), torch.cat(batch()[1::2], dim=1)
    packing = Packing.of(ids, mask, 7)
    monkeypatch.setattr("grpo_credit.batching.packing.RUN", run)
    assert (max(len(tree.runs) for tree in packing.trees) > 1) is (run == 1)
    torch.manual_seed(0)
    parts = torch.randn(3, 1, 2, len(packing.row), 4, dtype=torch.double)
    parts.requires_grad_()
    dense = by_mask("sdpa", torch.double)(packing)["attention_mask"]
    attend = torch.nn.functional.scaled_dot_product_attention
    outs = [attend(*parts, attn_mask=m, scale=0.3) for m in (TreeMask.of(packing), dense)]
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(out.square().sum(), parts)[0] for out in outs]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


def test_runs_are_no_longer_than_their_prompt():
    assert Tree(90, [40, 40, 20, 91, 5]).runs == [[40, 40], [20], [91], [5]]
    assert Tree(0, [30, 30, 30, 70]).runs == [[30, 30], [30], [70]]


def test_nobody_computes_with_a_mask_that_is_not_there():
    mask = TreeMask.of(layout()[2])
    assert (mask.shape, mask.dtype, mask.ndim) == ((1, 1, 8, 8), torch.bool, 4)
    assert mask.to("meta").trees is mask.detach().trees is mask.trees
    assert not torch.is_floating_point(mask)  # asked by FSDP, which casts what is
    for use in (lambda: mask[:, :, :4], lambda: mask & mask, lambda: mask.expand(2, 1, 8, 8)):
        with pytest.raises(NotImplementedError, match="of the mask of a packed row"):
            use()


def test_flash_attention_is_told_where_rows_end():
    ids, mask, _ = layout()
    told = variable_lengths(Packing.of(ids, mask, 2, shares_prompts=False))
    assert told["cu_seq_lens_q"].tolist() == [0, 4, 7, 9]
    filled = Packing.of(ids, mask, 2, shares_prompts=False, rounded=lambda n: n + 3)
    assert variable_lengths(filled)["cu_seq_lens_k"].tolist() == [0, 4, 7, 9, 12]
    assert told["cu_seq_lens_q"].dtype == torch.int32
    assert told["max_length_k"] == 4
    assert told["attention_mask"] is None


def variable_length_attention(_, query, key, value, mask, *, scaling, cu_seq_lens_q, **more):
    """Attend row by row, as flash attention does with the ends of rows."""
    assert mask is None
    ends, group = cu_seq_lens_q.tolist(), query.size(1) // key.size(1)
    key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
    outs = []
    for begin, end in pairwise(ends):
        own = [part[:, :, begin:end] for part in (query, key, value)]
        attend = torch.nn.functional.scaled_dot_product_attention
        outs.append(attend(*own, is_causal=True, scale=scaling))
    return torch.cat(outs, dim=2).transpose(1, 2), None


def test_rows_of_variable_length_score_as_in_trl(monkeypatch):
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_here", variable_length_attention)
    nothing = lambda *_, **__: None  # noqa: E731
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "flash_here", nothing)
    plain, flash = build(), build()
    flash.config._attn_implementation = "flash_here"
    assert attention_of(flash, compiled=False).told is variable_lengths
    expected, packed = trl_scores(plain, *batch()), packed_scores(flash, *batch())
    for ours, host in zip(packed, expected, strict=True):
        assert difference(ours.detach(), host.detach()) <= 2e-6
    assert difference(gradient(flash, *packed), gradient(plain, *expected)) <= 2e-6


@pytest.mark.parametrize(
    ("implementation", "compiled", "every_pair"),
    [("sdpa", False, False), ("sdpa", True, True), ("eager", False, True),
     ("flex_attention", False, False), ("flash_attention_3", False, False)],
)  # fmt: skip
def test_what_is_computed_depends_on_the_attention(implementation, compiled, every_pair):
    model = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation=implementation), dtype=torch.float32
    )
    assert attention_of(model, compiled).every_pair is every_pair
    model.config._attn_implementation = "home_made"
    assert attention_of(model, compiled) is None


def test_tokens_before_the_prompt_are_no_packed_row():
    tuned = get_peft_model(build(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(NotImplementedError, match="cat of the mask of a packed row"):
        packed_scores(tuned, *batch())


@pytest.mark.parametrize("rows", [batch(), batch(prompts=(1, 1, 1))], ids=["long", "one token"])
def test_outputs_that_are_not_by_token_are_left_alone(rows):
    """The loss is over the tokens of completions, and not over what fills a row up."""
    model = build()
    ids, mask = torch.cat(rows[::2], dim=1), torch.cat(rows[1::2], dim=1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-7] = -100
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "fused_lm_head": True}
    plain = model(**inputs)
    packed = Packed(model, 7, attention_of(model, False), lambda tokens: tokens + 5)(**inputs)
    assert packed.loss.shape == plain.loss.shape == ()
    assert float(packed.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-5)
    assert packed.log_probs.shape == plain.log_probs.shape


def test_two_processes_average_the_gradients_of_packed_rows(tmp_path):
    launch(2, "packing_two_processes.py", tmp_path)
    assert len(list(tmp_path.glob("rank*"))) == 2
