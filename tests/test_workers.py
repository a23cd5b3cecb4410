import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from slow_rewards import (
    child_of,
    double,
    fail_to_start,
    note,
    slow_start,
    supervisor,
    work,
    worth,
)

from rewards.serving import OutOfTime, WorkerError
from rewards.workers import Pool, dumps

HERE = Path(__file__).parent


@pytest.fixture
def pool():
    pool = Pool(work, size=2)
    yield pool
    pool.close()


def values(outcomes):
    return [outcome.value for outcome in outcomes]


def worths(texts):
    return [None if text is None else worth(text) for text in texts]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_two_hundred_items_come_back_in_order():
    pool = Pool(double, size=2)
    outcomes = pool.map([(number,) for number in range(200)], timeout=60)
    assert values(outcomes) == [2 * number for number in range(200)]
    assert all(outcome.error is None and outcome.seconds >= 0 for outcome in outcomes)
    pool.close()


def test_nothing_to_do_starts_nothing(pool):
    assert pool.map([], timeout=1) == []
    assert pool.pids() == []


def test_a_hang_in_c_code_is_killed_and_everything_else_is_answered(pool):
    items = ["a", "hang", *"bcdefghij"]
    outcomes = pool.map([(item,) for item in items], timeout=1)
    assert values(outcomes) == worths(["a", None, *"bcdefghij"])
    assert [outcome.over_limit for outcome in outcomes] == [item == "hang" for item in items]
    assert str(outcomes[1].error) == "no result within 1 s"
    assert outcomes[1].seconds >= 1
    assert values(pool.map([("k",), ("l",)], timeout=60)) == worths("kl")


def test_several_hangs_at_once_cost_nobody_else(pool):
    items = [f"hang{'' if n % 5 == 0 else n}" for n in range(20)]  # 0, 5, 10, 15 hang: one item
    outcomes = pool.map([(item,) for item in items], timeout=1)
    assert [n for n, outcome in enumerate(outcomes) if outcome.over_limit] == [0, 5, 10, 15]
    assert [outcomes[n].value for n in (1, 19)] == worths(["hang1", "hang19"])


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("exit", "its process ended with exit code 3"),
        ("segfault", "its process was ended by SIGSEGV"),
        ("raise", "ZeroDivisionError: division by zero"),
        ("function", "TypeError: the score is <function "),
        ("huge", "OverflowError: the score is too large for a float"),
        ("escape", r"ValueError: invalid literal for int() with base 10: '\x1b[31m'"),
    ],
)
def test_a_failure_is_the_error_of_its_item_alone(pool, what, why):
    outcomes = pool.map([("a",), (what,), ("b",)], timeout=60)
    assert values(outcomes) == worths(["a", None, "b"])
    assert isinstance(outcomes[1].error, WorkerError)
    assert not outcomes[1].over_limit
    assert str(outcomes[1].error).startswith(why)


def test_workers_stay_between_calls():
    pool = Pool(supervisor, size=1)
    first, second = values(pool.map([(1,), (2,)], timeout=60))
    assert first == second == pool.pids()[0]
    assert values(pool.map([(3,)], timeout=60)) == [first]
    pool.close()


def test_equal_items_run_once_per_call(tmp_path):
    pool = Pool(note, size=2)
    path = str(tmp_path / "notes")
    assert len(pool.map([(path, "a"), (path, "b"), (path, "a")], timeout=60)) == 3
    assert sorted((tmp_path / "notes").read_text()) == ["a", "b"]
    pool.map([(path, "a")], timeout=60)
    assert sorted((tmp_path / "notes").read_text()) == ["a", "a", "b"]
    pool.close()


def test_a_worker_that_died_between_calls_is_replaced(pool):
    pool.map([("a",), ("b",)], timeout=60)
    before = pool.pids()
    for each in before:
        os.kill(each, signal.SIGKILL)
    assert wait_until(lambda: all("Z" in state(each) for each in before))
    assert values(pool.map([("c",), ("d",)], timeout=60)) == worths("cd")
    assert not set(before) & set(pool.pids())


def test_start_up_is_not_charged_to_the_first_item():
    pool = Pool(work, size=1, setup=slow_start)  # 1.5 s
    assert values(pool.map([("a",)], timeout=1.0)) == worths("a")
    pool.close()


def test_a_worker_that_cannot_start_shows_what_it_printed():
    pool = Pool(work, setup=fail_to_start)
    with pytest.raises(RuntimeError, match=r"(?s)could not start: .*exit code 1.*no licence for"):
        pool.map([("a",)], timeout=1)
    assert pool.pids() == []


def test_a_worker_that_never_gets_ready_is_given_up(monkeypatch):
    monkeypatch.setattr("rewards.process.START_LIMIT", 0.2)
    with pytest.raises(RuntimeError, match=r"could not start: no result within 0\.2 s"):
        Pool(work, setup=slow_start).map([("a",)], timeout=1)


def test_printing_does_not_disturb_the_answers(pool, capfd):
    assert values(pool.map([("print",), ("a",)], timeout=60)) == worths([None, "a"])
    assert capfd.readouterr() == ("", "noise\n")
    assert values(pool.map([("complain",)], timeout=60)) == [None]
    assert capfd.readouterr() == ("", "trouble\n")


