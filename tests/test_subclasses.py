"""What a subclass changes is what is trained on: TRL's gradient, or a refusal by name."""

import pytest
import torch
from datasets import Dataset
from harness import TOKENIZER, difference, policy, reward, run
from test_parity_with_trl import TWINS
from trl import GRPOConfig, GRPOTrainer
from trl.extras.profiling import profiling_decorator

from grpo_credit import CreditError, CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.batching.planner import PASS_COST

STEP = {"max_steps": 2, "num_iterations": 2}


def mixed(mixin, trainer=CreditGRPOTrainer):
    return type(f"Own{trainer.__name__}", (mixin, trainer), {})


def gap(mixin, loss_type="luspo", credit="seq", **options):
    """Give the largest difference to TRL's trainer with the same mixin, relative."""
    twin = TWINS[credit or "dapo"] if credit else {"loss_type": loss_type}
    theirs = run(mixed(mixin, GRPOTrainer), GRPOConfig, **twin, **STEP, **options)
    chosen = {"credit": credit} if credit else {"loss_type": loss_type}
    mine = run(mixed(mixin), CreditGRPOConfig, **chosen, **STEP, **options)
    assert len(theirs.gradients) == len(mine.gradients) == STEP["max_steps"]
    assert all(gradient.norm() > 0 for gradient in theirs.gradients)
    return max(difference(a, b) for a, b in zip(mine.gradients, theirs.gradients, strict=True))


def returning(change):
    """Make a mixin whose generation batch is changed."""

    class Own:
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            return {**output, **change(output)}

    return Own


def uneven(output):
    """Make advantages of one's own, that TRL would not give."""
    return output["advantages"] * 3 + 0.1 + output["completion_ids"][:, 0] / 50


def by_token(output):
    width = output["completion_ids"].size(1)
    return {"advantages": uneven(output)[:, None] * torch.arange(1, width + 1).cos()}


