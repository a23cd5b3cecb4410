import functools
import pickle
import subprocess
import sys
import threading

import pytest

pytest.importorskip("math_verify")

from trl.rewards import accuracy_reward

from rewards.mathematics import MathAnswer

EXPRESSIONS = [  # gold, completion
    (r"\frac{1}{3}", r"My answer is \boxed{\frac{1}{3}}"),
    (r"$\frac{1}{3}$", r"My answer is \boxed{\frac{2}{6}}"),
    (r"$\frac{1}{3}$", r"\boxed{0.333333}"),
    (r"$\frac{1}{3}$", r"\boxed{0.33}"),
    (r"$\frac{1}{3}$", r"\boxed{\frac{1}{2}}"),
    (r"$\frac{1}{3}$", r"The answer is $\frac{1}{3}$."),
    (r"$\frac{1}{3}$", "The answer is 1/3."),
    (r"$\frac{1}{3}$", r"We get $\frac{1}{3}$ on the way."),
    ("42", r"\boxed{42}"),
    ("42", r"\boxed{42.0}"),
    ("42", r"\boxed{43}"),
    ("42", "42"),
    ("$1{,}234$", r"\boxed{1234}"),
    ("1,234", r"\boxed{1,234}"),
    ("-5", r"\boxed{-5}"),
    ("-5", r"\boxed{5}"),
    (r"$50\%$", r"\boxed{50\%}"),
    (r"$50\%$", r"\boxed{0.5}"),
    (r"$50\%$", r"\boxed{50}"),
    (r"$5\text{ cm}$", r"\boxed{5}"),
    ("5", r"\boxed{5\text{ cm}}"),
    (r"$\sqrt{8}$", r"\boxed{2\sqrt{2}}"),
    (r"$\sqrt{8}$", r"\boxed{2\sqrt{3}}"),
    (r"$x^2+2x+1$", r"\boxed{(x+1)^2}"),
    (r"$x^2+2x+1$", r"\boxed{(x-1)^2}"),
    (r"$\sin^2 x+\cos^2 x$", r"\boxed{1}"),
    (r"$\pi$", r"\boxed{3.141593}"),
    (r"$\pi$", r"\boxed{\frac{22}{7}}"),
    (r"$2\pi r$", r"\boxed{2 r \pi}"),
    (r"$x = 3$", r"\boxed{3}"),
    (r"$3$", r"\boxed{x = 3}"),
    (r"$y = 2x + 1$", r"\boxed{y - 2x = 1}"),
    (r"$\{1, 2\}$", r"\boxed{\{2, 1\}}"),
    (r"$(1, 2)$", r"\boxed{(1, 2)}"),
    (r"$(1, 2)$", r"\boxed{(2, 1)}"),
    (r"$[0, 1)$", r"\boxed{[0, 1)}"),
    (r"$[0, 1)$", r"\boxed{0 \le x < 1}"),
    (r"$x > 2$", r"\boxed{(2, \infty)}"),
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}"),
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"\boxed{\begin{pmatrix}2\\1\end{pmatrix}}"),
    (r"$3+4i$", r"\boxed{4i+3}"),
    (r"$2^{10}$", r"\boxed{1024}"),
    (r"$\log_2 8$", r"\boxed{3}"),
    (r"$\int_0^1 x\,dx$", r"\boxed{\frac{1}{2}}"),
    (r"$\binom{5}{2}$", r"\boxed{10}"),
    (r"$1$ and $2$", r"$\boxed{1}$ and $\boxed{2}$"),
    ("3", r"first \boxed{2}, then \boxed{3}"),
    ("3", r"first \boxed{3}, then \boxed{2}"),
    ("1", r"$\boxed{1}$ and later $\boxed{\frac{2}{}}$"),
    ("3", r"\boxed{3}. The final answer is $2$."),
    ("2", r"\boxed{3}. The final answer is $2$."),
    ("2", r"\boxed{1 = 2}"),
    ("3", r"\boxed{3"),
    ("3", r"\boxed{}"),
    ("3", ""),
    ("3", r"\boxed{\frac{1}{0}}"),
    ("3", "\\boxed{3\0}"),
    ("3", "\udc80 \\boxed{3}"),
    ("", r"\boxed{3}"),
    ("blue", r"\boxed{blue}"),
    (r"$\text{blue}$", r"\boxed{\text{blue}}"),
    ("no formula", "none"),
]


