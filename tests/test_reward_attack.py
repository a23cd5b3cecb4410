"""What pays without the job being done is found before training, and only that."""

import json
import re

import pytest

from grpo_credit.cli import main
from grpo_credit.preflight.attack import attacked
from rewards import (
    ExactAnswer,
    RegexReward,
    Repetition,
    SoftOverlong,
    TagFormat,
    attack,
    completion_text,
    gate,
    schedule,
    think_answer_format,
)
from rewards.attacks import JUNK

ROWS = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in (6, 7, 21, 50)]
CHATS = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
JUDGED = ("<answer>", "</answer>")


def judge(verdict, read=completion_text):
    """Make a reward of what stands in the answer's tag, and what is right."""

    def reward(completions, answer, **_):
        found = [read(c).partition(JUDGED[0])[2].partition(JUDGED[1])[0] for c in completions]
        return [verdict(said, gold) for said, gold in zip(found, answer, strict=True)]

    return reward


def kinds(reward, rows=ROWS, **options):
    return {paid.attack for paid in attack(reward, rows, **options)}


NUMBERS = {"a number from 0 to 9", "the prompt's own numbers", "another row's right answer"}
HEDGES = {"the right answer and junk", "the right answer or not", "the right answer or another"}
OTHERS = {"all numbers at once", "all options at once", "the right answer between others"}
WITH_TEXT = {*JUNK[1:], *NUMBERS, *HEDGES, *OTHERS}
ALL = {"nothing", *WITH_TEXT, "a thought without end", "a tool that says the right answer"}


