"""What the trainer logs, refuses, and computes for a strategy that needs more."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import trl
from harness import GROUP, PROMPTS, ROUNDING, TOKENIZER, completion, difference, ours, run
from trl import GRPOConfig, GRPOTrainer

from grpo_credit import CreditError, CreditGRPOConfig, CreditGRPOTrainer, allocation
from grpo_credit.credit import diagnostics
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.needs import OF_A_TRAINER
from grpo_credit.credit.rollouts import OPTIONAL
from grpo_credit.credit.saved import load_rollouts
from grpo_credit.trainer.collector import RolloutCollector
from grpo_credit.trainer.credit_tables import load_credit
from grpo_credit.trainer.identities import RowBeta
from grpo_credit.trainer.micro_batches import CreditWindow
from grpo_credit.trainer.seams import SeamError

SEEN = []


@allocation(needs=["old_logps", "entropies"])
def needy(rollouts):
    """Weigh tokens by their surprisal, and remember what was given."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * -rollouts.old_logps * rollouts.mask


@allocation
def first_half(rollouts):
    """Give no credit to the second half."""
    first = rollouts.position * 2 < rollouts.lengths[:, None]
    return rollouts.advantages[:, None] * first * rollouts.mask


@pytest.mark.parametrize(
    ("per_generation", "drawn_on"), [(1, [2] * 3), (2, [1] * 3), (3, [1, 2, 1])]
)
def test_rewards_are_normalised_in_their_own_generation_as_by_trl(per_generation, drawn_on):
    SEEN.clear()
    ours(
        credit="needy/seq", scale_rewards="batch", steps_per_generation=per_generation, prompts=8,
        per_device_train_batch_size=4, max_steps=3,
    )  # fmt: skip
    assert [len(rollouts.generation.unique()) for rollouts in SEEN] == drawn_on
    for r in SEEN:
        own = group_advantages(r.rewards, r.group, r.scale_rewards, r.generation)
        torch.testing.assert_close(own, r.advantages)


def test_credit_metrics_are_of_what_was_trained_on():
    log = ours(credit="first_half/uniform", max_steps=1, tools=True).logs[0]
    one_step = {k.removeprefix("credit/"): v for k, v in log.items() if k.startswith("credit/")}
    assert set(one_step) == {
        "mass", "mass_positive", "mass_negative", "effective_tokens", "gini", "zero_share",
        "sign_flip_rate", "dead_groups", "dead_groups_low", "dead_groups_high", "norm_ratio",
        "anchor_hits", "role_think", "role_call", "role_answer",
        *(f"turn_{n + 1}" for n in range(4)),
        *(f"position_{n + 1}" for n in range(10)), *(f"length_{n + 1}" for n in range(4)),
    }  # fmt: skip
    assert 0.5 < one_step["norm_ratio"] < 1
    assert sum(one_step[f"position_{n + 1}"] for n in range(6)) == pytest.approx(1)
    assert one_step["mass"] == pytest.approx(
        one_step["mass_positive"] + one_step["mass_negative"], abs=ROUNDING
    )
    assert 0.3 < one_step["zero_share"] < 0.7
    even = ours(credit="uniform", max_steps=1, tools=True).logs[0]
    assert one_step["effective_tokens"] < even["credit/effective_tokens"]


def test_a_log_describes_the_last_step_and_the_mean_of_dead_groups(monkeypatch):
    described, summary = [], diagnostics.summary
    monkeypatch.setattr(
        diagnostics, "summary", lambda *given: described.append(given) or summary(*given)
    )
    every = ours(credit="first_half/seq", max_steps=3, prompts=8).logs
    assert len(described) == 3
    of_step = [f"credit/{name}" for name in summary(*described[0])]
    described.clear()
    _, second, third, *_ = every
    log, last = ours(credit="first_half/seq", max_steps=3, prompts=8, logging_steps=2).logs
    assert len(described) == 2
    assert {n: log[n] for n in of_step} == pytest.approx({n: second[n] for n in of_step})
    assert {n: last[n] for n in of_step} == pytest.approx({n: third[n] for n in of_step})
    for name in ("dead_groups", "dead_groups_low", "dead_groups_high"):
        mean = sum(step[f"credit/{name}"] for step in every[:2]) / 2
        assert log[f"credit/{name}"] == pytest.approx(mean)


def test_what_is_a_low_reward_survives_a_resume(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path)}
    ours(credit="seq", max_steps=1, **options)
    always = {"reward_funcs": lambda completions, **_: [0.4] * len(completions)}
    alone = ours(credit="seq", max_steps=1, arguments=always).logs[0]
    assert alone["credit/dead_groups_high"] == 1  # above 0, the best there was
    resumed = ours(
        credit="seq", max_steps=2, arguments=always, resume=str(tmp_path / "checkpoint-1"),
        **options,
    ).logs[0]  # fmt: skip
    assert resumed["credit/dead_groups_low"] == 1  # rewards went from 0 to 2


