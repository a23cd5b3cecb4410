"""The tiny model and its task: what needs no download must still be exact."""

import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from grpo_credit.tiny import (
    MAX_COMPLETION_TOKENS,
    PATTERN,
    build_model,
    build_tokenizer,
    check,
    dataset,
    demonstration,
    prompts,
)
from grpo_credit.tiny.tokenizer import ALPHABET, TAGS

TOKENIZER = build_tokenizer()


# --- tokenizer


@settings(deadline=None)
@given(st.lists(st.sampled_from([*ALPHABET, *TAGS])).map("".join))
def test_decoding_inverts_encoding(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    assert TOKENIZER.unk_token_id not in ids


def test_tags_are_one_token_each_and_not_special():
    ids = [TOKENIZER.encode(tag) for tag in TAGS]
    assert [len(i) for i in ids] == [1, 1, 1, 1]
    assert not set(TAGS) & set(TOKENIZER.all_special_tokens)


def test_special_tokens_are_distinct_and_never_added_by_encoding():
    specials = {TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id}
    assert len(specials) == 3
    assert not specials & set(TOKENIZER("3+5=").input_ids)
    assert TOKENIZER.decode([TOKENIZER.eos_token_id], skip_special_tokens=True) == ""


def test_unknown_characters_become_one_unknown_token_each():
    ids = TOKENIZER.encode("3é<日")
    assert ids[1:] == [TOKENIZER.unk_token_id] * 3


@pytest.mark.parametrize("loader", [AutoTokenizer, AutoProcessor])
def test_saved_tokenizer_loads_the_same(tmp_path, loader):
    TOKENIZER.save_pretrained(tmp_path)
    build_model(TOKENIZER, hidden_size=16, layers=1).save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    text = " <think> 3 + 5 , 'n't .\n</think><answer>8</answer>?"
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text), skip_special_tokens=True) == text
    assert (loaded.padding_side, loaded.pad_token, loaded.eos_token) == ("left", "<pad>", "<eos>")


# --- task


def test_prompts_depend_on_the_seed_only():
    assert prompts(50, 1, "train") == prompts(50, 1, "train")
    assert prompts(50, 1, "train") != prompts(50, 2, "train")
    assert prompts(50, 1, "train")[:10] == prompts(10, 1, "train")


def test_splits_never_share_a_prompt():
    # There are only 100 prompts of two terms: 5000 draws meet every one of them.
    seen = {s: {row["prompt"] for row in prompts(5000, 3, s)} for s in ("train", "test")}
    assert not seen["train"] & seen["test"]
    assert sum(p.count("+") == 1 for p in seen["train"] | seen["test"]) == 100


def test_answers_are_the_sums():
    for row in prompts(200, 0, "test"):
        terms = row["prompt"].removesuffix("=").split("+")
        assert 2 <= len(terms) <= 10
        assert row["answer"] == str(sum(map(int, terms)))


def test_dataset_holds_the_prompts():
    assert dataset(5, 0, "test").to_list() == prompts(5, 0, "test")


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'dev', expected one of train, test"):
        prompts(1, 0, "dev")


def draw(n, seed):
    rng = random.Random(seed)
    return [(row, demonstration(row["prompt"], rng)) for row in prompts(n, seed, "train")]


def test_a_third_of_the_demonstrations_is_well_formed_and_those_are_correct():
    verdicts = [check(shown.text, row["answer"]) for row, shown in draw(4000, 0)]
    # 0.82 * 0.40 = 0.328; the standard error of 4000 draws is 0.0074
    assert np.mean([v.well_formed for v in verdicts]) == pytest.approx(0.328, abs=0.03)
    assert all(v.correct == v.well_formed for v in verdicts)


def test_demonstration_lengths_vary_and_well_formed_ones_fit_the_cap():
    shown = [(len(TOKENIZER.encode(d.text)) + d.ends, d) for _, d in draw(4000, 1)]
    well = [length for length, d in shown if re.fullmatch(PATTERN, d.text)]
    ill = [length for length, d in shown if not re.fullmatch(PATTERN, d.text)]
    assert 11 <= min(well) < 14
    assert 20 < max(well) <= 23 < MAX_COMPLETION_TOKENS
    assert np.std(well) > 3
    assert min(ill) < min(well) < max(well) < max(ill)
    assert all(length > MAX_COMPLETION_TOKENS for length, d in shown if not d.ends)


def test_greedy_choice_after_the_answer_is_not_to_end():
    marker = "</answer>"
    after = Counter()
    for _, shown in draw(4000, 2):
        head, found, tail = shown.text.partition(marker)
        if found and re.fullmatch(PATTERN, head + marker):
            after[tail[:1]] += 1
    assert after[" "] > 1.2 * after[""]  # the end token
    assert after[""] > 0.3 * after.total()


# --- checker: `re` is the oracle, as the checker itself uses no regex


def mutated(text, rng):
    pieces = re.findall(r"</?\w+>|.", text)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(pieces))
        new = rng.choice(
            [[], [pieces[at]] * 2, [rng.choice([*TAGS, "<", ">", "7", " ", "\n", "٣"])]]
        )
        pieces[at : at + 1] = new
        pieces = pieces or ["<"]
    return "".join(pieces)


def test_check_agrees_with_the_pattern_on_demonstrations_and_their_mutations():
    rng = random.Random(0)
    texts = [shown.text for _, shown in draw(1500, 3)]
    texts += [mutated(text, rng) for text in texts]
    expected = [re.fullmatch(PATTERN, text) is not None for text in texts]
    assert [check(text, "0").well_formed for text in texts] == expected
    assert 0.1 < np.mean(expected[1500:]) < 0.9  # mutations of both kinds


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([*TAGS, "<", ">", "/", "3", "+", "\n", " ", "٣", ""])).map("".join))
def test_check_agrees_with_the_pattern_on_any_text(text):
    assert check(text, "3").well_formed == (re.fullmatch(PATTERN, text) is not None)


def test_correct_needs_format_and_answer():
    assert check("<think>x</think><answer>8</answer>", "8") == (True, True)
    assert check("<think>x</think><answer>08</answer>", "8") == (True, False)
    assert check("<think>x</think>8", "8") == (False, False)


# --- model


def test_default_model_has_half_a_million_parameters_in_float32():
    model = build_model(TOKENIZER)
    assert 400_000 <= model.num_parameters() <= 650_000
    assert model.dtype == torch.float32
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == TOKENIZER.eos_token_id
        assert config.pad_token_id == TOKENIZER.pad_token_id


def test_weights_depend_on_the_seed_only():
    def first(seed):
        return next(build_model(TOKENIZER, seed, hidden_size=16, layers=1).parameters())

    torch.manual_seed(5)
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_width_that_does_not_fit_the_heads_is_refused():
    with pytest.raises(ValueError, match="hidden_size is 20, expected a multiple of 16"):
        build_model(TOKENIZER, hidden_size=20)
