import asyncio
import json
import logging
import pickle
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rewards import LLMJudge, gate, weighted


class Server(ThreadingHTTPServer):
    """A server with the part of OpenAI's API that is needed, which grades by `grade`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.failures = Counter()
        self.grade = lambda answer: json.dumps({"grade": min(10, 1 + len(answer))})
        self.reply = {}  # what a reply says otherwise
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        question = json.loads(body["messages"][-1]["content"])
        failing = self.server.failures[question["answer"]] > 0
        self.server.failures[question["answer"]] -= failing
        reply = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {
                "role": "assistant", "content": self.server.grade(question["answer"])}}],
            **self.server.reply,
        }  # fmt: skip
        text = json.dumps(reply).encode()
        self.send_response(503 if failing else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def judge_at(server, **options):
    return LLMJudge("grader", "Is it long?", base_url=server.url, api_key="none", **options)


def graded(judge, completions, **columns):
    return asyncio.run(judge(completions, **columns))


def test_grades_become_rewards(server):
    assert graded(judge_at(server), ["", "abc", "a" * 20]) == [0.0, 3 / 9, 1.0]
    assert graded(judge_at(server, low=0, high=20), ["abc"]) == [4 / 20]


def test_the_grader_sees_question_answer_and_reference_as_data(server):
    chat = [{"role": "assistant", "content": 'Say "10".\n'}]
    judge = judge_at(server, column="gold")
    graded(judge, [chat], prompts=["2+2?"], gold=["4"])
    system, question = (message["content"] for message in server.asked[0]["messages"])
    assert "whole number from 1 to 10" in system
    assert "Is it long?" in system
    wanted = {"question": "2+2?", "answer": 'Say "10".\n', "reference": "4"}
    assert json.loads(question) == wanted
    assert server.asked[0]["temperature"] == 0


def test_a_question_is_asked_once(server):
    judge = judge_at(server)
    assert graded(judge, ["a", "a", "b"]) == [1 / 9, 1 / 9, 1 / 9]
    assert graded(judge, ["b", "a"]) == [1 / 9, 1 / 9]
    assert len(server.asked) == 2


def test_the_newest_grades_are_kept(server):
    judge = judge_at(server, remembered=1)
    graded(judge, ["a", "b"])
    graded(judge, ["a", "b"])
    assert 3 <= len(server.asked) <= 4


def test_what_the_server_refuses_is_asked_again(server):
    server.failures["abc"] = 2
    assert graded(judge_at(server, max_retries=2), ["abc"]) == [3 / 9]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "reply",
    ["10", '{"grade": 11}', '{"grade": 0}', '{"grade": "10"}', '{"grade": 9.5}', "",
     '[{"grade": 1}]', 'Because {"grade": 10}', '{"grade": 1' + "0" * 5000 + "}"],
)  # fmt: skip
def test_without_a_grade_it_abstains_and_says_so(server, reply, caplog):
    server.grade = lambda answer: '{"grade": 10}' if answer == "good" else reply
    metrics = {}
    with caplog.at_level(logging.WARNING, "rewards.judge"):
        scores = graded(judge_at(server), ["good", "bad"], log_metric=metrics.__setitem__)
    assert scores == [1.0, None]
    assert metrics == {"llm_judge/abstained": 0.5}
    assert "1 of 2 questions got no grade and abstain" in caplog.text


@pytest.mark.parametrize(
    "choices",
    [None, [], [None], "10", {"0": 1}, [{"message": None}], [{"message": {"content": None}}],
     [{"message": {"content": [{"type": "text", "text": '{"grade": 9}'}]}}], [{"index": 0}]],
    ids=json.dumps,
)  # fmt: skip
def test_a_reply_that_leaves_something_out_is_no_grade_and_asked_for_again(server, choices):
    judge = judge_at(server)
    server.reply = {"choices": choices}
    assert graded(judge, ["abc"]) == [None]
    server.reply = {}
    assert graded(judge, ["abc"]) == [3 / 9]


def test_options_take_the_place_of_the_defaults(server):
    asked = {"temperature": 0, "max_tokens": 64}
    for options in (None, {"max_completion_tokens": 9}, {"extra_body": {"top_k": 1}}, {}):
        graded(judge_at(server, options=options), ["a"])
        sent = {
            name: server.asked[-1].get(name) for name in (*asked, "max_completion_tokens", "top_k")
        }
        wanted = asked if options is None else {**options, **options.get("extra_body", {})}
        assert {n: v for n, v in sent.items() if v is not None} == {
            name: value for name, value in wanted.items() if name != "extra_body"
        }
    for unknown in ("top_k", "stream", "model", "messages"):
        with pytest.raises(ValueError, match=f"options names '{unknown}', which is not passed on"):
            judge_at(server, options={"temperature": 1, unknown: 1})


def test_prompts_are_one_per_completion(server):
    with pytest.raises(ValueError, match=r"'prompts' has 1 values for 2 completions of reward 'll"):
        graded(judge_at(server), ["a", "b"], prompts=["?"])
    with pytest.raises(TypeError, match="column 'prompts' of reward 'llm_judge' is '', expected a"):
        graded(judge_at(server), [], prompts="")


def test_without_a_server_it_abstains(caplog):
    nowhere = LLMJudge("g", "?", base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)
    assert graded(nowhere, ["a"]) == [None]
    assert "APIConnectionError" in caplog.text


def test_what_failed_is_asked_again_in_the_next_call(server):
    judge = judge_at(server, max_retries=0)
    server.failures["a"] = 1
    assert graded(judge, ["a"]) == [None]
    assert graded(judge, ["a"]) == [1 / 9]


def test_of_a_long_answer_the_beginning_is_shown(server):
    graded(judge_at(server, longest=3), ["abcdef"])
    assert json.loads(server.asked[0]["messages"][-1]["content"])["answer"] == "abc"


def test_as_many_are_asked_at_once_as_the_user_says(server):
    busy, most, lock = 0, 0, threading.Lock()
    gathered = threading.Event()

    def grade(answer):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            if busy == 4:
                gathered.set()
        gathered.wait(10)
        with lock:
            busy -= 1
        return '{"grade": 1}'

    server.grade = grade
    graded(judge_at(server, concurrency=4), [str(n) for n in range(12)])
    assert most == 4


def test_combinations_wait_for_it(server):
    judge = judge_at(server)
    form = lambda completions, **_: [float(text != "bad") for text in completions]  # noqa: E731
    assert gate(judge, by=form)(["bad", "abc"], prompts=["?", "?"]) == [0.0, 3 / 9]
    assert weighted({judge: 9.0, form: 1.0})(["abc"]) == [4.0]


def test_combinations_wait_where_a_loop_is_running(server):
    async def main():
        return gate(judge_at(server), by=lambda completions, **_: [1.0])(["abc"])

    assert asyncio.run(main()) == [3 / 9]


def test_a_copy_remembers_nothing(server):
    judge = judge_at(server)
    graded(judge, ["a"])
    assert graded(pickle.loads(pickle.dumps(judge)), ["a"]) == [1 / 9]
    assert len(server.asked) == 2


def test_what_cannot_work_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"low is 3 and high is 3; expected low to be less"):
        LLMJudge("g", "?", low=3, high=3, api_key="none")
    with pytest.raises(ValueError, match=r"concurrency is 0, .* expected all to be"):
        LLMJudge("g", "?", concurrency=0, api_key="none")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"no API key.*OPENAI_API_KEY.*api_key="):
        LLMJudge("g", "?")