def test_the_credit_of_each_token_lies_beside_the_completions(tmp_path):
    options = {"log_completions": True, "num_completions_to_print": 0, "output_dir": str(tmp_path)}
    ours(credit="first_half/seq", max_steps=2, tools=True, **options)
    assert sorted(p.name for p in (tmp_path / "completions").iterdir()) == [
        "completions_00001.parquet", "completions_00002.parquet",
    ]  # fmt: skip
    table = load_credit(tmp_path / "credit" / "credit_00002.parquet")
    logged = pd.read_parquet(tmp_path / "completions" / "completions_00002.parquet")
    assert table.prompt.tolist() == logged.prompt.tolist()
    assert table.advantage.tolist() == pytest.approx(logged.advantage.tolist())
    for _, line in table.iterrows():
        ids = completion(line.prompt, line.row % GROUP)
        assert line.token_ids.tolist() == ids
        assert line.tokens == [TOKENIZER.decode([i]) for i in ids]
        kept = [t for t, counted in enumerate(line.counted) if counted]
        for place, t in enumerate(kept):
            expected = line.advantage / 16 if place * 2 < len(kept) else 0.0
            assert line.credit[t] == pytest.approx(expected)
        assert all(line.credit[t] == 0 for t in set(range(len(ids))) - set(kept))


def test_rollouts_of_every_nth_step_are_kept_whole(tmp_path):
    ours(credit="first_half/seq", max_steps=5, tools=True, save_rollouts=2,
         output_dir=str(tmp_path))  # fmt: skip
    names = sorted(p.name for p in (tmp_path / "rollouts").iterdir())
    assert names == ["rollouts_00002.parquet", "rollouts_00004.parquet"]
    saved = load_rollouts(tmp_path / "rollouts" / names[1])
    assert saved.credit == "first_half/seq"
    assert [TOKENIZER.decode(ids) for ids in saved.prompt_ids] == saved.prompts
    assert saved.temperature == 1.0
    given = set(OPTIONAL) - OF_A_TRAINER
    assert all(getattr(saved.rollouts, name) is not None for name in given)
    for prompt, tokens, text in zip(saved.prompts, saved.tokens, saved.rollouts.texts, strict=True):
        assert prompt in PROMPTS
        assert "".join(tokens).replace("<eos>", "") == text


def test_rollouts_are_kept_where_a_generation_lasts_several_steps(tmp_path):
    ours(
        credit="seq", max_steps=4, num_iterations=2, save_rollouts=4, steps_per_generation=4,
        prompts=8, output_dir=str(tmp_path),
    )  # fmt: skip
    saved = load_rollouts(tmp_path / "rollouts" / "rollouts_00004.parquet")
    assert saved.rollouts.entropies is not None
    assert (saved.rollouts.window_count > 0).sum() == 16


def test_a_strategy_gets_what_it_declares_to_need():
    SEEN.clear()
    ours(credit="needy/dapo", max_steps=2, tools=True)
    assert len(SEEN) == 2
    for rollouts in SEEN:
        assert (rollouts.old_logps[rollouts.mask] < 0).all()
        assert (rollouts.entropies[rollouts.mask] > 1).all()  # nats, of a random model
        assert rollouts.reward_names == ("reward",)
        assert rollouts.truncated.tolist().count(True) == 1
        assert rollouts.group.tolist() == sorted(list(range(4)) * GROUP)


def test_needs_are_the_same_with_recorded_log_probs():
    SEEN.clear()
    ours(credit="needy/dapo", max_steps=1, num_iterations=2)  # TRL computes old_per_token_logps
    ours(credit="needy/dapo", max_steps=1)
    recorded, computed = (r.old_logps.masked_fill(~r.mask, 0) for r in SEEN)
    torch.testing.assert_close(recorded, computed)


def test_without_needs_nothing_more_is_computed(monkeypatch):
    def fail(*_):
        raise AssertionError("scored for nobody")

    monkeypatch.setattr(RolloutCollector, "_score", fail)
    assert ours(credit="first_half/dapo", max_steps=1).losses


def test_a_callable_is_a_strategy():
    trace = ours(max_steps=1, arguments={"credit": lambda r: r.advantages[:, None] * r.mask / 8})
    twin = ours(max_steps=1, arguments={"credit": "seq"})
    assert difference(trace.gradients[0], 2 * twin.gradients[0]) <= ROUNDING


