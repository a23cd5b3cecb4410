"""Rollouts saved and read again."""

from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from saved_helpers import PROMPTS, TOKENS, rollouts

from grpo_credit import CreditError, Rollouts
from grpo_credit.credit.conformance import examples
from grpo_credit.credit.saved import load_rollouts, save_rollouts


@pytest.fixture
def path(tmp_path):
    """Save rollouts without optional fields."""
    save_rollouts(tmp_path / "rollouts.parquet", rollouts(), PROMPTS, TOKENS, "even/seq")
    return tmp_path / "rollouts.parquet"


def assert_same(found, expected):
    """Compare every field of two rollouts."""
    for field in fields(Rollouts):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=field.name)
        elif field.name == "spans" and b is not None:
            assert list(a) == list(b)
            assert all(a[name].equal(b[name]) for name in b)
        else:
            assert a == b, field.name


def test_every_field_comes_back(tmp_path):
    path = tmp_path / "rollouts.parquet"
    for made in examples(2):
        full = replace(
            made, scale_rewards="none", reward_weights=(0.5,) * len(made.reward_names),
            max_completion_length=77, generation=made.group + 3,
            old_logps=made.old_logps.bfloat16(), window_count=2 * made.window_count.int(),
            texts=tuple(f"{text}\ud800\x00" for text in made.texts),
        )  # fmt: skip
        absent = [f.name for f in fields(Rollouts) if getattr(full, f.name) is None]
        assert absent == []  # the examples have every optional field
        rows, columns = full.mask.shape
        ids = [list(range(row)) for row in range(rows)]
        texts = [["t"] * columns] * rows
        save_rollouts(path, full, ["p"] * rows, texts, "seq", {"alpha": 0.75}, ids, 0.9)
        found = load_rollouts(path)
        assert_same(found.rollouts, full)
        assert (found.credit, found.options) == ("seq", {"alpha": 0.75})
        assert ([*found.tokens], found.prompt_ids, found.temperature) == (texts, ids, 0.9)


def test_missing_fields_stay_missing(path):
    found = load_rollouts(path)
    assert_same(found.rollouts, rollouts())
    assert (found.prompts, [*found.tokens]) == (PROMPTS, TOKENS)
    assert (found.credit, found.options, found.prompt_ids) == ("even/seq", {}, [])


def test_no_spans_are_not_the_same_as_spans_without_a_name(tmp_path):
    path = tmp_path / "rollouts.parquet"
    save_rollouts(path, rollouts(spans={}), PROMPTS, TOKENS, "seq")
    assert load_rollouts(path).rollouts.spans == {}


@pytest.mark.parametrize(
    ("prompts", "tokens", "ids", "message"),
    [
        (PROMPTS[:5], TOKENS, [], "got 5 prompts, 5 of them as token ids, and the tokens of 6 com"),
        (PROMPTS, TOKENS, [[1], [2]], "got 6 prompts, 2 of them as token ids, and the tokens of 6"),
        (PROMPTS, [*TOKENS[:5], ["f"]], [], r"completion 5 has the text of 1 tokens; expected 4 "),
        (PROMPTS, [["x"] * 12, *TOKENS[1:]], [], "completion 0 has the text of 12 tokens; expect"),
    ],
)
def test_what_does_not_fit_is_not_saved(tmp_path, prompts, tokens, ids, message):
    with pytest.raises(CreditError, match=message):
        save_rollouts(tmp_path / "x.parquet", rollouts(), prompts, tokens, "seq", prompt_ids=ids)
    assert list(tmp_path.iterdir()) == []


def rewritten(path, change):
    table = pq.read_table(path)
    metadata = {key: change(value) for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def without_column(path, name):
    pq.write_table(pq.read_table(path).drop_columns([name]), path)


def test_a_file_from_before_generations_were_numbered_is_read_as_one(path):
    form = b', "generation": {"dtype": "torch.int64", "shape": []}'
    assert form in pq.read_table(path).schema.metadata[b"grpo_credit"]
    rewritten(path, lambda value: value.replace(form, b""))
    without_column(path, "generation")
    assert load_rollouts(path).rollouts.generation.eq(0).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "is no whole parquet file"),
        (lambda p: p.write_bytes(b""), "is no whole parquet file"),
        (lambda p: pq.write_table(pa.table({"a": [1]}), p), "has version None of the rollouts' la"),
        (
            lambda p: rewritten(p, lambda v: v.replace(b'"version": 1', b'"version": 2')),
            "has version 2 of the rollouts' layout, expected 1; read it with the grpo-credit that",
        ),
        (lambda p: rewritten(p, lambda v: v[:-9]), "is no whole parquet file"),
        (lambda p: without_column(p, "advantages"), r"is damaged \(KeyError"),
        (lambda p: rewritten(p, lambda v: v.replace(b"[11]", b"[7]")), "not of the shape .7"),
        (
            lambda p: rewritten(p, lambda v: v.replace(b'"scale_rewards"', b'"scaled"')),
            r"is damaged \(metadata.values is damaged: it lacks 'scale_rewards'",
        ),
    ],
)
def test_a_file_that_is_not_ours_is_refused(path, damage, message):
    damage(path)
    with pytest.raises(CreditError, match=message):
        load_rollouts(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*x\.parquet"):
        load_rollouts(tmp_path / "x.parquet")
