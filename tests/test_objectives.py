"""What each objective asks of a model, and what is left of a model that was taught by one."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from harness import ROUNDING, difference, policy, whole_gradient
from safetensors import safe_open
from sft_helpers import trained
from transformers import AutoModelForCausalLM

from grpo_credit.tiny import objective_model
from grpo_credit.tiny.heads import Headed, loss_of
from grpo_credit.tiny.model import build_gpt
from grpo_credit.tiny.objectives import OBJECTIVES, Terms, backward, documents
from grpo_credit.tiny.path_star import PathStar, edges_of, problems
from grpo_credit.tiny.training import train

STAR = PathStar()
WORDS = STAR.build_tokenizer()
ROWS = problems(STAR, 3, 0, "train")
PROMPTS, ANSWERS = objective_model.encoded(WORDS, ROWS)
DUMMY = objective_model.dummy_of(WORDS)
CHOSEN = objective_model.settings(seed=0, steps=600)
ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "measure_objectives.py"))
REPEATING = torch.tensor([[5, 6, 5, 7, 6, 1], [7, 7, 8, 8, 7, 1]])  # no path, but an answer


# ---- formulas ---------------------------------------------------------------------------------


def slow_next_token(prompt, answer):
    """Yield what is known, the head, the token it is to name, and what that weighs."""
    for place, token in enumerate(answer):
        yield [*prompt, *answer[:place]], 0, token, 1 / len(answer)


def slow_teacherless(prompt, answer):
    for place, token in enumerate(answer):
        yield [*prompt, *[DUMMY] * place], 0, token, 1 / len(answer)


def slow_hybrid(prompt, answer):
    for ask in (slow_next_token, slow_teacherless):
        for known, head, token, weight in ask(prompt, answer):
            yield known, head, token, weight / 2


def slow_reversed(prompt, answer):
    *path, end = answer
    yield from slow_next_token(prompt, [*reversed(path), end])


def later(prompt, answer, distance):
    """Yield the states, from the goal on, at which an answer's token is so far ahead."""
    whole = [*prompt, *answer]
    for known in range(len(prompt) - 1, len(whole)):
        if len(prompt) < known + distance <= len(whole):
            yield whole[:known], whole[known + distance - 1]


def slow_mtp(prompt, answer):
    yield from slow_next_token(prompt, answer)
    for distance in range(2, len(answer) + 2):
        asked = list(later(prompt, answer, distance))
        for known, token in asked:
            yield known, distance - 1, token, 3 / (len(answer) * len(asked))


def slow_top(prompt, answer):
    yield from slow_next_token(prompt, answer)
    whole = [*prompt, *answer]
    for known in range(len(prompt) - 1, len(whole)):
        first = {}
        for place in range(max(known, len(prompt)), len(whole)):
            first.setdefault(whole[place], place - known)
        total = sum(math.exp(-distance) for distance in first.values())
        for token, distance in first.items():
            share = math.exp(-distance) / total
            yield whole[:known], 1, token, 3 * share / (len(answer) + 1)


SLOW = {
    "next_token": slow_next_token,
    "teacherless": slow_teacherless,
    "hybrid": slow_hybrid,
    "mtp": slow_mtp,
    "top": slow_top,
    "reversed": slow_reversed,
}


def slowly(name, prompts, answers):
    """Return all that is asked of a batch; the loss is a mean over rows."""
    rows = zip(prompts.tolist(), answers.tolist(), strict=True)
    return [
        (known, head, token, weight / len(prompts))
        for prompt, answer in rows
        for known, head, token, weight in SLOW[name](prompt, answer)
    ]


