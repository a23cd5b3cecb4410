"""A model of text that is steered: against single passes, and what its page says."""

import json

import pytest
import torch
from test_lab_strings import run

from grpo_credit import cli
from grpo_credit.lab import prose
from grpo_credit.lab.particles import steer
from grpo_credit.lab.report_prose import findings
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.tokenizer import build_word_tokenizer

TOKENIZER = build_word_tokenizer(["a", "b", "c"])
CONTEXTS = torch.tensor([[3, 4], [5, 5], [4, 3]])


@pytest.fixture(scope="module")
def model():
    """Make a model that is less sure of its next word than of the last one it read."""
    built = build_model(TOKENIZER, 0, hidden_size=16, layers=1, heads=2)
    built.model.embed_tokens.weight.data *= 0.3
    return built


class Counted(prose.PassWalk):
    """Count how often strings are drawn anew."""

    kept = 0

    def keep(self, rows):
        self.kept += 1
        super().keep(rows)


@torch.no_grad()
def test_strings_that_are_kept_keep_their_past(model):
    """Drawn anew with a cache, a string's log p is that of one pass over it."""
    walk = Counted(model, CONTEXTS.repeat_interleave(8, 0), TOKENIZER.all_special_ids, 0.3)
    ids, _ = steer(walk, 8, 12, torch.Generator().manual_seed(0))
    assert walk.kept
    assert ids.min() > max(TOKENIZER.all_special_ids)  # what may not be written is not
    whole = torch.cat([CONTEXTS.repeat_interleave(8, 0), ids], dim=1)
    logits = model(input_ids=whole).logits[:, 1:-1]
    logits[..., TOKENIZER.all_special_ids] = -torch.inf
    logp = logits.log_softmax(-1).gather(2, ids[..., None]).sum(dim=(1, 2))
    torch.testing.assert_close(walk.total, logp, rtol=0, atol=1e-4)


def test_the_held_out_words_are_not_trained_on():
    text = prose.prose()
    assert len(text.held_out) > prose.CONTEXT + prose.WRITTEN
    assert " ".join(text.held_out[:40]) not in " ".join(text.trained)


def told(level, tau, logp, repeated):
    pair = torch.tensor([-1.0, 1.0])
    return prose.Written(level, tau, logp + pair, repeated + 0.01 * pair, 1e-6)


def test_levels_are_compared_where_texts_are_as_likely():
    found = [told("token", tau, logp, repeated) for tau, logp, repeated in
             ((1.0, -100.0, 0.0), (0.5, -60.0, 0.2), (prose.GREEDY, -40.0, 0.6))]  # fmt: skip
    assert prose.token_level_at(found, -80.0) == pytest.approx(0.1)
    assert prose.token_level_at(found, -50.0) == pytest.approx(0.4)
    assert prose.token_level_at(found, -30.0) is None
    found.append(told("sequence", 0.5, -50.0, 0.35))
    page = findings(found, torch.tensor([0.1, 0.2]), "x", {})
    assert "τ = 0.5: 0.350 ± 0.010 by strings, 0.200 ± 0.010 by tokens" in page.sentences[0]
    assert "log p -50: 0.350 ± 0.010 and 0.400" in page.sentences[1]
    assert page.tables[0].rows[-1]["tokens at this log p"] == pytest.approx(0.4)


def test_a_model_is_trained_once_and_its_texts_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRPO_CREDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    asked = [
        "lab",
        "strings",
        "--text",
        "--training_steps",
        "2",
        "--texts",
        "3",
        "--particles",
        "2",
    ]
    one = run(asked, tmp_path / "one")
    shown = capsys.readouterr()
    assert shown.err.count("training the tiny model on Python's language reference") == 1
    lines = [line for line in shown.out.splitlines() if not line.startswith("wrote ")]
    assert max(map(len, lines)) <= 80
    two = run(asked, tmp_path / "two")
    assert "training the tiny model" not in capsys.readouterr().err
    assert one["tables"] == two["tables"]
    assert [row["τ"] for row in one["tables"]["repetition"]] == [*prose.TOKEN, *prose.SEQUENCE]
    assert json.dumps(one["settings"]) == json.dumps(two["settings"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--texts", "1"], "there are 1 texts, of 16 particles each; expected at least 2 of both"),
        (["--particles", "1"], "there are 64 texts, of 1 particles each"),
        (["--training_steps", "0"], "steps is 0, expected at least 1"),
    ],
)
def test_mistakes_are_one_line(option, message, capsys):
    assert cli.main(["lab", "strings", "--text", *option]) == 2
    assert message in capsys.readouterr().err
