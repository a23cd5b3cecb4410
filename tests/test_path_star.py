"""Path-star graphs: the task, its reward, and the published finding about it."""

import math
import re
from collections import Counter
from itertools import islice

import pytest
import torch
from transformers import AutoTokenizer

from grpo_credit.tiny import build_model
from grpo_credit.tiny.next_token import (
    SHAPE,
    course,
    lesson,
    next_token_model,
    settings,
)
from grpo_credit.tiny.path_star import STYLES, PathStar, dataset, edges_of, problems
from grpo_credit.tiny.training import IGNORED, train

STAR = PathStar(degree=3, length=4, nodes=14)
TOKENIZER = STAR.build_tokenizer()
ROWS = problems(STAR, 200, 0, "train")


# ---- the graphs -------------------------------------------------------------------------------


def test_a_graph_is_a_source_with_arms_of_equal_length():
    for row in ROWS:
        edges = edges_of(row["prompt"])
        assert len(set(edges)) == 9  # d (l - 1)
        assert len({node for edge in edges for node in edge}) == 10  # and the source
        source, goal = re.fullmatch(r".* / (\d\d) (\d\d) =", row["prompt"]).groups()
        after = dict(edges)  # but at the source, where there is a choice
        arms = [end for start, end in edges if start == source]
        assert len(arms) == 3
        assert source not in after.values()
        walks = [[source, arm, after[arm], after[after[arm]]] for arm in arms]
        assert not {walk[-1] for walk in walks} & set(after)
        assert row["path"].split() in walks
        assert row["path"].split()[-1] == goal


def test_every_arm_leads_to_the_goal_equally_often_whatever_the_order_of_edges():
    rows = problems(PathStar(), 2000, 0, "train")
    first = [edges_of(row["prompt"])[0] for row in rows]
    arms = Counter(
        next(end for start, end in edges_of(row["prompt"]) if start == row["path"].split()[0])
        == row["path"].split()[1]
        for row in rows
    )
    assert arms[True] / 2000 == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))
    # 2 of 4 edges start at the source: so does the first in the prompt in half of the cases
    at_source = sum(
        edge[0] == row["path"].split()[0] for edge, row in zip(first, rows, strict=True)
    )
    assert at_source / 2000 == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))


def test_graphs_depend_on_the_seed_only():
    assert problems(STAR, 20, 0, "train") == ROWS[:20]
    assert problems(STAR, 20, 1, "train") != ROWS[:20]
    assert dataset(STAR, 20, 0, "train").to_list() == ROWS[:20]


def test_splits_never_share_a_graph():
    # 5 labels make 5 * 4 * 3 * 2 / 2 = 60 different graphs: 3000 draws meet every one of them
    star = PathStar(degree=2, length=3, nodes=5)
    seen = {
        split: {frozenset(edges_of(row["prompt"])) for row in problems(star, 3000, 0, split)}
        for split in ("train", "test")
    }
    assert not seen["train"] & seen["test"]
    assert len(seen["train"] | seen["test"]) == 60


def test_impossible_graphs_are_refused():
    with pytest.raises(ValueError, match="degree is 1, expected 2 or more: arms to choose from"):
        PathStar(degree=1)
    with pytest.raises(ValueError, match="length is 1, expected 2 or more: a source and a goal"):
        PathStar(length=1)
    with pytest.raises(
        ValueError, match="nodes is 9, expected 10 or more: a source and 3 arms of 3 nodes"
    ):
        PathStar(degree=3, length=4, nodes=9)
    with pytest.raises(ValueError, match="split is 'dev', expected one of train, test"):
        problems(STAR, 1, 0, "dev")


# ---- words ------------------------------------------------------------------------------------