@pytest.mark.parametrize(
    ("verdict", "paid"),
    [
        (lambda said, gold: 1.0, ALL),
        (lambda said, gold: float(not said.strip()), ALL),  # the right answer earns nothing
        (lambda said, gold: float(bool(said) == bool(gold)), WITH_TEXT),
        (lambda said, gold: 0.4 * (said == gold) + 0.6 * bool(said), WITH_TEXT),
        (lambda said, gold: float(said.isdigit()), {*NUMBERS, "the right answer between others"}),
        (lambda said, gold: float(gold in said), HEDGES),
        (
            lambda said, gold: float(said == gold or said[:1].isalpha()),
            {"one character", "junk", "all options at once", "the right answer or not"},
        ),
        (
            lambda said, gold: float(said in (gold, str(int(gold) // 2))),
            {"the prompt's own numbers", "a number from 0 to 9"},
        ),
        (
            lambda said, gold: float(said == gold) - 1.0 + 0.7 * ("9" in said),
            {"all numbers at once", "a number from 0 to 9"},
        ),
        (lambda said, gold: float(said.strip() == gold), set()),
        (lambda said, gold: 2.0 * (said == gold) - 1.0, set()),
    ],
)
@pytest.mark.parametrize("rows", [ROWS, CHATS], ids=["texts", "chats"])
def test_what_a_verifier_pays_for_is_found_out_and_nothing_else(verdict, paid, rows):
    assert kinds(judge(verdict), rows) == paid


def test_a_verifier_that_reads_what_a_tool_said_is_found_out():
    last = judge(lambda said, gold: float(said == gold), lambda c: c[-1]["content"])
    assert kinds(last, CHATS) == {"a tool that says the right answer"}


@pytest.mark.parametrize("worked", [r"So it is $\\boxed{%s}$.", "So it is\n#### %s", "$%s$"])
def test_the_right_answer_is_that_of_a_worked_solution(worked):
    rows = [{**row, "answer": worked % row["answer"]} for row in ROWS]
    exact = judge(lambda said, gold: float(said == re.findall(r"\d+", gold)[0]))
    assert kinds(exact, rows) == set()
    hedged = judge(lambda said, gold: float(re.findall(r"\d+", gold)[0] in said))
    assert kinds(hedged, rows) == HEDGES


def test_a_row_without_a_right_answer_is_attacked_without_it():
    rows = [*ROWS, {**ROWS[0], "answer": float("nan")}, {**ROWS[0], "answer": None}]
    verdict = judge(lambda said, gold: float(said == gold))
    assert kinds(verdict, rows) == set()


def test_an_example_is_given_with_what_it_and_the_right_answer_earn():
    found = attack(judge(lambda said, gold: 1.0 if said == gold else 0.75 * (gold in said)), ROWS)
    [junk] = [paid for paid in found if paid.attack == "the right answer and junk"]
    assert junk == (
        "the right answer and junk", "<answer>12 I do not know</answer>", 0.75, 1.0, 4, 4, "",
    )  # fmt: skip
    half = attack(judge(lambda said, gold: 1.0 if said == gold else 0.4 * (gold in said)), ROWS)
    assert "the right answer and junk" not in {paid.attack for paid in half}


@pytest.mark.parametrize(
    ("form", "paid"),
    [
        (think_answer_format, set()),
        (gate(ExactAnswer(), by=think_answer_format), set()),
        (RegexReward("(?s)<a>.+</a>"), {"a form with blanks for content", "a repeated form"}),
        (RegexReward(r"<a>\d</a>"), set()),
        (TagFormat(partial_credit=True), {"a form with blanks for content"}),
        (schedule(think_answer_format, {0.0: 0.0, 1.0: 1.0}), set()),
        (Repetition(), set()),
        (SoftOverlong(1_000, 20), set()),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_form_is_attacked_by_its_own_specimen(form, paid):
    assert kinds(form) == paid


def test_hanging_the_verifier_pays_where_wrong_answers_cost():
    def right(completions, answer, **_):
        hangs = ["9^" in text or "9**" in text for text in completions]
        verdicts = [f"<answer>{a}</answer>" == c for c, a in zip(completions, answer, strict=True)]
        return [None if h else float(v) for h, v in zip(hangs, verdicts, strict=True)]

    def penalised(completions, answer, **_):
        scores = right(completions, answer)
        return [None if score is None else 2 * score - 1 for score in scores]

    assert kinds(right, hang=True) == set()
    assert kinds(penalised, hang=True) == {"an expression that takes forever"}


def test_async_rewards_are_awaited_and_errors_are_told():
    async def lenient(completions, answer, **_):
        texts = map(completion_text, completions)
        return [float(f"<answer>{a}" in text) for text, a in zip(texts, answer, strict=True)]

    assert kinds(lenient) == {*HEDGES, "the right answer between others"}

    def brittle(completions, answer, **_):
        if "?" in completions:
            raise RuntimeError("what is that?")
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    raised = {paid.attack: paid.error for paid in attack(brittle, ROWS) if paid.error}
    assert raised == {"one character": "RuntimeError: what is that?"}
    [only] = attack(lambda completions, **_: [float(c) for c in completions], ROWS)
    assert only.error.startswith("ValueError: could not convert string to float")
    [only] = attack(lambda completions, **_: 1.0, ROWS)
    assert "returned 1.0, expected a list of" in only.error


def test_wrong_use_is_explained():
    with pytest.raises(ValueError, match="there is no row to attack with"):
        attack(think_answer_format, [])
    with pytest.raises(
        ValueError, match="the rows have no column 'gold'; they have prompt, answer"
    ):
        attack(think_answer_format, ROWS, gold="gold")


# --- the verb


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    (tmp_path / "attacked_rewards.py").write_text(
        "def lenient(completions, answer, **_):\n"
        "    return [float(a in c) for c, a in zip(completions, answer)]\n"
    )
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_verb_shows_what_is_paid_and_says_so_by_its_exit_code(at_work, capsys):
    assert main(["attack", "attacked_rewards:lenient", "--dataset_name", "rows.jsonl"]) == 1
    shown = capsys.readouterr().out
    assert "what lenient pays without the job" in shown
    assert "the right answer or another" in shown
    assert "4/4" in shown
    assert main(["attack", "grpo_credit.rewards:think_answer_format"]) == 0
    assert "no attack was paid, in 8 rows" in capsys.readouterr().out
    options = ["--reward_kwargs", '{"pattern": "<a>.+</a>"}']
    assert main(["attack", "grpo_credit.rewards:RegexReward", *options]) == 1
    assert "blanks for content" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grpo_credit.rewards:RegexReward"], "cannot be made: .*missing 1 required .* 'pattern'"),
        (["grpo_credit.rewards:RegexReward", "--reward_kwargs", "{"], "is not valid JSON"),
        (["grpo_credit.rewards:RegexReward", "--reward_kwargs", "[1]"], "expected a JSON object"),
        (["grpo_credit.rewards:think_format", "--rows", "0"], "--rows is 0, expected at least 1"),
        (["grpo_credit.rewards:think_format", "--reward_kwargs", '{"a": 1}'], "is no class"),
        (["grpo_credit.rewards:think_format", "--gold", "x"], "the rows have no column 'x'"),
        (["grpo_credit.rewards:think_format", "--dataset_name", "rows.jsonl",
          "--dataset_train_split", "dev"], "no split 'dev'; it has: train"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments, message, at_work, capsys):
    assert main(["attack", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


# --- preflight


def test_the_preflight_tells_what_is_paid():
    lenient = judge(lambda said, gold: float(gold in said))
    [found] = attacked("lenient", lenient, ROWS, [(8, 0.01)])
    assert found.severity == "warning"
    assert found.kind == "reward lenient: attack"
    assert (
        "the right answer and junk ('<answer>12 I do not know</answer>' earns 1)" in found.message
    )
    assert attacked("form", think_answer_format, ROWS, [(8, 0.01)]) == []


def test_the_preflight_leaves_slow_and_asynchronous_rewards_alone():
    async def judged(completions, **_):
        raise AssertionError

    def slow(completions, **_):
        raise AssertionError

    assert attacked("judged", judged, ROWS, [(8, 0.01)]) == []
    assert attacked("slow", slow, ROWS, [(8, 0.01), (8, 3.0)]) == []
    assert attacked("a reward model", slow, ROWS, []) == []


# --- upstream verifiers


def test_a_task_whose_verifier_pays_any_text_is_refused():
    tasks = pytest.importorskip("rewards.tasks")
    with pytest.raises(
        ValueError, match=r"the verifier of 'game_of_life_halting' gives 1 for .* in all 4"
    ):
        tasks.TaskScore({"game_of_life_halting": {"seed": 1, "size": 4}})


@pytest.mark.parametrize(("score", "error", "shown"), [(None, "", "None"), (None, "E: a", "E: a")])
def test_what_a_verifier_gives_for_junk_is_shown_where_it_is_no_number(
    score, error, shown, monkeypatch
):
    tasks = pytest.importorskip("rewards.tasks")
    paid = tasks.Paid(JUNK[0], "", score, 1.0, 2, 2, error)
    monkeypatch.setattr(tasks, "attack", lambda *_, **__: [paid])
    with pytest.raises(ValueError, match=f"gives {shown} for '' in all 2 entries tried"):
        tasks.TaskScore({"spell_backward": {"seed": 1, "size": 2}})


@pytest.mark.filterwarnings("ignore:the verifier of")
@pytest.mark.parametrize("given", [float("inf"), float("nan"), 10**400, None, "1"])
def test_a_verifier_that_gives_no_number_gives_nothing(given, monkeypatch):
    tasks = pytest.importorskip("rewards.tasks")
    reward = tasks.TaskScore({"spell_backward": {"seed": 1, "size": 2}})
    entries = reward.entries("spell_backward")
    monkeypatch.setattr(entries, "score_answer", lambda *_: given)
    assert reward(["a"], task=["spell_backward"], index=[0]) == [0.0]


def test_a_task_whose_verifier_pays_for_hedging_is_told():
    tasks = pytest.importorskip("rewards.tasks")
    with pytest.warns(UserWarning, match=r"verifier of 'gsm_symbolic' pays without .* and junk"):
        tasks.TaskScore({"gsm_symbolic": {"seed": 1, "size": 4}})
