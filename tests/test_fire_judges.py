"""Judges that judged texts have taken over: they cost their own text its score, and nobody else."""

import os
import pickle
import signal
import subprocess
import threading
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_rewards import run_code, work, worth
from test_workers import gone, run_script, state, values, wait_until

from rewards.serving import (
    LONGEST,
    Outcome,
    OutOfMemory,
    OutOfTime,
    WorkerError,
    _answer,
    _failure,
    number_of,
    read_answer,
)
from rewards.workers import Pool

TIME = 3.0  # seconds: an innocent text needs a thousandth
WRITE = """
import os, stat, struct
def write(data):
    for fd in range(3, 50):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, data)
        except OSError:
            pass
frame = lambda number, score, *sizes: struct.pack("!QBdHH", number, 0, score, *(sizes or (0, 0)))
score = 1.5
"""
LEAVE = """
def leave(then=lambda: None):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open(MARKER, "w").write(str(os.getpid()))
            then()
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not os.path.exists(MARKER) or not open(MARKER).read():
        time.sleep(0.01)
"""


def dead(pid):
    return gone(pid) or "Z" in state(pid)


@pytest.fixture(scope="module")
def pool():
    pool = Pool(run_code, size=1)
    yield pool
    pool.close()


HOSTILE = {  # what the text does -> what becomes of it: an error, or the score it gave itself
    "prints": ("os.write(1, b'x' * 99); os.write(2, b'x' * 99)", 1.5),
    "writes everywhere": ("write(b'x' * 9000)", WorkerError),
    "writes a byte at a time": ("for _ in range(30): write(b'x'); time.sleep(0.001)", WorkerError),
    "sends a pickle": ("write(struct.pack('!i', 99) + BOMB)", WorkerError),
    "sends a pickle in a frame": (
        "write(struct.pack('!QBdHH', question, 2, 0.0, len(BOMB), 0) + BOMB)",
        WorkerError,
    ),
    "gives itself a score": ("write(frame(question, 9.0)); os._exit(0)", 9.0),
    "answers and hangs": ("write(frame(question, 9.0)); time.sleep(600)", 9.0),
    "answers twice at once": ("write(frame(question, 9.0) * 2); time.sleep(600)", WorkerError),
    "answers again later": ("threading.Timer(0.3, write, (frame(question, 9.0),)).start()", 1.5),
    "answers the next one": ("write(frame(question + 1, 9.0)); time.sleep(600)", WorkerError),
    "sends half a frame": ("write(frame(question, 9.0)[:9]); time.sleep(600)", OutOfTime),
    "promises a long text": ("write(frame(question, 9.0, 65535, 65535))", WorkerError),
    "hangs up": ("os.closerange(3, 50); time.sleep(600)", WorkerError),
    "exits": ("os._exit(0)", WorkerError),
    "leaves by an exception": ("raise SystemExit", WorkerError),
    "kills itself": ("os.kill(os.getpid(), signal.SIGKILL)", OutOfMemory),
    "kills its group": ("os.killpg(0, signal.SIGKILL)", OutOfMemory),
    "kills its supervisor": ("os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)", OutOfMemory),
    "stops itself": ("os.kill(os.getpid(), signal.SIGSTOP)", OutOfTime),
    "stops its supervisor": ("os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)", OutOfTime),
    "asks for memory": ("bytearray(100 * 2**30)", OutOfMemory),
    "takes memory in a child": ("os.fork() or bytearray(100 * 2**30); os.wait()", 1.5),
    "gives no float": ("score = 10**400", WorkerError),
    "gives infinity": ("score = float('inf')", WorkerError),
    "leaves a child that writes": ("leave(lambda: [write(b'x') for _ in range(99)])", None),
    "leaves a child and exits": ("leave(); os._exit(0)", WorkerError),
    "leaves a child and hangs": ("leave(); time.sleep(600)", OutOfTime),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_text_costs_itself_alone(pool, tmp_path, what):
    code, expected = HOSTILE[what]
    marker = tmp_path / "pid"
    bomb = pickle.dumps(_Bomb(f"touch {tmp_path / 'boom'}"))
    setting = f"import signal, threading, time\nMARKER = {str(marker)!r}\nBOMB = {bomb!r}\n"
    items = ["score = 0.25", WRITE + setting + LEAVE + code, "score = 0.5", "score = 0.75"]
    first, hostile, *others = pool.map([(item,) for item in items], timeout=TIME)
    assert first.value == 0.25
    # what a text makes a worker do after its answer is on the next one's time
    assert values(others) == [None if what == "answers and hangs" else 0.5, 0.75]
    if isinstance(expected, float):
        assert hostile.value == expected
    elif expected:
        assert isinstance(hostile.error, expected), hostile
    assert not (tmp_path / "boom").exists()
    if "leave(" in code:
        pool.close()
        child = int(marker.read_text())
        assert wait_until(lambda: dead(child))


class _Bomb:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_stopped_worker_takes_no_large_text_and_holds_nobody_up(pool):
    stop = "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGSTOP)).start(); score = 1.0"
    large = f"import time; time.sleep(0.6); score = 2.0; {'#' * 4_000_000}"
    outcomes = pool.map(
        [(f"import os, signal, threading; {stop}",), (large,), (f"{large}#",)], timeout=TIME
    )
    assert outcomes[0].value == 1.0
    assert isinstance(outcomes[1].error, OutOfTime)  # it was given to the stopped one
    assert outcomes[2].value == 2.0


def test_nothing_that_a_trainer_reads_is_unpickled(monkeypatch):
    pool = Pool(work, size=1)
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    outcomes = pool.map([("a",), ("raise",), ("nothing",)], timeout=60)
    assert values(outcomes) == [worth("a"), None, None]
    pool.close()


# ---- frames -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(frame=st.binary(max_size=LONGEST + 10), number=st.integers(0, 2**64 - 1))
def test_no_bytes_are_an_answer_to_another_question(frame, number):
    try:
        outcome = read_answer(frame, number)
    except WorkerError:
        return
    assert outcome is None or frame[:8] == number.to_bytes(8, "big")


@settings(max_examples=50)
@given(text=st.text(max_size=600), cut=st.integers(0, 4000), number=st.integers(0, 2**64 - 1))
def test_a_frame_is_read_when_it_is_whole(text, cut, number):
    try:
        raise ValueError(text)
    except ValueError as error:
        frame = _failure(number, error)
    assert len(frame) <= LONGEST
    outcome = read_answer(frame, number)
    assert str(outcome.error).startswith("ValueError: ")
    assert all(char.isprintable() or char == "\n" for char in str(outcome.error))
    assert cut >= len(frame) or read_answer(frame[:cut], number) is None
    with pytest.raises(WorkerError, match="its process wrote what is no answer"):
        read_answer(frame + b"x", number)


@pytest.mark.parametrize("score", [None, 0.0, -0.0, 0.1, 1e308])
def test_a_score_travels_to_the_bit(score):
    assert repr(read_answer(_answer(7, score), 7)) == repr(Outcome(score))


def numpy_scalar(value):
    numpy = pytest.importorskip("numpy")
    return numpy.asarray(value)[()]


def tensor(value):
    return pytest.importorskip("torch").tensor(value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: True, 1.0),
        (lambda: Decimal("0.5"), 0.5),
        (lambda: numpy_scalar(0.5), 0.5),
        (lambda: numpy_scalar(True), 1.0),
        (lambda: tensor(0.5), 0.5),
        (lambda: float("nan"), None),
        (lambda: Decimal("NaN"), None),
        (lambda: 10**400, OverflowError),
        (lambda: -(10**400), OverflowError),
        (lambda: Decimal("1e400"), ValueError),
        (lambda: float("-inf"), ValueError),
        (lambda: "1", TypeError),
        (lambda: 1j, TypeError),
        (lambda: numpy_scalar(1j), TypeError),
        (lambda: tensor(1j), TypeError),
        (lambda: tensor([1.0]), TypeError),
        (lambda: {}, TypeError),
    ],
)
def test_a_score_is_a_finite_real_number_or_none(make, expected):
    if isinstance(expected, type):
        with pytest.raises(expected, match=r"the score is .*expected a .*number"):
            number_of(make())
    else:
        assert number_of(make()) == expected