def half(output):
    """Count the first half of each completion only, and tell TRL how many tokens that is."""
    mask = output["completion_mask"]
    mask = mask * (mask.cumsum(1) <= (mask.sum(1, keepdim=True) + 1) // 2)
    return {"completion_mask": mask, "num_items_in_batch": mask.sum()}


def others(output):
    ids = output["completion_ids"]
    return {"completion_ids": torch.where(ids == ids[0, 0], ids[1, 1], ids)}


def without_first_group(output):
    rows = len(output["completion_ids"])
    kept = {
        name: value[4:]
        for name, value in output.items()
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == rows
    }
    tokens = kept["completion_mask"].sum()
    return {**kept, "num_items_in_batch": tokens}


@pytest.mark.parametrize("credit", [*TWINS, None])
@pytest.mark.parametrize(
    "change",
    [lambda output: {"advantages": uneven(output)}, by_token, half, others, without_first_group],
    ids=["advantages", "advantages of tokens", "mask", "tokens", "rows left out"],
)
def test_what_a_generation_batch_holds_is_trained_on(change, credit):
    fewer = {"per_device_train_batch_size": 6, "prompts": 3}
    options = fewer if change is without_first_group else {}
    assert gap(returning(change), credit=credit, **options) <= 1e-5


def test_a_mask_that_trls_denominator_does_not_know_is_told_of(caplog):
    def unsaid(output):
        return {"completion_mask": half(output)["completion_mask"]}

    run(mixed(returning(unsaid)), CreditGRPOConfig, credit="dapo", **STEP)
    assert "tokens to train on, and num_items_in_batch at" in caplog.text


class Penalised:
    """Adds a term of its own to TRL's loss, once per micro-batch."""

    def _compute_loss(self, model, inputs):
        own = sum(p.square().sum() for p in model.parameters())
        return super()._compute_loss(model, inputs) + 1e-3 * own * len(inputs["completion_ids"])


class Reading:
    """Reads what TRL documents, where users are told to."""

    def _prepare_inputs(self, generation_batch):
        inputs = super()._prepare_inputs(generation_batch)
        self.prepared = inputs["advantages"].clone(), inputs["completion_mask"].clone()
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        advantages, mask = self.prepared
        assert torch.equal(inputs["advantages"], advantages)
        assert torch.equal(inputs["completion_mask"], mask)
        assert int(inputs["num_items_in_batch"]) > len(mask)
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss * (1 + advantages.abs().mean())


class Reinforce:
    """A whole loss of one's own, on TRL's batch, its settings and its micro-batches."""

    def _compute_loss(self, model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].size(1)
        logps, *_ = self._get_per_token_logps_and_entropies(model, ids, mask, width)
        counted = inputs["completion_mask"]
        per_row = (logps * counted).sum(1) * inputs["advantages"]
        assert self.importance_sampling_level == "token"
        lengths = counted.sum(1) if self.loss_type == "grpo" else inputs["num_items_in_batch"]
        return -(per_row / lengths).mean() / self.current_gradient_accumulation_steps


@pytest.mark.parametrize("credit", ["seq", "dapo", None])
@pytest.mark.parametrize("own", [Penalised, Reading])
def test_a_loss_of_ones_own_sees_trls_units_and_micro_batches(own, credit):
    assert gap(own, credit=credit) <= 1e-5


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_without_credit_a_whole_loss_of_ones_own_trains_as_with_trl(loss_type):
    assert gap(Reinforce, loss_type=loss_type, credit=None) <= 1e-5


class Scaled:
    """Scales advantages where the loss is computed."""

    def _compute_loss(self, model, inputs):
        return super()._compute_loss(model, {**inputs, "advantages": inputs["advantages"] * 2 + 1})


def test_advantages_that_a_loss_changes_are_trained_on():
    assert gap(Scaled, credit="seq") <= 1e-5
    assert gap(Scaled, credit=None) <= 1e-5


class Cropped:
    def compute_loss(self, model, inputs, *args, **kwargs):
        mask = inputs["completion_mask"].clone()
        mask[:, 3:] = 0
        return super().compute_loss(model, {**inputs, "completion_mask": mask}, *args, **kwargs)


@pytest.mark.parametrize(
    ("own", "credit", "message"),
    [
        (Cropped, "seq", r"completion_mask'\] was changed after the credit .* override _g"),
        (Scaled, "tree_td/seq", r"inputs\['advantages'\] was changed after the credit"),
        (returning(by_token), "tree_td/seq", r"advantages of shape \(B, T\), which are an alloc"),
        (returning(lambda o: {"row": o["row"].clamp(max=2)}), "seq", "returned a completion twice"),
        (Reinforce, "seq", r"OwnCreditGRPOTrainer\._compute_loss computes a loss"),
    ],
    ids=lambda value: getattr(value, "__name__", value)[:20],
)  # fmt: skip
def test_what_credit_cannot_follow_is_refused(own, credit, message):
    with pytest.raises(CreditError, match=message):
        run(mixed(own), CreditGRPOConfig, credit=credit, **STEP)


class Anew:
    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        return {name: value for name, value in output.items() if name != "row"}


def test_a_batch_made_anew_must_say_whose_rows_it_has():
    with pytest.raises(CreditError, match="returned no 'row', which says whose rewards"):
        run(mixed(Anew), CreditGRPOConfig, **STEP)


def build(trainer_class, tmp_path, **options):
    config = CreditGRPOConfig(str(tmp_path), report_to=[], **options)
    return trainer_class(
        policy(),
        reward,
        config,
        Dataset.from_dict({"prompt": ["1+1="]}),
        processing_class=TOKENIZER,
    )


def test_a_loss_that_never_comes_by_is_refused_before_training(tmp_path):
    with pytest.raises(CreditError, match="leave credit out to train as with TRL"):
        build(mixed(Reinforce), tmp_path, credit="seq")
    build(mixed(Reinforce), tmp_path)


def test_a_loss_between_ours_and_trls_is_refused_before_training(tmp_path):
    class Foreign(GRPOTrainer):
        _compute_loss = Reinforce._compute_loss

    class Both(CreditGRPOTrainer, Foreign):
        pass

    with pytest.raises(CreditError, match=r"Foreign\._compute_loss comes after CreditGRPOTrainer"):
        build(Both, tmp_path)


class Silent:
    """Mentions TRL's loss and never calls it."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        if not self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        return sum(p.sum() for p in model.parameters())


def test_a_loss_that_does_not_come_by_is_refused_in_the_first_step():
    with pytest.raises(CreditError, match="computes a loss of its own"):
        run(mixed(Silent), CreditGRPOConfig, credit="seq", **STEP)
    run(mixed(Silent), CreditGRPOConfig, **STEP)


class Emptied:
    """Generates for itself, and nothing for one prompt."""

    def _generate(self, prompts, *rest):
        generated = super()._generate(prompts, *rest)
        generated[1][1] = []
        return generated


@pytest.mark.parametrize("credit", TWINS)
def test_empty_completions_train_as_with_trl(credit):
    assert gap(Emptied, credit=credit) <= 1e-5


class Late:
    """Puts a loss in the place of the trainer's own once there is a trainer."""

    def train(self, *args, **kwargs):
        inner = self._compute_loss
        self._compute_loss = lambda model, inputs: (
            inner(model, inputs) + 1e-3 * sum(p.square().sum() for p in model.parameters())
        )
        return super().train(*args, **kwargs)


def test_an_attribute_that_hides_a_loss_keeps_trls_micro_batches(monkeypatch):
    monkeypatch.setitem(PASS_COST, "cpu", 4)  # so that there would be other passes
    assert gap(Late, credit="seq") <= 1e-5


def cropping(how):
    """Make a loss that changes its batch before TRL's, in one of the ways that there are."""

    class Own:
        def compute_loss(self, model, inputs, *args, **kwargs):
            mask = inputs["completion_mask"]
            how(inputs, mask * (mask.cumsum(1) <= 3))
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Own


def in_the_dict(inputs, mask):
    inputs["completion_mask"] = mask


def in_place(inputs, mask):
    inputs["completion_mask"].copy_(mask)


class Again:
    """Adds a second loss on the same batch, with another mask."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        first = super().compute_loss(model, inputs, *args, **kwargs)
        other = {**inputs, "completion_mask": inputs["completion_mask"].flip(0)}
        return first + super().compute_loss(model, other, *args, **kwargs)


@pytest.mark.parametrize("own", [cropping(in_the_dict), cropping(in_place), Again])
def test_a_changed_mask_is_seen_however_it_is_changed(own):
    with pytest.raises(CreditError, match=r"completion_mask'\] was changed after the credit"):
        run(mixed(own), CreditGRPOConfig, credit="length", **STEP)


class Halved:
    """Weighs the loss between TRL's loss and the backward pass."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        inputs = self._prepare_inputs(inputs)
        loss = self.compute_loss(model, inputs) * inputs["advantages"].abs().mean()
        self.accelerator.backward(loss)
        self._step += 1
        return loss.detach()


@pytest.mark.parametrize("credit", ["seq", None])
def test_a_training_step_of_ones_own_keeps_trls_micro_batches(credit, monkeypatch):
    monkeypatch.setitem(PASS_COST, "cpu", 4)  # so that a turn would have several passes
    assert gap(Halved, credit=credit) <= 1e-5


def test_a_hook_on_a_gradient_keeps_trls_micro_batches(monkeypatch):
    def hooked():
        model = policy()
        for parameter in model.parameters():
            parameter.register_hook(lambda g: g / (g.norm() + 1e-6))
        return model

    theirs = run(GRPOTrainer, GRPOConfig, model=hooked(), loss_type="grpo", max_steps=1)
    mine = run(CreditGRPOTrainer, CreditGRPOConfig, model=hooked(), loss_type="grpo", max_steps=1)
    assert difference(mine.gradients[0], theirs.gradients[0]) <= 1e-5


class OwnScores:
    """Scores without TRL's method."""

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, kept, **_):
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -kept - 1 : -1]
        logps = logits.log_softmax(-1).gather(2, input_ids[:, -kept:, None]).squeeze(2)
        return logps, torch.zeros_like(logps), None


