"""What a strategy may ask of the policy, against the policy's own logits."""

import pytest
import torch
from datasets import Dataset
from harness import PROMPTS, TOKENIZER, ours, policy, reference, reward
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

from grpo_credit import (
    CreditError,
    CreditGRPOConfig,
    CreditGRPOTrainer,
    allocation,
    load_rollouts,
)
from grpo_credit.trainer.scoring import Keeping
from grpo_credit.trainer.seams import SeamError

SEEN = []


@allocation(needs=["old_logps", "entropies", "sum_sq_probs", "privileged_logps"])
def curious(rollouts):
    """Remember what the policy told."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


@allocation(needs=["ref_logps"])
def referring(rollouts):
    """Remember what the reference model told."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


def log_probs(prompt, ids, model=None):
    """Run the policy, or another model, on one prompt and completion, without padding."""
    start = TOKENIZER.encode(prompt)
    with torch.no_grad():
        logits = (model or policy())(torch.tensor([[*start, *ids]])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(-1)


def data(privileged):
    return {"prompt": PROMPTS[:4], "privileged_prompt": privileged}


@pytest.mark.parametrize("iterations", [1, 2])  # with two, TRL records old log-probs itself
def test_the_policy_is_asked_once_per_generation_batch(iterations):
    SEEN.clear()
    privileged = ["9:" + prompt for prompt in PROMPTS[:4]]
    privileged[1] = None  # this prompt has no more to show
    ours(
        credit="curious/seq", max_steps=iterations, num_iterations=iterations, tools=True,
        arguments={"train_dataset": Dataset.from_dict(data(privileged))},
    )  # fmt: skip
    seen = SEEN[0]
    for row in range(16):
        own = seen.mask[row]
        ids = seen.completion_ids[row]
        ids = ids[: int(own.nonzero()[-1]) + 1].tolist()
        prompt, shown = PROMPTS[row // 4], privileged[row // 4]
        plain = log_probs(prompt, ids)
        other = log_probs(shown or prompt, ids)
        at = torch.arange(len(ids)), torch.tensor(ids)
        kept = own[: len(ids)]

        def same(name, expected, row=row, kept=kept):
            found = getattr(seen, name)[row, : len(kept)]
            torch.testing.assert_close(found[kept], expected[kept], rtol=1e-4, atol=1e-5)

        same("old_logps", plain[at])
        same("entropies", -(plain.exp() * plain).sum(-1))
        same("sum_sq_probs", plain.exp().square().sum(-1))
        same("privileged_logps", other[at])


def test_a_missing_privileged_column_is_named():
    with pytest.raises(CreditError, match="column 'privileged_prompt'; the data set has prompt"):
        ours(credit="curious/seq")
    with pytest.raises(CreditError, match="column 'gold'; the data set has prompt, privileged"):
        ours(
            credit="curious/seq", privileged_column="gold",
            arguments={"train_dataset": Dataset.from_dict(data(PROMPTS[:4]))},
        )  # fmt: skip


def test_a_field_that_is_not_computed_is_not_kept():
    model = policy()
    kept = Keeping(model)
    kept(torch.tensor([[1, 2]]))
    assert kept.field("log_sum_sq_probs", 1) is None
    assert kept.config is model.config


# ---- the reference model ------------------------------------------------------------------------


def expect_logps(seen, model):
    """Compare `ref_logps` with a model's own log-probabilities, completion by completion."""
    for row in range(16):
        ids = seen.completion_ids[row][: int(seen.mask[row].nonzero()[-1]) + 1].tolist()
        own = log_probs(PROMPTS[row // 4], ids, model)[torch.arange(len(ids)), torch.tensor(ids)]
        found = seen.ref_logps[row, : len(ids)]
        kept = seen.mask[row, : len(ids)]
        torch.testing.assert_close(found[kept], own[kept], rtol=1e-4, atol=1e-5)
    assert (seen.ref_logps[:, -1] == 0).any()  # padding


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("iterations", [1, 2])
def test_the_reference_model_is_trls_whatever_beta(beta, iterations):
    SEEN.clear()
    trace = ours(credit="referring/seq", beta=beta, num_iterations=iterations, tools=True)
    assert trace.batching.packs
    assert trace.batching.skips == (beta == 0)
    assert len(SEEN) == 2
    expect_logps(SEEN[0], AutoModelForCausalLM.from_pretrained(reference()))


def test_the_reference_of_a_new_adapter_is_its_base_and_of_an_old_one_itself():
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    SEEN.clear()
    ours(credit="referring/seq", arguments={"peft_config": lora}, learning_rate=1.0)
    expect_logps(SEEN[1], policy())  # after a step

    def trained():
        torch.manual_seed(0)
        model = get_peft_model(policy(), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        return model

    SEEN.clear()
    ours(credit="referring/seq", model=trained(), learning_rate=1.0)
    expect_logps(SEEN[1], trained())


@pytest.mark.parametrize(("credit", "there"), [("referring/seq", True), ("even/seq", False)])
def test_a_reference_model_is_made_where_asked_and_beta_is_left_as_it_was(credit, there, tmp_path):
    trainer = CreditGRPOTrainer(
        model=policy(), reward_funcs=reward, processing_class=TOKENIZER,
        args=CreditGRPOConfig(str(tmp_path), credit=credit, report_to=[]),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )  # fmt: skip
    assert (trainer.ref_model is not None) == there
    assert trainer.beta == trainer.args.beta == 0


def test_a_model_that_cannot_be_loaded_again_is_refused():
    model = policy()
    model.config._name_or_path = ""
    with pytest.raises(CreditError, match="loads from where the model was loaded from; this one"):
        ours(credit="referring/seq", model=model)


@pytest.mark.parametrize(
    ("credit", "beta", "there"),
    [("seq", 0.0, False), ("seq", 0.1, True), ("referring/seq", 0, True)],
)
def test_saved_rollouts_hold_the_reference_where_there_is_one(tmp_path, credit, beta, there):
    ours(credit=credit, beta=beta, max_steps=1, save_rollouts=1, output_dir=str(tmp_path))
    saved = load_rollouts(tmp_path / "rollouts" / "rollouts_00001.parquet").rollouts
    assert (saved.ref_logps is not None) == there


def test_a_trl_that_does_not_return_the_references_is_named(monkeypatch):
    generate = GRPOTrainer._generate_and_score_completions

    def without(self, inputs):
        return {k: v for k, v in generate(self, inputs).items() if not k.startswith("ref_")}

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", without)
    with pytest.raises(SeamError, match="no ref_per_token_logps of _generate_and_score"):
        ours(credit="referring/seq")