# ---- closing ----------------------------------------------------------------------------------


def test_close_waits_for_a_call_on_another_thread():
    pool = Pool(run_code, size=1)
    slowly = "import time; time.sleep(0.2); score = 1.0"
    answers = []
    calling = threading.Thread(
        target=lambda: answers.extend(values(pool.map([(f"{slowly} # {n}",) for n in "abc"], 60)))
    )
    calling.start()
    assert wait_until(pool.pids)
    threads = [threading.Thread(target=pool.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in [calling, *threads]:
        thread.join(60)
    assert answers == [1.0] * 3
    assert pool.pids() == []


def test_close_in_a_signal_handler_comes_after_the_call_that_it_interrupts():
    pool = Pool(run_code, size=1)
    pool.map([("score = 1.0",)], timeout=60)
    refused = []

    def close(*_):
        pool.close()
        with pytest.raises(
            RuntimeError, match="cannot use a pool that it has interrupted"
        ) as error:
            pool.map([("score = 2.0",)], timeout=60)
        refused.append(error)

    before = signal.signal(signal.SIGUSR1, close)
    interrupt = f"import os, time; os.kill({os.getpid()}, {signal.SIGUSR1:d}); time.sleep(0.3)"
    outcomes = pool.map([(f"{interrupt}; score = 3.0",), ("score = 4.0",)], timeout=60)
    signal.signal(signal.SIGUSR1, before)
    assert values(outcomes) == [3.0, 4.0]
    assert refused
    assert pool.pids() == []
    assert values(pool.map([("score = 5.0",)], timeout=60)) == [5.0]
    pool.close()
    pool.close()


EXITS = """
import threading, time
from slow_rewards import run_code
from rewards.workers import Pool
pool = Pool(run_code, size=2)
pool.map([("score = 1.0",)], timeout=60)
hang = [("import time; time.sleep(600)",)]
threading.Thread(target=pool.map, args=(hang, 600), daemon=True).start()
time.sleep(0.3)
print(*pool.pids())
"""


def test_a_program_ends_in_the_middle_of_a_call(tmp_path):
    done = subprocess.run(
        run_script(tmp_path, EXITS), capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    pids = list(map(int, done.stdout.split()))
    assert pids
    assert wait_until(lambda: all(map(dead, pids)))


def test_a_program_that_ignores_the_end_of_children_can_judge(tmp_path):
    code = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # which children inherit
from slow_rewards import work
from rewards.workers import Pool
pool = Pool(work, size=1)
print([outcome.value is None for outcome in pool.map([("a",), ("exit",), ("b",)], timeout=60)])
"""
    done = subprocess.run(
        run_script(tmp_path, code), capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("[False, True, False]\n", "")
