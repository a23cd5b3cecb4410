"""Supervised training: the credit of documents, however a step is cut, padded or packed."""

import functools
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from harness import ROUNDING, TOKENIZER, difference, shipped
from peft import LoraConfig, PromptTuningConfig
from sft_helpers import (
    FOUR,
    FREE,
    LIMIT,
    PACKED,
    PADDED,
    SIZES,
    TEMPERED,
    documents,
    predicted,
    sampled,
    slow,
    tempered_weights,
    trained,
    trainer,
    weights_of,
)
from torchrun import launch
from trl import SFTConfig, SFTTrainer

from grpo_credit import (
    CreditError,
    CreditSFTConfig,
    CreditSFTTrainer,
    Rollouts,
    compute_credit,
    load_rollouts,
)
from grpo_credit.credit.documents import check_documents
from grpo_credit.credit.parse import resolve_with
from grpo_credit.trainer.seams import SeamError
from grpo_credit.trainer.sft_config import check_parallelism
from grpo_credit.trainer.sft_loss import Weighed, check_supervised_loss, documents_of

expected = functools.cache(lambda name: slow(weights_of(name)))
DIGITS = torch.tensor(TOKENIZER.encode("0123456789"))


def digits_twice(rollouts):
    """Give digits twice the weight of other tokens, and every document the same."""
    twice = 1 + torch.isin(rollouts.completion_ids, DIGITS).double()
    return twice * rollouts.mask / rollouts.num_completions


def assert_close(loss, gradient, reference):
    assert loss == pytest.approx(reference[0], rel=ROUNDING)
    assert difference(gradient, reference[1]) <= ROUNDING


@pytest.mark.parametrize("layout", [*PADDED, *PACKED, *FREE], ids=str)
def test_loss_and_gradient_are_those_of_slow_sums(layout):
    for name in FOUR:
        named = name == "uniform" and "padding_free" in layout  # where TRL wants max_length=None
        options = {"credit_kwargs": {"limit": LIMIT}} if named else {}
        run = trained(**layout, **options, credit=name)
        assert_close(run.losses.train[0], run.trace.gradients[0], expected(name))


@pytest.mark.slow
def test_two_processes_give_the_same(tmp_path):
    launch(2, "sft_two_processes.py", tmp_path)
    said = torch.load(tmp_path / "said.pt")
    theirs, own_mean = said.pop((0, None)), said.pop((0, "own mean"))
    assert_close(*said.pop((0, "lhts")), slow(tempered_weights()))
    assert len(said) == 19
    for (_, name), (loss, gradient) in said.items():
        assert_close(loss, gradient, expected(name))
    assert difference(own_mean[1], expected("length")[1]) <= ROUNDING
    assert said[0, "dapo"][0] == theirs[0]
    assert torch.equal(said[0, "dapo"][1], theirs[1])


@pytest.mark.parametrize("layout", [PADDED[2], PACKED[0], FREE[1]], ids=str)
@pytest.mark.parametrize("credit", [None, "dapo"])
def test_without_credit_and_with_dapo_training_is_trls_to_the_last_bit(layout, credit):
    options = {**layout, "max_steps": 3, "optim": "adamw_torch"}
    theirs = trained(**options, cls=SFTTrainer, config=SFTConfig)
    ours = trained(**options, credit=credit)
    tokens = torch.tensor(float(sum(map(len, predicted()))))
    assert 1 / tokens * tokens != 1  # in float32, so that rounding would show
    assert ours.losses.train == theirs.losses.train
    assert all(map(torch.equal, ours.trace.gradients, theirs.trace.gradients))
    assert len(theirs.trace.gradients) == 3
    assert all(map(torch.equal, ours.model.parameters(), theirs.model.parameters()))


def test_entropy_accuracy_and_evaluation_stay_trls():
    evaluated = {"given": {"eval_dataset": Dataset.from_list(documents())}}
    theirs = trained(**evaluated, cls=SFTTrainer, config=SFTConfig, learning_rate=0.0)
    ours = trained(**evaluated, credit="seq", learning_rate=0.0)
    for key in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert ours.losses.logs[0][key] == theirs.losses.logs[0][key]
    assert ours.evaluate()["eval_loss"] == theirs.evaluate()["eval_loss"]


