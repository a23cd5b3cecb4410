"""Every architecture trains with TRL's gradient, or in TRL's micro-batches for a reason."""

import pytest
import torch
from architecture_cases import CASES, PACKED
from architectures import largest_difference, trained_by_ours, trained_by_trl


def assert_same_gradient(case, mine, theirs):
    """Compare in float32; an architecture that amplifies rounding must be as close in float64."""
    if largest_difference(mine, theirs) > case.bound:
        mine, theirs = (train(case, torch.float64) for train in (trained_by_ours, trained_by_trl))
    assert largest_difference(mine, theirs) <= case.bound


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.error is None])
def test_the_gradient_is_trls(name):
    case = CASES[name]
    theirs, mine = trained_by_trl(case), trained_by_ours(case)
    assert_same_gradient(case, mine, theirs)
    assert mine.batching.recuts or mine.batching.left_out, "no reason why TRL's micro-batches"
    assert all(getattr(mine.batching, one) for one in case.does), f"needless: {mine.batching}"
    assert mine.batching.packs is (name in PACKED)
    for cause in ("sliding", "ALiBi"):
        assert cause not in name or cause in str(mine.batching)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.error is not None])
def test_what_trl_cannot_train_fails_likewise(name):
    for train in (trained_by_trl, trained_by_ours):
        with pytest.raises(Exception, match=CASES[name].error):
            train(CASES[name])


def test_the_steps_give_much_to_cut_and_to_trim():
    case = CASES["mistral, sliding"]  # which is padded
    theirs, mine = trained_by_trl(case), trained_by_ours(case)
    assert {width for _, width in theirs.passes} == {20 + 16, 40 + 24}
    assert len({width for _, width in mine.passes}) > 2
    padded = [sum(rows * width for rows, width in trace.passes) for trace in (mine, theirs)]
    assert padded[0] < 0.6 * padded[1]