def test_scores_of_ones_own_cannot_move_the_anchor_of_a_sequence_level_ratio():
    run(mixed(OwnScores), CreditGRPOConfig, credit="tree_td/length", **STEP)
    with pytest.raises(CreditError, match=r"does not call super\(\), where credit='tree_td/seq' "):
        run(mixed(OwnScores), CreditGRPOConfig, credit="tree_td/seq", **STEP)


class Fewer:
    def get_batch_samples(self, *args, **kwargs):
        samples, items = super().get_batch_samples(*args, **kwargs)
        return samples[:1], items


def test_a_step_of_fewer_batches_than_its_credit_is_of_is_refused():
    with pytest.raises(CreditError, match="returned fewer batches than super"):
        run(mixed(Fewer), CreditGRPOConfig, **STEP)


class Decorated:
    """Follows TRL's own idiom."""

    @profiling_decorator
    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, inputs, *args, **kwargs)


class Delegating:
    def compute_loss(self, *args, **kwargs):
        return self.mine(*args, **kwargs)

    def mine(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("own", [Decorated, Delegating])
def test_a_loss_that_leads_to_trls_by_detours_is_taken(own):
    assert gap(own, credit="seq") <= 1e-5


class WithoutCount:
    """Leaves out what TRL's `grpo` loss does not read; has a row twice, with NaN where padded."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        del output["num_items_in_batch"]
        rows = torch.tensor([0, 0, *range(2, len(output["row"]))])
        output = {k: v[rows] if v.dim() else v for k, v in output.items()}
        padded = output["completion_mask"] == 0
        old = output["old_per_token_logps"].masked_fill(padded, float("nan"))
        return {**output, "old_per_token_logps": old}


def test_what_a_loss_does_not_read_may_be_missing_and_rows_may_come_twice():
    run(mixed(WithoutCount), CreditGRPOConfig, loss_type="grpo", **STEP)


def test_a_patch_of_the_class_is_an_override(tmp_path, monkeypatch):
    inner = CreditGRPOTrainer.compute_loss
    monkeypatch.setattr(CreditGRPOTrainer, "compute_loss", lambda *a, **k: inner(*a, **k))
    assert build(CreditGRPOTrainer, tmp_path).overrides("compute_loss")