@pytest.mark.parametrize("answers", [ANSWERS, REPEATING], ids=["paths", "repeating"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_asks_what_its_formula_says(name, answers):
    prompts = PROMPTS[: len(answers)]
    terms = OBJECTIVES[name](prompts, answers, DUMMY)
    rows, states = terms.inputs.shape
    assert terms.targets.shape == terms.weights.shape == (rows, states, len(terms.heads))
    asked = [
        (terms.inputs[r, : s + 1].tolist(), terms.heads[k], int(terms.targets[r, s, k]))
        for r, s, k in (terms.weights > 0).nonzero().tolist()
    ]
    weights = terms.weights[terms.weights > 0].tolist()
    told = sorted((*where, weight) for where, weight in zip(asked, weights, strict=True))
    expected = sorted(slowly(name, prompts, answers))
    assert [each[:3] for each in told] == [each[:3] for each in expected]
    assert [each[3] for each in told] == pytest.approx([each[3] for each in expected], rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_a_slow_sum_over_prefixes(name):
    torch.manual_seed(0)
    terms = OBJECTIVES[name](PROMPTS, ANSWERS, DUMMY)
    learner = Headed(build_gpt(WORDS, hidden_size=16, layers=1), max(terms.heads)).double()
    torch.nn.init.normal_(learner.maps)
    unembedding = learner.model.get_output_embeddings().weight
    expected = torch.zeros((), dtype=torch.float64)
    for known, head, token, weight in slowly(name, PROMPTS, ANSWERS):
        outputs = learner.model(torch.tensor([known]), output_hidden_states=True)
        logits = outputs.logits[0, -1]
        if head:
            logits = unembedding @ learner.maps[head - 1] @ outputs.hidden_states[-1][0, -1]
        expected = expected - weight * logits.log_softmax(-1)[token]
    loss = loss_of(learner, terms)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # weights are float32
    assert difference(gradient(loss, learner), gradient(expected, learner)) <= ROUNDING


def test_rows_need_not_ask_at_the_same_states():
    torch.manual_seed(0)
    learner = Headed(build_gpt(WORDS, hidden_size=16, layers=1), 0)
    terms = OBJECTIVES["next_token"](PROMPTS[:2], ANSWERS[:2], DUMMY)
    terms.weights[1, 0] = 1.0  # before the first state that the other row asks at
    apart = [Terms(*(part[row : row + 1] for part in terms[:3])) for row in range(2)]
    assert loss_of(learner, terms).item() == pytest.approx(
        sum(loss_of(learner, one).item() for one in apart), rel=1e-5
    )


def gradient(loss, learner):
    parts = torch.autograd.grad(loss, learner.parameters(), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def test_no_prompt_and_no_path_has_the_dummy():
    assert DUMMY not in torch.cat([PROMPTS, ANSWERS], 1)


# ---- data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacherless", "hybrid", "reversed"])
def test_as_data_it_gives_credit_sft_trainer_the_loss_and_gradient_of_the_loop(name):
    terms = OBJECTIVES[name](PROMPTS, ANSWERS, DUMMY)
    rows = Dataset.from_list(documents(terms))
    made = trained(rows=1, steps=len(rows), credit="dapo", given={"train_dataset": rows})
    learner = Headed(policy(), 0)
    loss = loss_of(learner, terms)
    loss.backward()
    assert made.losses.train[0] == pytest.approx(loss.item(), rel=ROUNDING)
    assert difference(made.trace.gradients[0], whole_gradient(learner.model)) <= ROUNDING


def test_the_trainer_ends_where_the_loop_does():
    lesson = objective_model.lesson(STAR, "teacherless", replace(CHOSEN, steps=3, batch_size=4))
    loop, trainer = (lesson.learner(lesson.model(WORDS)) for _ in range(2))
    first = loop.model.get_input_embeddings().weight.detach().clone()
    train(loop, lesson.batches(WORDS), lesson.settings, lesson.loss)
    SCRIPT["train_documents"](trainer, WORDS, lesson, "dapo")
    ours, theirs = (learner.model.get_input_embeddings().weight.data for learner in (trainer, loop))
    assert difference(ours - first, theirs - first) <= 1e-3  # Adam divides by what is small


@pytest.mark.parametrize("name", ["mtp", "top"])
def test_what_needs_heads_is_no_data(name):
    with pytest.raises(ValueError, match=r"heads \(0, 1.* is no data set, expected 0, the model's"):
        documents(OBJECTIVES[name](PROMPTS, ANSWERS, DUMMY))


# ---- models -----------------------------------------------------------------------------------


def test_further_heads_are_dropped_from_what_is_saved_and_it_is_said(tmp_path, capsys):
    folder = objective_model.objective_model(STAR, "mtp", 0, tmp_path, steps=1)
    dropped = (STAR.length + 1) * 64 * 64  # a matrix for each distance from 2 to the path and end
    assert f"heads ({dropped:,} parameters) are dropped; GRPO has one" in capsys.readouterr().err
    kept = json.loads((folder / "complete.json").read_text())["metrics"]
    assert kept["dropped_parameters"] == dropped
    assert kept["task"]["objective"] == "mtp"
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {name.partition(".")[0] for name in weights.keys()} == {"transformer"}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model(PROMPTS).logits.shape == (*PROMPTS.shape, len(WORDS))


def test_of_one_head_nothing_is_dropped(tmp_path, capsys):
    folder = objective_model.objective_model(STAR, "reversed", 0, tmp_path, steps=1)
    assert "dropped" not in capsys.readouterr().err
    kept = json.loads((folder / "complete.json").read_text())["metrics"]
    assert kept["dropped_parameters"] == 0


def test_an_unknown_objective_is_refused(tmp_path):
    with pytest.raises(ValueError, match="objective is 'mpt', expected one of next_token, teach"):
        objective_model.objective_model(STAR, "mpt", 0, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of computing, whoever else computes
def test_the_reversed_path_is_learned_by_its_objective():
    star = PathStar(length=4)
    lesson = objective_model.lesson(star, "reversed", CHOSEN)
    learner = lesson.learner(lesson.model(WORDS))
    train(learner, lesson.batches(WORDS), CHOSEN, lesson.loss)
    prompts, answers = objective_model.encoded(WORDS, problems(star, 500, 0, "test"))
    right = SCRIPT["greedy"](learner, prompts, answers.shape[1]) == backward(answers)
    assert right.all(1).float().mean() > 0.9  # a guess has 0.5


# ---- the recipe -------------------------------------------------------------------------------


def test_the_reversed_path_is_asked_for_and_judged_from_the_goal_on():
    recipe = runpy.run_path(str(ROOT / "recipes" / "grpo_path_star.py"))
    row = recipe["from_goal"](ROWS[0])
    goal, middle, source = row["path"].split()
    assert ROWS[0]["path"] == f"{source} {middle} {goal}"
    assert row["answers"] == [row["path"]]
    judged = recipe["check_path"](row["path"], row)
    assert (judged["right"], judged["steps along edges"], judged["token 2"]) == (1, 1, 1)
    other = next(end for start, end in edges_of(row["prompt"]) if start == source != end != middle)
    wrong = recipe["check_path"](f"{goal} {other} {source}", row)
    assert (wrong["right"], wrong["steps along edges"], wrong["token 2"]) == (0, 0.5, 0)
