"""What a strategy may ask of the policy, against the policy's own logits."""

import pytest
import torch
from datasets import Dataset
from harness import PROMPTS, TOKENIZER, ours, policy

from grpo_credit import CreditError, allocation
from grpo_credit.trainer.scoring import Keeping

SEEN = []


@allocation(needs=["old_logps", "entropies", "sum_sq_probs", "privileged_logps"])
def curious(rollouts):
    """Remember what the policy told."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


def log_probs(prompt, ids):
    """Run the policy on one prompt and completion, without padding."""
    start = TOKENIZER.encode(prompt)
    with torch.no_grad():
        logits = policy()(torch.tensor([[*start, *ids]])).logits[0, len(start) - 1 : -1]
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