@pytest.mark.parametrize("layout", [PADDED[1], PACKED[0]], ids=str)
@pytest.mark.parametrize(
    ("credit", "options"),
    [("trace/length", {"decay": 0.9}), ("delta_l", {"alpha": 0.5}), (digits_twice, {})],
)
def test_other_rules_and_ones_own_weigh_each_token(layout, credit, options):
    lengths = [len(ids) for ids in predicted()]
    window = Rollouts.from_documents(lengths, token_ids=predicted(), dtype=torch.float64)
    matrix = compute_credit(credit, window, **options)
    weights = [row[: len(ids)].tolist() for row, ids in zip(matrix, predicted(), strict=True)]
    assert len({round(w, 12) for own in weights for w in own}) > 1
    run = trained(**layout, given={"credit": credit, "credit_kwargs": options})
    assert_close(run.losses.train[0], run.trace.gradients[0], slow(weights))


def test_an_adapter_is_trained_by_the_same_credit():
    seq, dapo = (
        trained(credit=name, given={"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"])})
        for name in ("seq", "dapo")
    )
    tokens = sum(len(ids) for ids in predicted())
    gradient = dapo.trace.gradients[0] * tokens / len(SIZES)
    assert difference(seq.trace.gradients[0], gradient) <= ROUNDING
    assert gradient.any()


# ---- log-probabilities of the data -----------------------------------------------------------


@pytest.mark.parametrize("layout", [PADDED[0], PADDED[2], *FREE], ids=str)
def test_log_probabilities_of_the_data_reach_a_rule(layout):
    data = {"train_dataset": sampled(), "eval_dataset": sampled()}
    run = trained(**layout, **TEMPERED, given=data, learning_rate=0.0)
    assert_close(run.losses.train[0], run.trace.gradients[0], slow(tempered_weights()))
    assert run.evaluate()["eval_loss"] == trainer(**layout, given=data).evaluate()["eval_loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.pop("old_logps"),
            "'lhts/seq' needs the log-probability of each token und",
        ),
        (lambda row: row["old_logps"].pop(), "has 19 old_logps for 20 input_ids, expected one ea"),
        (lambda row: row["old_logps"].__setitem__(5, 0.5), "old_logps holds 0.5 for a predicted t"),
        (lambda row: row["old_logps"].__setitem__(5, None), "old_logps holds nan for a predicted"),
    ],
)
def test_data_that_do_not_tell_log_probabilities_are_refused(change, message):
    row = sampled()[1]
    row["labels"] = row["input_ids"]
    change(row)
    with pytest.raises(CreditError, match=message):
        trained(rows=1, **TEMPERED, given={"train_dataset": Dataset.from_list([row])})


def test_a_collator_that_loses_the_log_probabilities_is_named():
    made = trainer(**TEMPERED, given={"train_dataset": sampled()})
    made.data_collator = made.data_collator._collate
    with pytest.raises(CreditError, match="a batch has no 'old_logps'"):
        made.train()


# ---- documents ----------------------------------------------------------------------------------


def test_position_ids_tell_documents_apart_and_padding_is_none():
    row = torch.tensor([[5, 6, 7, 8, 9, -100, -100], [1, -100, 2, 3, 4, 5, 6]])
    places = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
    labels = row.masked_fill(places == 0, -100)
    where, ids = documents_of({"labels": labels, "position_ids": places})
    assert ids == [[6, 7], [9], [2, 3, 4, 5, 6]]
    assert torch.equal(labels[:, 1:][where], torch.tensor([i for own in ids for i in own]))
    assert documents_of({"labels": row})[1] == [[6, 7, 8, 9], [2, 3, 4, 5, 6]]


def test_a_step_without_a_predicted_token_trains_nothing():
    masked = [{"input_ids": [3, 4, 5], "labels": [-100] * 3}] * 2
    run = trained(
        rows=2, max_length=None, credit="seq", given={"train_dataset": Dataset.from_list(masked)}
    )
    assert run.losses.train == [0.0]
    assert not run.trace.gradients[0].any()


def test_documents_are_rows_with_advantage_1_and_no_reward():
    made = Rollouts.from_documents([2, 0, 3], max_length=4, token_ids=[[7, 8], [], [9, 9, 9]])
    assert made.completion_ids.tolist() == [[7, 8, 0], [0, 0, 0], [9, 9, 9]]
    assert made.lengths.tolist() == [2, 0, 3]
    assert made.advantages.tolist() == [1, 1, 1]
    assert made.group.tolist() == [0, 1, 2]
    assert made.rewards.isnan().all()
    assert not Rollouts.from_documents([2]).truncated.any()
    with pytest.raises(ValueError, match="has 5 predicted tokens, expected at most max_length=4;"):
        Rollouts.from_documents([2, 5], max_length=4)


