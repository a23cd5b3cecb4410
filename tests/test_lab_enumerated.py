"""`lab exact` against an enumeration that shares no code with it: own automaton, own gradients."""

import itertools
import json

import numpy as np
import pytest

from grpo_credit import allocation, cli
from grpo_credit.lab import measurement
from grpo_credit.lab.enumerable import Language, TabularPolicy
from rewards.contract import Decided, TextReward

LENGTH, GROUP = 3, 3
# a+b[ab]*|b+ as an automaton: `won` accepts and stays, `lost` rejects and stays
MOVES = {"": {"a": "a", "b": "b"}, "a": {"a": "a", "b": "won"}, "b": {"a": "lost", "b": "b"}}


def states(text):
    path = [""]
    for character in text:
        path.append(MOVES.get(path[-1], {}).get(character, path[-1]))
    return path


class Known(TextReward):
    """Pay 1 for the pattern, and tell when it was settled."""

    def score(self, text, /):
        return float(states(text)[-1] in ("won", "b"))

    def decided(self, completions):
        ends = [[k for k, s in enumerate(states(c)) if s in ("won", "lost")] for c in completions]
        return [Decided(found[0] if found else None) for found in ends]


reward = Known("known")


@allocation
def minus(rollouts):
    """Take every completion for its contrary."""
    return -rollouts.advantages[:, None] * rollouts.mask


# ---- slow ---------------------------------------------------------------------------------------


def softmax(row):
    weights = [np.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def completions(logits):
    """List (probability, reward, score function of each token, tokens until it was settled)."""
    prefixes = ["".join(p) for n in range(LENGTH) for p in itertools.product("ab", repeat=n)]
    table = {p: softmax(row) for p, row in zip(prefixes, logits, strict=True)}
    texts = ["".join(p) for n in range(LENGTH + 1) for p in itertools.product("ab", repeat=n)]
    for text in texts:
        chance, scores = 1.0, []
        for t, token in enumerate([*text, "end"][:LENGTH]):
            probs, place = table[text[:t]], ["a", "b", "end"].index(token)
            score = np.zeros((len(prefixes), 3))
            score[prefixes.index(text[:t])] = -np.array(probs)
            score[prefixes.index(text[:t]), place] += 1
            scores.append(score.flatten())
            chance *= probs[place]
        settled = [k for k, s in enumerate(states(text)) if s in ("won", "lost")]
        known = settled[0] if settled else len(scores)
        yield chance, float(states(text)[-1] in ("won", "b")), scores, known


def weights(name, lengths, i):
    n = len(lengths)
    return {
        "seq": 1 / n,
        "minus": -1 / n,
        "decided": 1 / n,
        "uniform": 1 / (n * LENGTH),
        "length": 1 / (n * lengths[i]),
        "dapo": 1 / sum(lengths),
    }[name]


def enumerated(logits, name):
    """Return factor, signed cosine, directional error and variance over all windows."""
    every = list(completions(logits))
    gradient = sum(chance * r * sum(scores) for chance, r, scores, _ in every)
    kept = [sum(s[: known if name == "decided" else None]) for _, _, s, known in every]
    chances, updates = [], []
    for window in itertools.product(range(len(every)), repeat=GROUP):
        rewards = [every[o][1] for o in window]
        lengths = [len(every[o][2]) for o in window]
        mean = sum(rewards) / GROUP
        chances.append(np.prod([every[o][0] for o in window]))
        updates.append(
            sum(
                (rewards[i] - mean) * weights(name, lengths, i) * kept[o]
                for i, o in enumerate(window)
            )
        )
    chances, updates = np.array(chances), np.array(updates)
    expected = chances @ updates
    factor = expected @ gradient / (gradient @ gradient)
    norms = np.linalg.norm(expected) * np.linalg.norm(gradient)
    across = np.linalg.norm(expected - factor * gradient) / abs(factor) / np.linalg.norm(gradient)
    scatter = chances @ ((updates - expected) ** 2).sum(1)
    return {
        "factor": factor,
        "cosine": expected @ gradient / norms,
        "directional error": across,
        "variance": scatter / factor**2 / (gradient @ gradient),
    }


PAIR = ("seq", "dapo")

# ---- the lab ------------------------------------------------------------------------------------

NAMES = {
    "seq": "seq",
    "minus": "test_lab_enumerated:minus/seq",
    "dapo": "dapo",
    "uniform": "uniform",
    "length": "length",
    "decided": "decided/seq",
}
COMMAND = ["lab", "exact", "--alphabet", "ab", "--length", str(LENGTH), "--num_generations",
           str(GROUP), "--completions", str(GROUP), "--reward", "test_lab_enumerated:reward",
           "--credit", *NAMES.values()]  # fmt: skip


def measured(folder, *more):
    assert cli.main([*COMMAND, *more, "--out", str(folder)]) == 0
    found = json.loads((folder / "lab.json").read_text())
    rows = {row["credit"]: row for row in found["tables"]["exact"]}
    return {name: rows[credit] for name, credit in NAMES.items()}, found["sentences"]


@pytest.fixture(scope="module")
def truth():
    logits = TabularPolicy(Language("ab", LENGTH), 0, 0.5, -1.0).logits.detach().numpy()
    return {name: enumerated(logits, name) for name in NAMES}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("listed") / "out")


