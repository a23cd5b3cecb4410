"""Passes of our own cut have TRL's gradient, from padded tokens that are counted by hand."""

import functools
from dataclasses import replace

import pytest
import torch
from harness import ROUNDING, difference, ours, policy, trl
from test_parity_with_trl import TWINS
from torch._dynamo.utils import counters
from transformers import GPT2Config, GPT2LMHeadModel, LlamaModel
from trl import GRPOTrainer
from workloads import LONG, WORKLOADS, Workload

from grpo_credit import CreditError, CreditGRPOConfig, allocation
from grpo_credit.batching import planner
from grpo_credit.trainer.passes import cutting, eligibility, engine

SEEN = []


@allocation(needs=["entropies"])
def noted(rollouts):
    """Give even credit, and remember what was given."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


def gaps(mine, theirs):
    assert len(mine.gradients) == len(theirs.gradients) > 0
    assert mine.losses == pytest.approx(theirs.losses, abs=ROUNDING)
    return [difference(a, b) for a, b in zip(mine.gradients, theirs.gradients, strict=True)]


@pytest.mark.parametrize("credit", TWINS)
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "nothing to learn"])
def test_the_gradient_is_trls(name, credit):
    options = {"arguments": WORKLOADS[name].arguments, "num_iterations": 2, "max_steps": 2,
               "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}  # fmt: skip
    mine, theirs = ours(credit=credit, **options), trl(**TWINS[credit], **options)
    assert max(gaps(mine, theirs)) <= 1e-5
    logged, right = ([log["loss"] for log in t.logs if "loss" in log] for t in (mine, theirs))
    assert logged == pytest.approx(right, abs=ROUNDING)  # the value of all passes
    assert mine.batching.packs


def test_dropout_aside_adapters_have_trls_gradient():
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    options = {"arguments": WORKLOADS["reference"].arguments | {"peft_config": adapter}}
    assert max(gaps(ours(loss_type="grpo", **options), trl(loss_type="grpo", **options))) <= 1e-5


def test_a_step_without_credit_has_gradients_of_zero():
    """AdamW goes on with them; without any gradient it would not."""
    trace = ours(credit="seq", arguments=WORKLOADS["nothing to learn"].arguments)
    assert [float(gradient.norm()) for gradient in trace.gradients] == [0.0, 0.0]
    assert trace.gradients[0].numel() == sum(p.numel() for p in policy().parameters())
    assert trace.passes == [(1, 4 + 2)] * 2  # one shortest row per step


@pytest.fixture
def free_passes(monkeypatch):
    """Count no cost of a pass, and pack nothing, so that the fewest tokens are easily told."""
    monkeypatch.setitem(planner.PASS_COST, "cpu", 0)
    choose = eligibility.choose
    monkeypatch.setattr(eligibility, "choose", lambda t: choose(t).without("packs", "a test"))


def test_padded_tokens_are_the_least(free_passes):
    # Live: 10, 10, 2, 2 of the third group, prompts of 4. TRL pads all to 4 + 10, 8 rows twice.
    work = Workload(((10, 10, 10, 10), (9, 8, 7, 6), (10, 10, 2, 2), (5, 5, 5, 5)), dead=(0, 1, 3))
    assert trl(arguments=work.arguments, max_steps=1).passes == [(8, 14)] * 2
    mine = ours(credit="seq", arguments=work.arguments, max_steps=1)
    assert sorted(set(mine.passes)) == [(1, 6), (1, 14)]  # a pass for free: one row each
    assert sum(rows * width for rows, width in mine.passes) == 2 * 14 + 2 * 6


def test_a_pass_is_as_large_as_trls(monkeypatch):
    monkeypatch.setitem(planner.PASS_COST, "cpu", 10**6)  # as few passes as fit
    trace = ours(arguments=WORKLOADS["equal"].arguments, max_steps=1)
    assert trace.passes == [(8, 12)] * 2
    small = ours(
        arguments=WORKLOADS["equal"].arguments, max_steps=1, per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
    )  # fmt: skip
    assert small.passes == [(2, 12)] * 8


def test_off_is_trls_cut_and_the_loss_of_each_turn(monkeypatch):
    work = WORKLOADS["reference"]
    assert ours(arguments=work.arguments, max_steps=1, efficient_batching="off").passes == (
        trl(arguments=work.arguments, max_steps=1).passes
    )


@pytest.mark.parametrize(
    "options",
    [
        {"top_entropy_quantile": 0.5},
        {"entropy_coef": 0.1},
        {"use_adaptive_entropy": True, "entropy_coef": 0.1},
    ],
    ids=str,
)
def test_what_trl_takes_over_a_micro_batch_keeps_its_micro_batches(options):
    work = WORKLOADS["reference"]
    assert ours(arguments=work.arguments, max_steps=1, **options).passes == [(8, 16)] * 2


def test_with_a_kl_term_every_row_runs():
    trace = ours(credit="seq", beta=0.1, arguments=WORKLOADS["dead"].arguments, max_steps=1)
    assert sum(rows for rows, _ in trace.passes) == 16
    skipping = ours(credit="seq", arguments=WORKLOADS["dead"].arguments, max_steps=1)
    assert sum(rows for rows, _ in skipping.passes) == 4


def test_a_completion_that_is_masked_as_a_whole_is_skipped():
    options = {"loss_type": "grpo", "max_steps": 1, "mask_truncated_completions": True}
    mine, theirs = ours(**options), trl(**options)
    assert max(gaps(mine, theirs)) <= 1e-5
    ran = sum(rows for rows, _ in mine.passes)
    assert ran == sum(rows for rows, _ in ours(loss_type="grpo", max_steps=1).passes) - 1


def test_images_keep_trls_micro_batches(monkeypatch, caplog):
    """Batches with images hold one count of them per row, in a list."""
    inner = GRPOTrainer._generate_and_score_completions

    @functools.wraps(inner)
    def counting(self, inputs):
        return inner(self, inputs) | {"num_images": [0] * len(inputs)}

    theirs = trl(loss_type="grpo", max_steps=1)
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", counting)
    mine = ours(loss_type="grpo", max_steps=1)
    assert mine.passes == theirs.passes
    assert max(gaps(mine, theirs)) <= 1e-5
    assert "the micro-batches of TRL, at least in one step" in caplog.text


def test_images_on_another_rank_keep_trls_passes_without_gradient(monkeypatch):
    """A batch without any image has no such input, and its rank would go another way."""
    shapes, gathered = [], engine.gather
    inner = GRPOTrainer._get_per_token_logps_and_entropies

    @functools.wraps(inner)
    def recorded(self, model, input_ids, *args, **kwargs):
        shapes.append(tuple(input_ids.shape))
        return inner(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", recorded)
    monkeypatch.setattr(engine, "gather", lambda own: torch.cat([gathered(own), own * 0]))
    ours(credit="noted/seq", max_steps=1, arguments=WORKLOADS["equal"].arguments)
    assert shapes[0] == (16, 12)


def test_the_cost_of_a_pass_is_that_of_the_whole_model(monkeypatch):
    """Shards differ in size between ranks, which must plan the same passes."""
    monkeypatch.delitem(planner.PASS_COST, "cpu")
    whole = sum(p.numel() for p in policy().parameters())
    costs, inner = [], cutting.Cutter.budget

    def sharded(self, *args):
        kept = [p.data for p in self._host.model.parameters()]
        for parameter in self._host.model.parameters():
            parameter.data = parameter.data[:0]
        found = inner(self, *args)
        for parameter, data in zip(self._host.model.parameters(), kept, strict=True):
            parameter.data = data
        costs.append(found.pass_cost)
        return found

    monkeypatch.setattr(cutting.Cutter, "budget", sharded)
    ours(loss_type="grpo", max_steps=1)
    assert {*costs} == {round(2.8e13 / (6 * whole))}


def test_where_passes_are_counted_a_turn_has_one(monkeypatch):
    """As under DeepSpeed, which steps by the number of backward passes."""

    def counted(trainer, choose=eligibility.choose):
        return replace(choose(trainer), one_pass_per_microstep=True)

    monkeypatch.setattr(eligibility, "choose", counted)
    options = {"arguments": WORKLOADS["dead"].arguments, "gradient_accumulation_steps": 8,
               "per_device_train_batch_size": 2, "loss_type": "grpo"}  # fmt: skip
    mine = ours(**options)
    assert max(gaps(mine, trl(**options))) <= 1e-5
    assert [rows for rows, _ in mine.passes] == [1] * 16  # 4 live rows and 4 more, in two steps


def test_a_compiled_model_sees_few_shapes(monkeypatch):
    """Each would be a compilation."""
    graphs = {}
    options = {"arguments": WORKLOADS["dead"].arguments, "loss_type": "grpo", "max_steps": 2,
               "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4,
               "torch_compile": True, "torch_compile_backend": "eager"}  # fmt: skip
    for train in (trl, ours):
        for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
            monkeypatch.setenv(name, "")  # transformers sets them; undone after the test
        torch._dynamo.reset()
        counters.clear()
        graphs[train] = train(**options), counters["stats"]["unique_graphs"]
    (theirs, compiled), (mine, recompiled) = graphs.values()
    assert recompiled <= compiled + 2  # a length in between, and any length
    assert max(gaps(mine, theirs)) <= 1e-5
    assert mine.batching.packs
    assert [rows for rows, _ in mine.passes] == [4, 4]  # of 16, with credit


def test_positions_that_count_padding_keep_it(monkeypatch):
    """GPT-2 numbers columns, so that a trimmed prompt would have other log-probabilities."""
    tiny = policy()

    def learned():
        torch.manual_seed(3)
        config = GPT2Config(vocab_size=tiny.config.vocab_size, n_positions=64, n_embd=16,
                            n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
                            attn_pdrop=0)  # fmt: skip
        model = GPT2LMHeadModel(config)
        model.config._name_or_path = tiny.config._name_or_path
        return model

    monkeypatch.setattr("harness.policy", learned)
    options = {"arguments": WORKLOADS["long prompt"].arguments, "loss_type": "grpo"}
    mine = ours(num_iterations=2, max_steps=2, **options)
    assert max(gaps(mine, trl(num_iterations=2, max_steps=2, **options))) <= 1e-5
    assert {width - 28 for _, width in mine.passes} < set(range(2, 13))  # prompts of 28 tokens


def test_a_prompt_is_run_once_for_its_completions(monkeypatch):
    # Two groups with credit, prompts of 28 and 26 and completions of 5. TRL runs 16 x (28 + 5)
    # tokens, ours 27 + 25 + 8 x 5: the last token of a prompt goes with the completions.
    tokens = []
    inner = LlamaModel.forward

    def recorded(self, input_ids, *args, **kwargs):
        if torch.is_grad_enabled():
            tokens.append(input_ids.numel())
        return inner(self, input_ids, *args, **kwargs)

    work = Workload(((5,) * 4,) * 4, (2, 3), (LONG, LONG[2:], "1=", "2="))
    options = {"arguments": work.arguments, "max_steps": 1, "loss_type": "grpo"}
    theirs = trl(**options)
    monkeypatch.setattr(LlamaModel, "forward", recorded)
    mine = ours(**options)
    assert max(gaps(mine, theirs)) <= 1e-5
    assert mine.passes == [(8, 33)]
    assert tokens[-1] == 27 + 25 + 8 * 5  # the trial came before


def test_passes_without_gradient_are_cut_too(monkeypatch, free_passes):
    found = []
    inner = GRPOTrainer._get_per_token_logps_and_entropies

    @functools.wraps(inner)  # the parameters are checked at start-up
    def recorded(self, model, input_ids, *args, **kwargs):
        if not torch.is_grad_enabled():
            found.append(tuple(input_ids.shape))
        return inner(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", recorded)
    work = Workload(((10, 2, 10, 2),) * 4)
    options = {"arguments": work.arguments, "max_steps": 4, "num_iterations": 2, "beta": 0.1}
    ours(credit="noted/seq", **options)
    # old log-probs of the policy, of the reference, and entropies: each 8 rows of 14 and 8 of 6
    assert found.count((1, 6)) == 2 * 3 * 8  # of both generations, one row each
    assert found.count((1, 14)) >= 2 * 3 * 8  # and in trials
    assert (16, 14) not in found  # the trial comes before the first
    found.clear()
    ours(credit="noted/seq", efficient_batching="off", **options)
    assert found == [(16, 14)] * 6  # which TRL runs in two passes of 8


def test_clip_ratios_are_over_all_rows_and_entropies_over_those_that_ran():
    work = WORKLOADS["dead"]
    options = {"arguments": work.arguments, "num_iterations": 2, "max_steps": 2,
               "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}  # fmt: skip
    SEEN.clear()
    theirs = trl(loss_type="luspo", **options).logs[1]  # one micro-batch: its means are the step's
    mine = ours(credit="noted/seq", importance_sampling_level="token", **options)
    assert sum(rows for rows, _ in mine.passes[-2:]) < 16
    names = [name for name in theirs if name.startswith("clip_ratio/")]
    assert len(names) == 5
    assert theirs["clip_ratio/region_mean"] > 0
    assert {n: mine.logs[1][n] for n in names} == pytest.approx(
        {n: theirs[n] for n in names}, rel=ROUNDING
    )
    credited = SEEN[0].mask & (SEEN[0].advantages != 0)[:, None]
    entropy = float(SEEN[0].entropies[credited].mean())
    assert mine.logs[0]["entropy"] == pytest.approx(entropy, rel=ROUNDING)


def test_means_over_tokens_are_those_of_one_micro_batch():
    options = {"arguments": WORKLOADS["reference"].arguments, "num_iterations": 2, "max_steps": 2,
               "beta": 0.1, "loss_type": "grpo"}  # fmt: skip
    whole = trl(per_device_train_batch_size=16, gradient_accumulation_steps=1, **options).logs[1]
    mine = ours(per_device_train_batch_size=4, gradient_accumulation_steps=4, **options).logs[1]
    names = [name for name in whole if name.startswith(("clip_ratio/", "kl", "entropy"))]
    assert len(names) == 7
    assert {n: mine[n] for n in names} == pytest.approx({n: whole[n] for n in names}, rel=1e-5)


@pytest.mark.parametrize("value", ["on", True, "Auto"])
def test_another_value_is_refused(value):
    with pytest.raises(CreditError, match=f"efficient_batching is {value!r}, expected 'auto' or"):
        CreditGRPOConfig("out", efficient_batching=value)


def test_yaml_reads_off_as_false():
    assert CreditGRPOConfig("out", efficient_batching=False).efficient_batching == "off"


@pytest.fixture
def scored(monkeypatch):
    """Record how passes without gradient are run: the mode, and the rows of TRL's own pass."""
    found = []
    inner = GRPOTrainer._get_per_token_logps_and_entropies

    @functools.wraps(inner)
    def recorded(self, *args, batch_size=None, **kwargs):
        if not torch.is_grad_enabled():
            found.append((self.model.training, batch_size))
        return inner(self, *args, batch_size=batch_size, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", recorded)
    return found


def test_the_first_scoring_of_a_run_is_cut_as_all_others(scored):
    """A resumed run's first is one in the middle of the unbroken run, which must be equal to it."""
    trace = ours(credit="seq", arguments=WORKLOADS["reference"].arguments, num_iterations=2,
                 max_steps=4)  # fmt: skip
    assert trace.batching.packs
    assert set(scored) == {(True, None)}  # the trial's and ours; TRL's own passes have a size


def test_an_evaluation_before_any_trial_is_scored_as_in_trl(scored):
    ours(credit="noted/seq", max_steps=1, eval_strategy="steps", eval_steps=9,
         eval_on_start=True, per_device_eval_batch_size=4)  # fmt: skip
    assert (False, 4) in scored