def test_every_label_and_symbol_is_one_token():
    for row in ROWS[:50]:
        ids = TOKENIZER(row["prompt"]).input_ids
        assert len(ids) == 3 * 9 - 1 + 1 + 2 + 1  # edges and bars, "/", source and goal, "="
        assert TOKENIZER.unk_token_id not in ids
        assert TOKENIZER.decode(ids) == row["prompt"]
    assert len(TOKENIZER) == 14 + 3 + 3
    assert TOKENIZER("07 7 x").input_ids[1:] == [TOKENIZER.unk_token_id] * 2


def test_saved_word_tokenizer_loads_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded.encode(ROWS[0]["prompt"])
    assert ids == TOKENIZER.encode(ROWS[0]["prompt"])
    assert loaded.decode([*ids, loaded.eos_token_id], skip_special_tokens=True) == ROWS[0]["prompt"]
    assert (loaded.padding_side, loaded.pad_token, loaded.eos_token) == ("left", "<pad>", "<eos>")


# ---- next-token training ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "expected"),
    [("direct", "05 02 07"), ("reversed", "07 02 05"), ("planned", "07 02 05 = 05 02 07")],
)
def test_a_style_writes_the_path_forward_backward_or_first_one_and_then_the_other(style, expected):
    assert STYLES[style](["05", "02", "07"]) == expected


def test_both_the_path_and_the_planned_path_are_right():
    for row in ROWS[:20]:
        path = row["path"].split()
        assert row["answers"] == [STYLES["direct"](path), STYLES["planned"](path)]
        # two paths, "=" and the end token
        assert len(TOKENIZER.encode(f"{row['answers'][1]} <eos>")) == STAR.answer_tokens == 10


def test_the_answer_alone_is_taught_and_ends():
    few = settings(seed=0, steps=2)
    taught = list(lesson(STAR, few, [(1, {"reversed": 1.0})]).batches(TOKENIZER))
    assert [len(batch) for batch in taught] == [few.batch_size] * 2
    for (ids, labels), row in zip(taught[0], ROWS, strict=False):
        answer = [label for label in labels if label != IGNORED]
        assert TOKENIZER.decode(answer) == f"{STYLES['reversed'](row['path'].split())} <eos>"
        assert TOKENIZER.decode(ids) == f"{row['prompt']} {TOKENIZER.decode(answer)}"


def test_styles_are_drawn_by_their_shares():
    few = settings(seed=0, steps=8)
    taught = lesson(STAR, few, [(1, {"direct": 0.75, "planned": 0.25})]).batches(TOKENIZER)
    lengths = [sum(label != IGNORED for label in labels) for b in taught for _, labels in b]
    assert set(lengths) == {5, 10}  # 4 nodes and the end; twice 4 nodes, "=" and the end
    error = 4 * math.sqrt(0.25 * 0.75 / len(lengths))
    assert lengths.count(10) / len(lengths) == pytest.approx(0.25, abs=error)


def test_a_share_outside_of_0_to_1_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"plan_share is 1\.5, expected a number from 0 to 1"):
        next_token_model(STAR, cache_dir=tmp_path, plan_share=1.5)


def test_plans_are_taught_alone_before_they_are_mixed():
    few = settings(seed=0, steps=20)
    taught = lesson(STAR, few, course(0.25)).batches(TOKENIZER)
    planned = [sum(labels.count(IGNORED) + 10 == len(labels) for _, labels in b) for b in taught]
    assert planned[:13] == [few.batch_size] * 13  # 0.65 of 20
    assert len(planned) == 20
    assert max(planned[13:]) < few.batch_size / 2
    assert course(0.0) == [(1.0, {"direct": 1.0})]


def test_models_of_different_tasks_have_different_folders(tmp_path):
    one = next_token_model(PathStar(), 0, tmp_path, steps=1, progress=False)
    other = next_token_model(PathStar(nodes=13), 0, tmp_path, steps=1, progress=False)
    assert one != other
    assert next_token_model(PathStar(), 0, tmp_path, steps=1, progress=False) == one
    assert AutoTokenizer.from_pretrained(one).encode("11 =") == PathStar().build_tokenizer().encode(
        "11 ="
    )


