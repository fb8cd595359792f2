"""The client of OpenAI-compatible servers, against a real HTTP server with the faults that servers have."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evals import client as client_module
from evals.addresses import base_url, is_loopback, retry_after
from evals.client import Client, Dialect, Pace, RequestCancelledError, RequestError, ServerGoneError, Usage
from evals.concurrency import as_answered
from harness.errors import MoemixError

GOOD = {"choices": [{"text": "four", "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


class Server(ThreadingHTTPServer):
    """Gives the replies of a script, one after the other, the last one for ever."""

    daemon_threads = True

    def __init__(self, *replies) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.seen, self.paths, self.headers = list(replies), [], [], []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(payload)
            self.server.paths.append(self.path)
            self.server.headers.append(dict(self.headers))
            reply = self.server.replies[0] if len(self.server.replies) == 1 else self.server.replies.pop(0)
        reply = reply(payload) if callable(reply) else reply
        if reply == "drip":
            self.send_response(200)
            for _ in range(200):
                self.wfile.write(b"X-Drip: 1\r\n")
                self.wfile.flush()
                time.sleep(0.05)
            return
        status, headers, body = reply if isinstance(reply, tuple) else (200, {}, reply)
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args) -> None:
        pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.01)


def complete(client, **options):
    return client.complete("/completions", {"model": "m", "max_tokens": 4}, **options)


def test_a_reply_has_its_text_and_its_tokens():
    with Server(GOOD) as server:
        reply = complete(Client(server.url))
    assert (reply.text, reply.finish_reason, reply.attempts) == ("four", "stop", 1)
    assert reply.usage == reply.billed == Usage(5, 1)
    assert server.paths == ["/v1/completions"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((500, {}, "oops"), "server_error"),
        ((503, {}, "busy"), "server_error"),
        ((429, {}, "slow down"), "rate_limited"),
        ((408, {}, "late"), "timeout"),
        ("{half", "bad_reply"),
        ("[" * 100_000, "bad_reply"),
        ({}, "bad_reply"),
        ({"choices": []}, "bad_reply"),
        ({"error": {"message": "out of memory"}}, "bad_reply"),
    ],
)
def test_what_may_pass_is_asked_again_and_named_in_the_end(fault, reason):
    with Server(fault, GOOD) as server:
        assert complete(Client(server.url)).attempts == 2
    with Server(fault) as server, pytest.raises(RequestError) as error:
        complete(Client(server.url, attempts=3))
    assert (error.value.reason, error.value.attempts, len(server.seen)) == (reason, 3, 3)


@pytest.mark.parametrize(("status", "reason"), [(400, "rejected"), (422, "rejected"), (401, "denied"), (404, "denied")])
def test_a_refused_request_is_not_sent_again(status, reason):
    with Server((status, {}, "no")) as server, pytest.raises(RequestError, match=f"refused a request \\({status}: no"):
        complete(Client(server.url))
    assert len(server.seen) == 1
    with Server((status, {}, "no")) as server, pytest.raises(RequestError) as error:
        complete(Client(server.url))
    assert error.value.reason == reason


def test_nothing_at_the_address_is_a_connection_error():
    with pytest.raises(RequestError) as error:
        complete(Client("http://127.0.0.1:9", attempts=1))
    assert error.value.reason == "connection"


def test_a_deadline_holds_even_when_the_server_sends_a_byte_now_and_then():
    started = time.monotonic()
    with Server("drip") as server, pytest.raises(RequestError) as error:
        complete(Client(server.url, timeout=0.4, attempts=1))
    assert error.value.reason == "timeout"
    assert time.monotonic() - started < 1.5


def test_useless_replies_are_asked_again_and_billed():
    empty = {"choices": [{"text": ""}], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}
    check = lambda reply: None if reply.text else ("empty", "a reply without text")
    with Server(empty, empty, GOOD) as server:
        reply = complete(Client(server.url), check=check)
    assert (reply.attempts, reply.usage, reply.billed) == (3, Usage(5, 1), Usage(15, 19))
    with Server(empty) as server, pytest.raises(RequestError) as error:
        complete(Client(server.url, attempts=2), check=check)
    assert (error.value.reason, error.value.billed) == ("empty", Usage(10, 18))


def test_a_nonsensical_count_of_tokens_counts_as_none():
    with Server({**GOOD, "usage": {"prompt_tokens": 10**60, "completion_tokens": "many"}}) as server:
        assert complete(Client(server.url)).usage == Usage()


def test_a_pause_that_the_server_asks_for_is_kept_by_all_requests():
    with Server((429, {"Retry-After": "0.5"}, "wait"), GOOD) as server:
        started, pace = time.monotonic(), Pace()
        complete(Client(server.url, pace=pace))
    assert time.monotonic() - started >= 0.5


def test_retry_after_is_read_in_every_form():
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": "soon"}) == retry_after({}) == retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "86400"}) == 120


def test_what_a_server_does_not_accept_is_learnt_once_for_all_threads():
    def picky(payload):
        if "max_tokens" in payload:
            return (400, {}, "use 'max_completion_tokens' instead of 'max_tokens'")
        if "response_format" in payload:
            return (400, {}, "response_format is not supported")
        return GOOD

    with Server(picky) as server:
        client = Client(server.url, attempts=1)
        barrier = threading.Barrier(8)

        def ask(number, stop):
            barrier.wait()
            return client.complete("/completions", {"max_tokens": 4, "response_format": {}, "seed": number})

        with as_answered(range(8), ask, concurrency=8) as answered:
            replies = [future.result() for _, future in answered]
        last = client.complete("/completions", {"max_tokens": 4, "response_format": {}})
    assert len(replies) == 8
    assert all("max_completion_tokens" in reply.sent and "response_format" not in reply.sent for reply in replies)
    assert last.attempts == 1
    assert (client.dialect.renamed, client.dialect.omitted) == (
        {"max_tokens": "max_completion_tokens"}, {"response_format"}
    )  # fmt: skip


def test_a_refusal_about_something_else_teaches_nothing():
    dialect = Dialect()
    assert not dialect.learn({"max_tokens": 4, "response_format": {}}, "the prompt is too long")
    assert dialect.spell({"max_tokens": 4}) == {"max_tokens": 4}


def test_a_key_is_sent_and_shown_nowhere():
    with Server((400, {}, "the key sk-secret is over its limit")) as server:
        client = Client(server.url, key="sk-secret")
        with pytest.raises(RequestError) as error:
            complete(client)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in f"{error.value}{error.value.detail}{client!r}"


def test_the_query_of_an_address_is_sent_with_every_request():
    with Server(GOOD) as server:
        complete(Client(f"{server.url}/openai/deployments/gpt?api-version=2024-10-21"))
    assert server.paths == ["/openai/deployments/gpt/completions?api-version=2024-10-21"]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host/v1", "http://host/v1"),
        ("https://host/v1/chat/completions", "https://host/v1"),
        ("https://host/v1/completions/", "https://host/v1"),
        ("https://host/proxy", "https://host/proxy/v1"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "https://generativelanguage.googleapis.com/v1beta/openai"),
        ("https://api.deepinfra.com/v1/openai", "https://api.deepinfra.com/v1/openai"),
    ],
)  # fmt: skip
def test_an_address_may_be_written_as_providers_do(url, base):
    assert base_url(url) == (base, "")


@pytest.mark.parametrize(
    "url", ["host:8000", "ftp://host", "http://", "http://me:sk-secret@host", "http://host?key=sk-secret"]
)
def test_an_address_that_is_none_or_holds_a_key_is_refused_without_repeating_it(url):
    with pytest.raises(MoemixError) as error:
        base_url(url)
    assert "sk-secret" not in str(error.value)


def test_no_proxy_stands_before_this_machines_own_address(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Server(GOOD) as server:
        assert complete(Client(server.url, attempts=1)).text == "four"
        assert complete(Client(server.url.replace("127.0.0.1", "localhost"), attempts=1)).text == "four"
    assert is_loopback("http://[::1]:80/v1")
    assert not is_loopback("https://example.org/v1")


def test_a_server_that_has_ended_is_not_waited_for():
    with pytest.raises(ServerGoneError):
        complete(Client("http://127.0.0.1:9", alive=lambda: False))


def test_a_request_that_nobody_waits_for_ends_soon():
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with Server((429, {"Retry-After": "60"}, "wait")) as server, pytest.raises(RequestCancelledError):
        complete(Client(server.url), stop=stop)
    assert time.monotonic() - started < 5


def test_a_rate_of_our_own_is_kept():
    with Server(GOOD) as server:
        client = Client(server.url, pace=Pace(per_minute=600))
        started = time.monotonic()
        for _ in range(6):
            complete(client)
    assert time.monotonic() - started >= 0.5


def test_answers_come_as_they_are_there_and_the_rest_is_given_up():
    seen = []

    def ask(item, stop):
        if item == 0:
            stop.wait(5)
        return item * 2

    with as_answered(range(1000), ask, concurrency=2) as answered:
        for item, future in answered:
            seen.append((item, future.result()))
            if len(seen) == 3:
                break
    assert len(seen) == 3
    assert all(number > 0 and answer == 2 * number for number, answer in seen)