def test_items_may_be_larger_than_the_buffer_of_a_pipe(pool):
    texts = [letter * 2_000_000 for letter in "xyz"]
    assert values(pool.map([(text,) for text in texts], timeout=60)) == worths(texts)


def test_hostile_text_travels_unharmed(pool):
    texts = ["a\0b", "\udc80\ud800", "\x1b[31m", "</script>"]
    assert values(pool.map([(text,) for text in texts], timeout=60)) == worths(texts)


def test_it_works_on_several_threads_at_once(pool):
    answers = {}

    def ask(name):
        answers[name] = values(pool.map([(f"{name}{n}",) for n in range(20)], timeout=60))

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: worths(f"{name}{n}" for n in range(20)) for name in "abcd"}
    assert len(pool.pids()) == 2


def test_closing_leaves_no_process_not_even_a_zombie(pool):
    pool.map([("a",), ("hang",), ("b",)], timeout=1)
    pids = pool.pids()
    assert pids
    pool.close()
    assert all(gone(each) for each in pids)  # a zombie would still answer to signal 0
    assert values(pool.map([("a",)], timeout=60)) == worths("a")


def test_what_a_killed_worker_started_is_killed_with_it(tmp_path):
    pool = Pool(child_of, size=1)
    [outcome] = pool.map([(str(tmp_path / "pid"),)], timeout=3)
    assert isinstance(outcome.error, OutOfTime)
    grandchild = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: gone(grandchild) or "Z" in state(grandchild))
    pool.close()


def state(pid):
    return subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
    ).stdout


def test_dropping_the_pool_ends_its_workers():
    pool = Pool(work, size=1)
    pool.map([("a",)], timeout=60)
    [worker] = pool.pids()
    del pool
    assert gone(worker)


def test_a_pickled_pool_starts_its_own_workers(pool):
    pool.map([("a",)], timeout=60)
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.pids() == []
    assert values(copy.map([("b",)], timeout=60)) == worths("b")
    assert not set(copy.pids()) & set(pool.pids())
    copy.close()


def test_a_forked_copy_leaves_the_workers_to_the_parent(pool):
    pool.map([("a",)], timeout=60)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        answer = values(pool.map([("b",)], timeout=60)) if pool.pids() == [] else "kept"
        pool.close()
        os.write(write_end, repr(answer).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 100) == repr(worths("b")).encode()
    before = pool.pids()
    assert values(pool.map([("c",)], timeout=60)) == worths("c")
    assert pool.pids() == before


def test_an_interrupted_call_leaves_no_stale_answers(pool):
    def interrupt(*_):
        raise KeyboardInterrupt

    pool.map([("a",)], timeout=60)
    before = signal.signal(signal.SIGUSR1, interrupt)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    with pytest.raises(KeyboardInterrupt):
        pool.map([("hang",), ("a",), ("b",)], timeout=60)
    signal.signal(signal.SIGUSR1, before)
    assert pool.pids() == []
    assert values(pool.map([("c",), ("d",)], timeout=60)) == worths("cd")


def test_a_function_that_cannot_travel_is_refused_at_once():
    with pytest.raises(TypeError, match="cannot be sent to a worker process: Can't pickle local"):
        Pool(lambda: None)


def test_a_system_without_process_groups_is_refused(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(NotImplementedError, match="need Linux or macOS"):
        Pool(work)


SCRIPT = """
from slow_rewards import work
from rewards.workers import Pool
print("once")
pool = Pool(work, size=2)
print([outcome.value for outcome in pool.map([("a",), ("hang",), ("b",)], timeout=1)])
def mine(): pass
try:
    Pool(mine)
except TypeError as error:
    print(error)
"""


def run_script(tmp_path, code):
    script = tmp_path / "train.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(HERE)!r})\n{code}")
    return [sys.executable, str(script)]


def test_a_script_without_a_main_guard_works(tmp_path):
    command = run_script(tmp_path, SCRIPT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "once",
        str(worths(["a", None, "b"])),
        "cannot be sent to a worker process: 'mine' is defined in __main__. "
        "Define it at the top level of a module that can be imported.",
    ]


KILLED = """
from slow_rewards import double, child_of
from rewards.workers import Pool
idle, busy = Pool(double, size=1), Pool(child_of, size=1)
idle.map([(0,)], timeout=60)
print(*idle.pids(), flush=True)
busy.map([("MARKER",)], timeout=60)
"""


def test_workers_die_with_a_parent_that_was_killed(tmp_path):
    marker = tmp_path / "pid"
    command = run_script(tmp_path, KILLED.replace("MARKER", str(marker)))
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    left = [int(parent.stdout.readline())]
    assert wait_until(lambda: marker.exists() and marker.read_text())
    left.append(int(marker.read_text()))  # what a worker started that hangs in C code
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: all(gone(each) or "Z" in state(each) for each in left))


def test_out_of_time_is_a_timeout_error():
    assert issubclass(OutOfTime, TimeoutError)
    assert pickle.loads(dumps(OutOfTime("late"))).args == ("late",)
