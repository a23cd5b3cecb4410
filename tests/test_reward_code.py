import json
import os
import time

import psutil
import pytest

from rewards import CodeTests
from rewards.code import Limits

TWO_SECONDS = Limits(seconds=2, memory=1 << 30)
ADD = "def add(a, b):\n    return a + b"
ASSERTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def block(code):
    return f"Here it is:\n```python\n{code}\n```\n"


@pytest.fixture(scope="module")
def reward():
    return CodeTests(run_untrusted_code=True, limits=TWO_SECONDS)


@pytest.mark.parametrize(
    ("code", "score"),
    [
        (ADD, 1.0),
        (f"print('hello')\n{ADD}\nprint(add(1, 1))", 1.0),
        ("def add(a, b):\n    return a - b", 0.0),
        ("def add(a, b):\n    return 3", 0.0),
        ("def add(a, b", 0.0),
        ("import sys\nsys.exit(0)", 0.0),
        ("import os\nos._exit(0)", 0.0),
        ("raise SystemExit", 0.0),
        ("while True: pass", 0.0),
        ("import time\ntime.sleep(60)", 0.0),
        ("x = bytearray(1 << 40)", 0.0),
        ("x = []\nwhile True: x.append(bytearray(1 << 24))", 0.0),
        ("print('x' * (1 << 24))\n" + ADD, 0.0),
        ("open('big', 'wb').write(bytes(1 << 24))\n" + ADD, 0.0),
        ("import os\nos.kill(os.getpid(), 9)", 0.0),
        ("input()\n" + ADD, 0.0),
        ("import builtins\nbuiltins.exec = builtins.compile = lambda *a: '0'", 0.0),
        ("import os\nos.remove('program.json')\n" + ADD, 1.0),
        ("import os\nfor i in range(2000): os.mkdir('a'); os.chdir('a')\n" + ADD, 1.0),
        ("import os\nos.close(0)\nos.close(1)\n" + ADD, 0.0),
    ],
)
def test_code_is_right_if_all_tests_come_to_their_end(reward, code, score):
    assert reward([block(code)], tests=[ASSERTS]) == [score]


SUM = [{"input": "1 2\n", "output": "3"}, {"input": "5 5\n", "output": "10\n"}]


@pytest.mark.parametrize(
    ("code", "score"),
    [
        ("print(sum(map(int, input().split())))", 1.0),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())), '\\n')", 1.0),
        ("print(3)", 0.5),
        ("print('3', 'done')", 0.0),
        ("", 0.0),
        ("print(sum(map(int, input().split())))\n1 / 0", 0.0),
        ("print(sum(map(int, input().split())), flush=True)\nimport time\ntime.sleep(99)", 0.0),
        ("import os\nos.mkfifo('output')\nprint(sum(map(int, input().split())))", 1.0),
        ("print(3" + " " * 5, 0.0),
    ],
)
def test_what_is_printed_is_compared_here(code, score):
    reward = CodeTests(run_untrusted_code=True, partial=True, limits=TWO_SECONDS)
    assert reward([block(code)], tests=[json.dumps(SUM)]) == [score]


def test_no_process_and_no_file_is_left(reward, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    mark = f"{time.time()}"
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {mark!r} and "
    child += f"'import time; time.sleep(99) # {mark}'])\n{ADD}"
    assert reward([block(child)], tests=[ASSERTS]) == [1.0]
    gone = [p for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]
    psutil.wait_procs(gone, timeout=10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in gone)
    assert list(tmp_path.iterdir()) == []


def test_a_program_sees_nothing_of_this_process(reward, monkeypatch):
    monkeypatch.setenv("SECRET", "word")
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    look = "import os\nassert 'SECRET' not in os.environ\n" + ADD
    assert reward([block(look)] * 3, tests=[ASSERTS] * 3) == [1.0] * 3
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_the_last_block_counts_and_text_without_code_earns_nothing(reward):
    assert reward([block("x = 1") + block(ADD), ADD, ""], tests=[ASSERTS] * 3) == [1.0, 0.0, 0.0]
    (spans,) = reward.spans([block(ADD)])
    assert [block(ADD)[slice(*span)] for span in spans["code"]] == [ADD]


def test_without_tests_it_abstains(reward):
    assert reward([block(ADD)] * 3, tests=[[], "[]", ["", None]]) == [None] * 3


def test_as_many_run_at_once_as_there_are_processors_to_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert CodeTests(run_untrusted_code=True).processes == 3
    assert CodeTests(run_untrusted_code=True, processes=2).processes == 2


def test_nothing_is_run_unless_the_user_says_so():
    with pytest.raises(ValueError, match=r"runs what a model wrote, as this user.*untrusted_code="):
        CodeTests()
    with pytest.raises(ValueError, match=r"runs what a model wrote"):
        CodeTests(run_untrusted_code="no")


def test_output_that_is_too_long_to_be_compared_is_wrong(reward):
    most = [{"input": "", "output": "1" * 100_000}]
    fits = [{"input": "", "output": "1" * 99_999}]
    programs = [block(f"print('1' * {n})") for n in (99_999, 99_998, 200_000)]
    assert reward(programs, tests=[fits, most, most]) == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("fence", ["py", "python3", "Python", "python title=a"])
def test_blocks_of_python_have_several_names(reward, fence):
    assert reward([f"```{fence}\n{ADD}\n```"], tests=[ASSERTS]) == [1.0]


@pytest.mark.parametrize(
    "tests",
    ["assert True", 3, [{"input": "1"}], [3], '{"a": 1}', {"input": ["1"], "output": ["1"]}],
)
def test_a_column_without_tests_is_refused(reward, tests):
    with pytest.raises(ValueError, match=r"column 'tests' .* expected a list of tests, each an"):
        reward([block(ADD)], tests=[tests])