def test_the_enumeration_has_the_figures_of_another_one(truth):
    """Those of an outside check, to the digits that it gave."""
    errors = {name: round(truth[name]["directional error"], 4) for name in NAMES}
    assert errors == {
        "seq": 0, "minus": 0, "uniform": 0, "decided": 0, "length": 0.4397, "dapo": 0.1096
    }  # fmt: skip
    variances = {name: round(truth[name]["variance"], 3) for name in NAMES}
    assert variances == {
        "seq": 5.892, "minus": 5.892, "uniform": 5.892, "decided": 5.276, "length": 5.467,
        "dapo": 5.801,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_on_a_small_task_the_lab_prints_what_enumeration_says(name, truth, listed):
    rows, sentences = listed
    assert "All 680 different windows are listed: the figures are exact." in sentences
    assert rows[name]["exact"] == "yes"
    found = {key: rows[name][key] for key in truth[name]}
    assert found == pytest.approx(truth[name], rel=1e-9, abs=1e-9)


VERDICTS = {
    "seq": "unbiased to rounding",
    "minus": "climbs backwards, exactly",
    "dapo": "biased by 0.11",
    "uniform": "unbiased to rounding",
    "length": "biased by 0.44",
    "decided": "unbiased to rounding",
}


def test_the_verdicts_are_those_of_enumeration(listed):
    rows, sentences = listed
    assert {name: rows[name]["verdict"] for name in NAMES} == VERDICTS
    said = f"{NAMES['minus']}: climbs backwards, exactly (signed cosine -1.0000); the variance of"
    assert any(s.startswith(said) for s in sentences)


def test_sampled_windows_agree_with_all_of_them(truth, tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "ENUMERABLE", 0)
    rows, sentences = measured(tmp_path / "out", "--windows", "400")
    assert any("estimated from 400 sampled windows" in s for s in sentences)
    for name, row in rows.items():
        known = truth[name]
        slack = 0.5 * row["directional error ±"] + 1e-9  # 95 %, six rules, and rounding
        assert row["low"] - slack <= known["directional error"] <= row["high"] + slack, name
        assert abs(row["factor"] - known["factor"]) <= 4 * row["factor ±"] + 1e-9
        assert abs(row["variance"] - known["variance"]) <= 4 * row["variance ±"]
        assert np.sign(row["cosine"]) == np.sign(known["cosine"])
        ratio = known["variance"] / truth["seq"]["variance"]
        assert abs(row["variance / first"] - ratio) <= 4 * row["variance / first ±"] + 1e-9
    for name in ("seq", "uniform"):
        assert rows[name]["verdict"] == "unbiased to rounding"
    assert rows["minus"]["verdict"] == "climbs backwards, exactly"
    for name in ("dapo", "length"):
        assert rows[name]["verdict"].startswith("biased by ")
    assert rows["decided"]["verdict"].startswith("unbiased to within 0.")
    # over the same windows a ratio of variances is known better than if they were independent
    apart = np.hypot(*(rows[name]["variance ±"] / rows[name]["variance"] for name in PAIR))
    assert rows["dapo"]["variance / first ±"] < 0.6 * apart


def test_the_small_bias_of_dapo_is_said(capsys):
    """0.0110 with two groups of two: the interval that called it unbiased is no longer there."""
    small = ["lab", "exact", "--alphabet", "ab", "--length", "2", "--pattern", "a+b[ab]*|b+",
             "--num_generations", "2", "--completions", "4", "--credit", "seq", "dapo"]  # fmt: skip
    assert cli.main(small) == 0
    shown = capsys.readouterr().out
    assert "dapo: biased by 0.011 (signed cosine +0.9999)" in shown
    assert "All 406 different windows are listed" in shown