def assert_whole(saved):
    """Heads and predicted tokens make up the documents."""
    whole = sorted(TOKENIZER.decode(document["input_ids"]) for document in documents())
    assert sorted(h + "".join(t) for h, t in zip(saved.prompts, saved.tokens, strict=True)) == whole


def test_the_documents_of_a_step_are_kept_and_can_be_weighed_by_any_rule(tmp_path):
    trained(**PACKED[1], credit="length", max_steps=2, save_rollouts=2, output_dir=str(tmp_path))
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["rollouts_00002.parquet"]
    saved = load_rollouts(tmp_path / "rollouts" / "rollouts_00002.parquet")
    kept = [
        row[: len(texts)]
        for row, texts in zip(saved.rollouts.completion_ids.tolist(), saved.tokens, strict=True)
    ]
    assert sorted(kept) == sorted(predicted())
    assert (saved.credit, saved.options) == ("length", {})
    assert_whole(saved)
    credit = resolve_with("length", {}).credit(saved.rollouts)
    assert credit.sum(dim=1).tolist() == pytest.approx([1 / len(SIZES)] * len(SIZES))


def test_of_trls_own_training_documents_are_kept_too(tmp_path):
    trained(**PADDED[1], save_rollouts=1, output_dir=str(tmp_path))
    saved = load_rollouts(tmp_path / "rollouts" / "rollouts_00001.parquet")
    assert (len(saved.prompts), saved.credit) == (len(SIZES), "even/dapo")
    assert_whole(saved)


@pytest.mark.parametrize("layout", [PADDED[2], PACKED[1]], ids=str)
def test_a_resumed_training_is_the_undisturbed_one_to_the_last_bit(layout, tmp_path):
    """Where documents are drawn in another order, credit differs from step to step."""
    options = {
        **layout, "credit": "dapo", "max_steps": 5, "optim": "adamw_torch", "save_steps": 2,
        "save_strategy": "steps", "lr_scheduler_type": "linear", "output_dir": str(tmp_path),
    }  # fmt: skip
    whole = trained(**options)
    again = trainer(**options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(map(torch.equal, again.trace.gradients, whole.trace.gradients[2:]))
    assert len(again.trace.gradients) == 3
    assert again.losses.train == whole.losses.train[2:]
    assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))
    assert [log["num_tokens"] for log in again.losses.logs[:3]] == [
        log["num_tokens"] for log in whole.losses.logs[2:5]
    ]
    over = trainer(**options)
    over.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert not over.trace.gradients  # transformers alone would train a step more
    assert all(map(torch.equal, over.model.parameters(), whole.model.parameters()))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    trained(credit="seq", save_strategy="steps", save_steps=1, output_dir=str(tmp_path))
    (tmp_path / "checkpoint-1" / "optimizer.pt").write_bytes(b"")
    made = trainer(credit="seq", output_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"checkpoint-1 cannot be resumed: optimizer\.pt has 0"):
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


# ---- refusals -----------------------------------------------------------------------------------


def test_of_the_rules_those_that_need_no_rewards_and_groups_are_taken():
    taken = set()
    for rule in shipped():
        options = {"function": "rules:digits_so_far"} if rule.name == "potential" else {}
        options = {"lam": 1.0} if rule.name == "softmax_length" else options
        options = {"tau": 0.5} if rule.name in ("lhts", "temper") else options
        try:
            check_documents(resolve_with(rule.name, options))
        except CreditError as error:
            assert rule.name in str(error).partition("' ")[0]  # noqa: PT017 (others are taken)
            continue
        taken.add(rule.name)
    probable = {"clip_cov", "lhts", "prob_mask", "prob_weight"}  # a column of data may tell them
    assert taken == {*FOUR, "delta_l", "even", "trace", "potential"} | probable