def test_options_reach_the_strategy():
    @allocation
    def scaled_by(rollouts, *, factor: float = 1.0):
        return factor * rollouts.advantages[:, None] * rollouts.mask

    plain = ours(credit="scaled_by/seq", max_steps=1, importance_sampling_level="token")
    twice = ours(
        credit="scaled_by/seq", credit_kwargs='{"factor": 2}', max_steps=1,
        importance_sampling_level="token",
    )  # fmt: skip
    assert difference(twice.gradients[0], 2 * plain.gradients[0]) <= ROUNDING


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"credit": "tree_td"}, {"loss_type": "vespo"}, "both signs"),
        ({"credit": "delta_l", "credit_kwargs": {"alpha": 99.0}}, {}, "alpha is 99"),
        ({"credit": "patterns", "credit_kwargs": {"patterns": ["("]}}, {}, "position"),
        ({"credit": "entropy_top"}, {"top_entropy_quantile": 0.5}, "both choose tokens by entropy"),
        (
            {"credit": "loo"},
            {"multi_objective_aggregation": "normalize_then_sum"},
            "which 'loo/dapo' replaces by its own",
        ),
        (
            {"credit": "temper/seq", "credit_kwargs": {"tau": 0.5}},
            {"beta": 0.1},
            r"beta=0.1 cannot go with credit='temper/seq': it adds a KL .* set beta=0: the rule",
        ),
        (
            {"credit": "even@0.5,temper@0.5/seq", "credit_kwargs": {"tau": 0.5}},
            {"entropy_coef": 0.1},
            "an entropy bonus cannot go with credit=",
        ),
        (
            {"credit": "temper/seq", "credit_kwargs": {"tau": 0.5}},
            {"sync_ref_model": True},
            "sync_ref_model=True cannot go with .* moves the reference p after the policy",
        ),
        ({"credit": "temper/seq", "credit_kwargs": {"tau": 0.0}}, {}, "tau is 0, expected a fin"),
    ],
)
def test_clashes_are_refused_in_the_constructor(arguments, options, message):
    with pytest.raises(CreditError, match=message):
        ours(arguments=arguments, **options)


def test_bnpo_is_refused_with_a_plain_config():
    with pytest.raises(CreditError, match="micro-batch"):
        run(CreditGRPOTrainer, GRPOConfig, loss_type="bnpo")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda r: r.advantages, r"returned \(16,\), expected a tensor of shape \(16, "),
        (lambda r: r.mask * math.nan, "nan to token 0 of completion 0"),
    ],
)
def test_a_wrong_rule_stops_the_first_step(returned, message):
    with pytest.raises(CreditError, match=message):
        ours(arguments={"credit": returned})


def test_inputs_outside_of_a_step_are_refused():
    host = SimpleNamespace(model=torch.nn.Module().train())
    with pytest.raises(RuntimeError, match="without a batch of an optimizer step"):
        CreditWindow(host).inputs(lambda batch: batch, [])


# ---- seams ------------------------------------------------------------------------------------


def test_an_interrupted_step_leaves_no_trace():
    taken = {"batches": 0}

    def fails(completions, **_):
        taken["batches"] += 1
        if taken["batches"] == 2:  # the step draws on two generation batches
            raise ValueError("no reward today")
        return [float(i) for i in range(len(completions))]

    class Watched(CreditGRPOTrainer):
        def training_step(self, *args, **kwargs):
            taken["trainer"] = self
            return super().training_step(*args, **kwargs)

    with pytest.raises(ValueError, match="no reward today"):
        run(
            Watched, CreditGRPOConfig, arguments={"reward_funcs": fails},
            steps_per_generation=1, gradient_accumulation_steps=2,
        )  # fmt: skip
    assert taken["trainer"]._step == 0
    assert taken["trainer"]._loss._anchored is None


def test_a_missing_method_is_named(monkeypatch):
    monkeypatch.delattr(GRPOTrainer, "_calculate_rewards")
    with pytest.raises(SeamError, match=rf"TRL {trl.__version__} has no GRPOTrainer._calculate_re"):
        ours()


def test_a_changed_signature_is_named(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_prepare_inputs", lambda self, batch: batch)
    with pytest.raises(SeamError, match=r"parameter 'generation_batch' of GRPOTrainer\._prepare"):
        ours()


def test_a_changed_body_is_named(monkeypatch):
    def _compute_loss(self, model, inputs):
        return inputs["advantages"].sum()

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", _compute_loss)
    with pytest.raises(
        SeamError, match=r"GRPOTrainer\._compute_loss that credit goes through \(it "
    ):
        ours()


def test_a_kl_term_that_goes_another_way_stops_the_run(monkeypatch):
    never = property(lambda self: False, lambda self, _: None)
    monkeypatch.setattr(RowBeta, "used", never, raising=False)
    with pytest.raises(SeamError, match="per_token_kl"):
        ours(credit="length", beta=0.1, max_steps=1)


# ---- completions outside of training ----------------------------------------------------------


def test_greedy_completions_repeat_and_sampled_ones_do_not(tmp_path):
    from datasets import Dataset
    from harness import policy, reward

    trainer = CreditGRPOTrainer(
        policy(), reward, CreditGRPOConfig(str(tmp_path), report_to=[], max_completion_length=8),
        Dataset.from_dict({"prompt": ["1+1="]}), processing_class=TOKENIZER,
    )  # fmt: skip
    prompts = ["1+2=", "3+4+5=", "1+2="]
    first, second = (trainer.complete(prompts, greedy=True) for _ in range(2))
    assert first == second
    assert first[0] == first[2]
    assert len(set(trainer.complete(["1+2="] * 8))) > 1
    assert trainer.generation_config.do_sample is True  # as training needs it