# ---- the published finding --------------------------------------------------------------------

TESTED = 1000
CHANCE = 0.5
ERROR = 4 * math.sqrt(CHANCE * (1 - CHANCE) / TESTED)  # four standard errors of a share: 0.063


def encoded(tokenizer, rows, style):
    answers = [STYLES[style](row["path"].split()) for row in rows]
    prompts = [row["prompt"] for row in rows]
    return (torch.tensor(tokenizer(texts).input_ids) for texts in (prompts, answers))


@torch.no_grad()
def teacher_forced_accuracy(model, tokenizer, rows, style="direct"):
    """Return for each token of an answer how often it is the likeliest after the right ones."""
    questions, answers = encoded(tokenizer, rows, style)
    logits = model(input_ids=torch.cat([questions, answers], dim=1)).logits
    likeliest = logits[:, questions.shape[1] - 1 : -1].argmax(-1)
    return (likeliest == answers).float().mean(0).tolist()


@torch.no_grad()
def free_running_accuracy(model, tokenizer, rows, style="direct"):
    """Return for each token of an answer how often greedy generation gets it right."""
    questions, answers = encoded(tokenizer, rows, style)
    count = {"max_new_tokens": answers.shape[1], "min_new_tokens": answers.shape[1]}
    mask = torch.ones_like(questions)
    written = model.generate(questions, attention_mask=mask, do_sample=False, **count)
    return (written[:, questions.shape[1] :] == answers).float().mean(0).tolist()


def until_known(model, tokenizer, star, style, batches):
    """Yield batches until all but the deciding token are known; look every 25 steps."""
    rows, guessed = problems(star, 400, 1, "train"), {"direct": 1}.get(style)
    for step, batch in enumerate(batches):
        if step % 25 == 0:
            shares = teacher_forced_accuracy(model, tokenizer, rows, style)
            if all(share > 0.997 for place, share in enumerate(shares) if place != guessed):
                return
        yield batch


def taught(length, style):
    """Return a model after next-token training, its tokenizer and held-out graphs.

    Training is cut off while the learning rate is high: predecessors are learned sooner then.
    """
    star = PathStar(length=length)
    tokenizer, chosen = star.build_tokenizer(), settings(0, 2000)
    model = build_model(tokenizer, 0, **SHAPE)
    batches = islice(lesson(star, chosen, [(1, {style: 1.0})]).batches(tokenizer), 1000)
    train(model, until_known(model, tokenizer, star, style, batches), chosen)
    return model.eval(), tokenizer, problems(star, TESTED, 0, "test")


@pytest.mark.timeout(900)  # a minute of computing, whoever else computes
@pytest.mark.parametrize("length", [3, 4])
def test_next_token_training_guesses_the_deciding_token_and_knows_all_others(length):
    model, tokenizer, rows = taught(length, "direct")
    source, decisive, *forced = teacher_forced_accuracy(model, tokenizer, rows)
    assert decisive == pytest.approx(CHANCE, abs=ERROR)
    assert min(source, *forced) > 0.99
    # left to itself it walks the arm that it guessed, to its own end or with a leap to the goal
    source, guessed, *between, goal = free_running_accuracy(model, tokenizer, rows)
    assert source > 0.99
    assert all(share == pytest.approx(decisive, abs=0.02) for share in (guessed, *between))
    assert goal > decisive - 0.02


@pytest.mark.timeout(900)  # a minute of computing, whoever else computes
@pytest.mark.parametrize("length", [3, 4])
def test_the_reversed_path_is_learned(length):
    model, tokenizer, rows = taught(length, "reversed")
    assert min(teacher_forced_accuracy(model, tokenizer, rows, "reversed")) > 0.97
    assert min(free_running_accuracy(model, tokenizer, rows, "reversed")) > 0.97