def of_rewards(rollouts):
    """Weigh by the reward, which no document has."""
    return rollouts.rewards.nan_to_num()[:, None] * rollouts.mask


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": "loo"}, "'loo/dapo' looks at rewards or groups, and of a document only"),
        ({"credit": "prompt"}, "'even/prompt' looks at rewards or groups"),
        ({"credit": "entropy_top"}, "'entropy_top/dapo' needs entropies, and of a document only"),
        ({"given": {"credit": of_rewards}}, "'of_rewards' looks at rewards or groups"),
        ({"credit": "lenght"}, "unknown strategy 'lenght'. Did you mean 'length'"),
        ({"credit": of_rewards}, r"pass a function to the trainer: CreditSFTTrainer\("),
        ({"credit_kwargs": {"alpha": 1}}, "are options of no strategy; set credit"),
        ({"credit": "seq", "loss_type": "dft"}, "loss_type='dft' cannot go with credit='even/seq'"),
        ({"credit": "seq", "label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 cannot go"),
        (
            {"credit": "seq", "given": {"compute_loss_func": lambda *_, **__: 0}},
            "compute_loss_func cannot go with credit='even/seq': it computes the loss itself",
        ),
        (
            {"credit": "seq", "packing": True, "packing_strategy": "wrapped"},
            "packing_strategy='wrapped' forgets where documents end, which 'even/seq' weighs by",
        ),
        (
            {"packing": True, **TEMPERED},
            "packing=True keeps input_ids and labels alone, and 'lhts/seq' needs the column 'old",
        ),
        (
            {"credit": "uniform", "padding_free": True, "max_length": None},
            r"'even/uniform' weighs by L_max, but max_length is None .* credit_kwargs={'limit'",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, message):
    with pytest.raises(CreditError, match=message):
        trainer(**options)


@pytest.mark.parametrize("kind", ["sequence", "context", "tensor"])
def test_ranks_that_share_documents_are_refused(kind):
    enabled = {f"{k[0]}p_enabled": k == kind for k in ("sequence", "context", "tensor")}
    accelerator = SimpleNamespace(parallelism_config=SimpleNamespace(**enabled))
    with pytest.raises(CreditError, match=f"^{kind} parallelism .* ranks then share documents"):
        check_parallelism(SimpleNamespace(accelerator=accelerator))


def test_virtual_tokens_are_refused():
    soft = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(CreditError, match="PromptTuningConfig puts virtual tokens before a docum"):
        trainer(credit="seq", given={"peft_config": soft})


def test_a_model_that_is_trained_by_the_mean_of_each_micro_batch_is_refused():
    made = trainer(credit="seq")
    made.model_accepts_loss_kwargs = False
    with pytest.raises(CreditError, match="needs batches with labels and a model that takes num_"):
        made.train()


def test_wrapped_rows_are_trained_by_a_mean_over_tokens():
    options = {"rows": 2, "packing": True, "packing_strategy": "wrapped", "max_length": 10}
    ours, theirs = trained(**options, credit="dapo"), trained(**options, cls=SFTTrainer)
    assert torch.equal(ours.trace.gradients[0], theirs.trace.gradients[0])


def test_a_plain_configuration_and_a_strategy_of_the_trainer():
    run = trained(config=SFTConfig, given={"credit": "seq"})
    assert_close(run.losses.train[0], run.trace.gradients[0], expected("seq"))
    with pytest.raises(CreditError, match="give it once"):
        trainer(credit="seq", given={"credit": "length"})
    assert CreditSFTConfig("out").bf16 is False


def test_a_subclass_that_loses_the_credit_is_stopped():
    class Lost(CreditSFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            del inputs["credit"]
            return super().compute_loss(model, inputs, *args, **kwargs)

    with pytest.raises(CreditError, match="Lost has trained without its credit: get_batch_samples"):
        trained(cls=Lost, credit="seq")


def test_a_loss_that_weights_do_not_go_through_is_no_seam():
    class Squared(SFTTrainer):
        def compute_loss(self, model, *args, **kwargs):
            return model(fused_lm_head=True).log_probs.square().sum()

    with pytest.raises(SeamError, match=r"Squared\.compute_loss that .* \(it gave 13\.06"):
        check_supervised_loss(Squared)
    with pytest.raises(SeamError, match=r"no object\.get_batch_samples, which"):
        check_supervised_loss(object)
    wide = Weighed(
        lambda **_: SimpleNamespace(log_probs=torch.ones(1, 3)),
        torch.ones(1, 2).bool(),
        torch.ones(2),
    )
    with pytest.raises(SeamError, match=r"no log_probs of \(1, 2\) in its fused head"):
        wide(fused_lm_head=True)
