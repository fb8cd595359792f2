"""The client of OpenAI-compatible servers, against a real HTTP server with the faults that servers have."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evals import client as client_module
from evals import pace as pace_module
from evals.addresses import base_url, is_loopback, key_headers
from evals.client import Client, RequestError, ServerGoneError
from evals.concurrency import as_answered
from evals.dialect import Dialect
from evals.pace import Pace, RequestCancelledError, asked_wait, resets
from evals.replies import Usage, reason_of
from harness.errors import MoemixError

GOOD = {"choices": [{"text": "four", "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


class Server(ThreadingHTTPServer):
    """Gives the replies of a script, one after the other, the last one for ever."""

    daemon_threads = True
    request_queue_size = 64

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
    monkeypatch.setattr(pace_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(client_module, "PATIENCE", 2.0)


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
    assert error.value.reason == reason
    assert error.value.attempts == len(server.seen)
    assert len(server.seen) == 3 or reason == "rate_limited"  # being asked to wait is no failure


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
    assert time.monotonic() - started < 8  # of the ten that it drips for


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


def test_a_pause_that_the_server_asks_for_is_kept_by_all_requests(monkeypatch):
    monkeypatch.setattr(client_module, "PATIENCE", 900.0)
    with Server((429, {"Retry-After": "0.5"}, "wait"), GOOD) as server:
        started, pace = time.monotonic(), Pace()
        complete(Client(server.url, pace=pace))
    assert time.monotonic() - started >= 0.5


def test_what_a_server_asks_to_wait_is_read_in_every_form():
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 30))
    assert asked_wait({"retry-after": "7"}) == 7
    assert asked_wait({"retry-after": date}) == pytest.approx(30, abs=2)
    assert asked_wait({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert asked_wait({"retry-after": "86400"}) == 86400
    assert asked_wait({"retry-after": "soon"}) == asked_wait({}) == asked_wait({"retry-after": "-3"}) == 0
    for name, value in [("x-ratelimit-reset-requests", "1m2.5s"), ("x-ratelimit-reset-tokens", "120ms"),
                        ("ratelimit-reset", "12"), ("x-ratelimit-reset", str(int((time.time() + 30) * 1000))),
                        ("anthropic-ratelimit-requests-reset", iso)]:  # fmt: skip
        remaining = name.replace("reset", "remaining")
        expected = {"1m2.5s": 62.5, "120ms": 0.12, "12": 12}.get(value, 30)
        assert asked_wait({remaining: "0", name: value}) == pytest.approx(expected, abs=2)
        assert not [*resets({remaining: "3", name: value})]
    assert asked_wait({}, "Rate limit reached. Please try again in 20s.") == 20
    assert asked_wait({}, "try again in 1m30s") == 90
    assert asked_wait({}, "Please retry after 350 milliseconds.") == pytest.approx(0.35)
    assert asked_wait({}, '{"retryDelay": "34s"}') == 34


def test_a_limit_of_requests_without_retry_after_loses_nothing(monkeypatch):
    window, lock = [], threading.Lock()

    def limited(_):
        with lock:
            window[:] = [moment for moment in window if time.monotonic() - moment < 1.0]
            if len(window) >= 10:
                return (429, {}, "slow down")
            window.append(time.monotonic())
        return GOOD

    monkeypatch.setattr(client_module, "PATIENCE", 60.0)
    with Server(limited) as server:
        client = Client(server.url, attempts=1)
        with as_answered(range(32), lambda *_: complete(client), concurrency=16) as answered:
            assert [future.result().text for _, future in answered] == ["four"] * 32


def test_a_server_whose_headers_say_that_a_limit_is_used_up_is_not_asked_before(monkeypatch):
    monkeypatch.setattr(client_module, "PATIENCE", 5.0)
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "400ms"}
    with Server((200, headers, GOOD), GOOD) as server:
        client, started = Client(server.url), time.monotonic()
        complete(client)
        complete(client)
    assert time.monotonic() - started >= 0.4
    assert len(server.seen) == 2


def test_a_wait_of_hours_is_not_waited_for_and_can_be_told_from_a_refusal():
    with Server((429, {"Retry-After": "3600"}, "daily limit")) as server, pytest.raises(RequestError) as error:
        complete(Client(server.url))
    assert (error.value.reason, error.value.passing, len(server.seen)) == ("rate_limited", False, 1)
    assert "asks to wait 3600 s" in error.value.detail


ASKED = {
    "messages": [{"role": "system", "content": "grade"}, {"role": "user", "content": "this"}],
    "max_tokens": 4, "temperature": 0.0, "seed": 0, "response_format": {},
}  # fmt: skip
ALL = ("response_format", "seed", "temperature", "system")


SAID = {
    "max_tokens": "use 'max_completion_tokens' instead of 'max_tokens'",
    "system": "System role not supported",
    "stream": "This model only supports stream mode",
}


def refusing(*names, words="{} is not supported"):
    """A server that refuses parts of a request, one after the other."""

    def reply(payload):
        roles = {message["role"] for message in payload["messages"]}
        for name in names:
            if (name in payload) != (name == "stream") or name in roles:
                return (400, {}, SAID.get(name, words.format(name)))
        return GOOD

    return reply


@pytest.mark.parametrize(
    "names",
    [
        ("max_tokens", "response_format"),
        ("temperature", "seed"),
        ("system",),
        ("stream",),
        ("stream", "stream_options"),
        ("max_tokens", "temperature", "seed", "system"),
    ],
)
def test_what_a_server_does_not_accept_is_learnt_once_for_all_threads(names):
    with Server(refusing(*names)) as server:
        client = Client(server.url, attempts=1, optional=ALL)
        barrier = threading.Barrier(8)

        def ask(number, stop):
            barrier.wait()
            return client.complete("/chat/completions", ASKED)

        with as_answered(range(8), ask, concurrency=8) as answered:
            replies = [future.result() for _, future in answered]
    assert len(server.seen) == 8 + len(names)
    assert {reply.omitted for reply in replies} == {tuple(sorted({*names} & {*ALL}))}


def test_an_unnamed_refusal_is_answered_by_leaving_out_what_is_least_usual():
    with Server(refusing("response_format", "seed", words="Extra inputs are not permitted")) as server:
        reply = Client(server.url, attempts=1, optional=ALL).complete("/chat/completions", ASKED)
    assert reply.omitted == ("response_format", "seed")
    assert reply.sent["temperature"] == 0


def test_nothing_is_left_out_of_an_evaluations_request():
    with Server(refusing("temperature")) as server, pytest.raises(RequestError, match="temperature is not supported"):
        Client(server.url, attempts=1).complete("/chat/completions", ASKED)


def test_a_refusal_about_something_else_teaches_nothing():
    dialect = Dialect(ALL)
    assert dialect.learn(ASKED, frozenset(), 400, "the prompt is too long") == frozenset()
    dialect.accept(frozenset())
    assert dialect.learn(ASKED, frozenset(), 400, "unsupported parameter") == frozenset()
    assert dialect.learn(ASKED, frozenset(), 500, "temperature too high in rack 7") == frozenset()


def event(**choice):
    return "data: " + json.dumps({"choices": [{"index": 0, **choice}]}) + "\n\n"


def test_a_stream_is_put_together_and_a_broken_one_is_not_taken_for_whole():
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n'
    whole = (
        event(delta={"content": "fo"})
        + event(delta={"content": "ur"}, finish_reason="stop")
        + usage
        + "data: [DONE]\n\n"
    )
    stream = {"Content-Type": "text/event-stream"}
    with Server((200, stream, event(delta={"role": "assistant"})), (200, stream, whole)) as server:
        reply = complete(Client(server.url))
    assert (reply.text, reply.finish_reason, reply.usage, reply.attempts) == ("four", "stop", Usage(7, 2), 2)


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (402, "Insufficient Balance", "unpaid"),
        (429, "You exceeded your current quota, please check your plan and billing details.", "unpaid"),
        (400, "Your credit balance is too low", "unpaid"),
        (403, 'Your input was flagged for "violence"', "refused"),
        (400, "triggering Azure OpenAI's content management policy", "refused"),
        (403, "Country not supported", "forbidden"),
        (429, "Request too large for model: Limit 10000, Requested 20000", "rejected"),
        (401, "wrong key", "denied"),
    ],
)
def test_a_refusal_has_the_name_of_its_cause(status, text, reason):
    assert reason_of(status, text) == (reason, False)


def test_an_error_in_a_good_response_is_an_error():
    limited = {"error": {"message": "Rate limit exceeded: free-models-per-min", "code": 429}}
    with Server(limited, GOOD) as server:
        assert complete(Client(server.url, attempts=1)).attempts == 2
    with (
        Server({"error": {"message": "Provider returned error", "code": 402}}) as server,
        pytest.raises(RequestError) as error,
    ):
        complete(Client(server.url))
    assert (error.value.reason, len(server.seen)) == ("unpaid", 1)


def test_a_redirect_is_followed_with_the_request_on_the_same_server_only():
    with Server(GOOD) as other:
        with Server((301, {"Location": "/v2/completions"}, ""), GOOD) as server:
            assert complete(Client(server.url)).text == "four"
            assert server.paths == ["/v1/completions", "/v2/completions"]
        away = other.url.replace("127.0.0.1", "localhost")
        with Server((308, {"Location": f"{away}/v1/completions"}, "")) as server, pytest.raises(RequestError) as error:
            complete(Client(server.url, key="sk-secret"))
    assert error.value.reason == "denied"
    assert not other.seen


def test_a_key_is_sent_and_shown_nowhere():
    with Server((400, {}, "the key sk-secret is over its limit")) as server:
        client = Client(server.url, key="sk-secret")
        with pytest.raises(RequestError) as error:
            complete(client)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in f"{error.value}{error.value.detail}{client!r}"


def test_a_key_is_sent_as_its_provider_wants_it():
    assert key_headers("https://name.openai.azure.com/openai", "k") == {"api-key": "k"}
    assert key_headers("https://host/v1", "k") == {"Authorization": "Bearer k"}
    assert key_headers("https://host/v1", None) == {}


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
        ("https://models.github.ai/inference", "https://models.github.ai/inference"),
        ("https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/endpoints/openapi",
         "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/endpoints/openapi"),
        ("https://api.perplexity.ai/chat/completions", "https://api.perplexity.ai"),
        ("https://name.openai.azure.com/openai/deployments/gpt/chat/completions",
         "https://name.openai.azure.com/openai/deployments/gpt"),
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


def test_a_request_that_nobody_waits_for_ends_soon(monkeypatch):
    monkeypatch.setattr(client_module, "PATIENCE", 900.0)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with Server((429, {"Retry-After": "60"}, "wait")) as server, pytest.raises(RequestCancelledError):
        complete(Client(server.url), stop=stop)
    assert time.monotonic() - started < 40  # of sixty


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