@pytest.fixture(scope="module")
def reward():
    reward = MathAnswer(timeout=60)
    yield reward
    reward.close()


def chats(texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_the_verdicts_are_those_of_trl(reward):
    golds, texts = zip(*EXPRESSIONS, strict=True)
    theirs = accuracy_reward(chats(texts), solution=list(golds))
    assert reward(chats(texts), solution=list(golds)) == theirs
    assert {0.0, 1.0, None} <= set(theirs)
    assert reward(list(texts), solution=list(golds)) == theirs  # plain strings too


def test_a_gold_that_is_missing_abstains_and_a_number_is_read(reward):
    texts = [r"\boxed{3}"] * 4
    assert reward(texts, solution=[None, "", 3, 4.5]) == [None, None, 1.0, 0.0]


def test_the_column_can_be_named():
    named = MathAnswer(column="answer", timeout=60, processes=1)
    assert named([r"\boxed{3}"], answer=["3"]) == [1.0]
    with pytest.raises(ValueError, match="'math_answer' needs the column 'answer'; the data have"):
        named([r"\boxed{3}"], solution=["3"])
    named.close()


POISON = [  # gold, completion
    ("3", r"\boxed{9^{9^{9^9}}}"),  # an integer of 10^8 digits, computed in C
    (r"$9^{9^{9^9}}$", r"\boxed{3}"),
    ("3", r"\boxed{" + "(" * 50_000 + ")" * 50_000 + "}"),
]


def test_endless_formulas_are_killed_and_counted_and_the_pool_recovers():
    metrics = {}
    reward = MathAnswer(timeout=2.0, name="math")
    golds, texts = map(list, zip(*POISON, strict=True))
    scores = reward([*texts, r"\boxed{3}"], solution=[*golds, "3"], log_metric=metrics.__setitem__)
    assert scores == [0.0, None, 0.0, 1.0]  # the second hangs on its gold
    assert metrics["reward/math/timeout_rate"] == 0.75
    assert metrics["reward/math/error_rate"] == 0.0
    assert metrics["reward/math/ms_p95"] >= 2000
    assert reward([r"\boxed{\frac{4}{2}}", r"\boxed{3}"], solution=["2", "2"]) == [1.0, 0.0]
    reward.close()


def test_a_timeout_can_earn_nothing_instead():
    reward = MathAnswer(timeout=1.0, on_timeout=0, processes=1)
    assert reward([POISON[0][1]], solution=["3"]) == [0.0]
    reward.close()


def test_it_works_where_signals_do_not(reward):
    answers = []
    ask = functools.partial(reward, [r"\boxed{\frac{2}{6}}"], solution=[r"$\frac{1}{3}$"])
    thread = threading.Thread(target=lambda: answers.extend(ask()))
    thread.start()
    thread.join()
    assert answers == [1.0]


def test_it_survives_pickling(reward):
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.__name__ == "math_answer"
    assert copy([r"\boxed{3}"], solution=["3"]) == [1.0]
    copy.close()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_ready_made_one_is_found_by_its_path_and_imports_nothing():
    done = run(
        "import importlib, sys\n"
        "module = importlib.import_module('rewards.mathematics')\n"
        "assert module.math_answer is module.math_answer\n"
        "print(module.math_answer.__name__, 'math_verify' in sys.modules)\n"
        "module.nothing"
    )
    assert done.stdout == "math_answer False\n"
    assert "module 'rewards.mathematics' has no attribute 'nothing'" in done.stderr


def test_without_math_verify_it_says_what_to_install():
    hidden = "import sys; sys.modules['math_verify'] = None; import rewards.mathematics as m\n"
    for made in ("m.MathAnswer()", "m.math_answer", "from rewards.mathematics import math_answer"):
        done = run(hidden + made)
        assert "pip install 'grpo-credit[math]'" in done.stderr
        assert "ImportError: math-verify is not installed" in done.stderr


def test_nothing_is_printed(capfd):
    reward = MathAnswer(timeout=60, processes=1)
    reward([r"\boxed{3", "no"], solution=["3", "4"])
    assert capfd.readouterr() == ("", "")
    reward.close()
