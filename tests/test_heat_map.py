"""What a notebook shows of completions and their credit."""

from dataclasses import replace

import pytest
import torch

from grpo_credit import Rollouts, compute_credit
from grpo_credit.credit import shading
from grpo_credit.credit.heat_map import HeatMap


def spoken(*texts, **about):
    """Make a group of completions whose tokens are the characters of their texts."""
    lengths = [len(text) for text in texts]
    rollouts = Rollouts.from_lists(
        lengths, [1.0, *[0.0] * (len(texts) - 1)], num_generations=len(texts),
        max_completion_length=max(lengths), scale_rewards="none", **about,
    )  # fmt: skip
    places = torch.arange(max(lengths))
    ends = torch.tensor(lengths)[:, None]
    offsets = torch.stack([places.minimum(ends), (places + 1).minimum(ends)], dim=2)
    return replace(rollouts, texts=texts, offsets=offsets)


def test_tokens_are_shaded_by_their_share_of_the_largest_credit():
    two = spoken("ab", "cde")
    page = HeatMap(two, torch.tensor([[0.5, -1.0, 0.0], [0.25, 0.0, 0.0]]))._repr_html_()
    assert page.count("<tr>") == 2
    assert "rgba(0,103,165,0.38)" in page
    assert "rgba(194,74,0,0.75)" in page
    assert "<code>a</code><br>+0.5<" in page
    assert "group 0 | R 1 | A +0.5" in page
    assert page.count("<td") == 5  # padding is not shown


def test_what_a_model_wrote_is_escaped_and_shown():
    page = spoken("<b>", "\x1b\u202e")._repr_html_()
    assert "<b>" not in page
    assert "&lt;" in page
    assert "␛" in page
    assert "⟨U+202E⟩" in page


def test_masked_tokens_have_no_number_and_no_shade():
    two = spoken("ab", "cd")
    two = replace(two, mask=torch.tensor([[False, True], [True, False]]))
    page = two._repr_html_()
    assert (
        '0,0.00);text-align:center;white-space:nowrap;padding:.4em .3em"><code>a</code><br><'
        in page
    )
    assert "<code>d</code>" not in page  # nothing counted comes after it


def test_a_large_batch_is_cut_and_says_so():
    many = spoken(*["x" * (shading.TOKENS + 3)] * (shading.ROWS + 2))
    page = many._repr_html_()
    assert page.count("<tr>") == shading.ROWS
    assert (
        f"Left out: 2 completions and {3 * shading.ROWS} tokens at the end of those shown" in page
    )


def test_a_table_has_a_row_for_each_counted_token():
    two = spoken("ab", "cde")
    found = HeatMap(two, compute_credit("length", two)).to_pandas()
    assert "".join(found["token"]) == "abcde"
    assert found["credit"].tolist() == pytest.approx([1 / 8] * 2 + [-1 / 12] * 3)
    assert found.groupby("row")["credit"].sum().tolist() == pytest.approx([0.25, -0.25])


def test_credit_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"credit has shape \(1, 2\), expected .* \(2, 3\)"):
        HeatMap(spoken("ab", "cde"), torch.zeros(1, 2))
