"""The client for OpenAI-compatible servers: addresses, keys, deadlines, retries, and a name for every failure.

Engines and judges send their requests through it. Requests of all threads run on one event loop in a thread of its
own, because only there a deadline ends a request whatever the server does.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import httpx2
import tenacity

from evals.addresses import base_url, is_loopback, retry_after
from harness.errors import StageError

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between attempts: the wait doubles each time, with jitter
CONNECT_SECONDS = 10.0
HIDDEN = "[key]"  # what stands in place of a key in every text
RESUME_HINT = "run the same command again: what was answered is kept"
_STARTING = threading.Lock()  # threads that send their first requests together must not start two event loops
_SMALL = 1 << 53  # counts of tokens above this are nonsense

Reason = Literal[
    "rate_limited",  # the server asks to wait
    "server_error",  # a status of 500 or more
    "timeout",
    "connection",  # no connection, or it broke
    "bad_reply",  # not the JSON that it should be
    "empty",  # a reply without text
    "rejected",  # the server does not accept this request
    "denied",  # the server does not accept us: key, model or address
]


@dataclass(frozen=True)
class Usage:
    """Tokens that a server counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True)
class Completion:
    """A server's reply.

    Attributes:
        choice: the first of its choices.
        usage: tokens of this reply.
        billed: tokens of all replies to this request, the useless ones included.
        sent: the request as it was sent in the end.
        attempts: how often it was sent.
        seconds: from the first attempt to the reply.
    """

    choice: Mapping[str, object]
    usage: Usage = Usage()
    billed: Usage = Usage()
    sent: Mapping[str, object] = field(default_factory=dict)
    attempts: int = 1
    seconds: float = 0.0

    @property
    def finish_reason(self) -> str | None:
        """Why the server stopped generating."""
        reason = self.choice.get("finish_reason")
        return reason if isinstance(reason, str) else None

    @property
    def text(self) -> str:
        """The generated text of a completion or of a chat message; empty where there is none."""
        message = self.choice.get("message")
        text = message.get("content") if isinstance(message, dict) else self.choice.get("text")
        return "" if text is None else str(text)


class RequestError(StageError):
    """A request that got no usable reply.

    Attributes:
        reason: what went wrong, as one word.
        detail: what went wrong, in the server's or the library's words.
        passing: whether the same request may succeed later.
        attempts, seconds, billed: as in :class:`Completion`.
    """

    def __init__(self, reason: Reason, detail: str, *, where: str, passing: bool = True) -> None:
        self.reason, self.detail, self.passing = reason, detail, passing
        self.attempts, self.seconds, self.billed = 1, 0.0, Usage()
        if passing:
            super().__init__(f"no usable reply: {detail}", where=where, hint=RESUME_HINT)
        else:
            super().__init__(f"the server refused a request ({detail})", where=where)


class RequestCancelledError(Exception):
    """Nobody waits for this reply any more."""


class ServerGoneError(Exception):
    """The server ended with requests in flight."""


@dataclass
class Pace:
    """When the next request may be sent: a rate of our own, and pauses that the server asks for.

    All threads share it.
    """

    per_minute: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def wait(self, stop: threading.Event) -> None:
        """Wait until this request may be sent.

        Raises:
            RequestCancelledError: ``stop`` was set meanwhile.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                delay = self._next - now
                if delay <= 0:
                    if self.per_minute:
                        self._next = now + 60.0 / self.per_minute
                    return
            if stop.wait(min(delay, 1.0)):
                raise RequestCancelledError

    def pause(self, seconds: float) -> None:
        """Send nothing for so many seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Dialect:
    """What a server was seen not to accept. All threads share it, so it is learnt once."""

    RENAMED: Mapping[str, str] = {"max_tokens": "max_completion_tokens"}
    OPTIONAL: Mapping[str, re.Pattern[str]] = {
        "response_format": re.compile(r"response_format|json_schema|structured|guided|schema", re.IGNORECASE)
    }

    def __init__(self) -> None:
        self.renamed: dict[str, str] = {}
        self.omitted: set[str] = set()

    def spell(self, payload: Mapping[str, object]) -> dict[str, object]:
        """Return a request as this server accepts it."""
        return {self.renamed.get(name, name): value for name, value in payload.items() if name not in self.omitted}

    def learn(self, sent: Mapping[str, object], refusal: str) -> bool:
        """Learn from a refusal; return whether the request is worth sending again in another form."""
        for name, new in self.RENAMED.items():
            if name in sent and new in refusal:
                self.renamed[name] = new
                return True
        for name, pattern in self.OPTIONAL.items():
            if name in sent and pattern.search(refusal):
                self.omitted.add(name)
                return True
        return False


class Client:
    """A client of one server.

    Args:
        url: the server's address, see :func:`base_url`.
        key: sent as a bearer token; it appears in no text.
        timeout: seconds that one request may take, from connecting to the last byte.
        attempts: how often one request is sent at most.
        pace: when requests may be sent; shared by clients of the same server.
        alive: returns false once the server is known to have ended.

    Attributes:
        url: the address up to and including the version, without a query.
        query: the address's query, sent with every request.
        dialect: what the server was seen not to accept.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        attempts: int = 6,
        pace: Pace | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.url, self.query = base_url(url)
        self.timeout, self.attempts, self.pace, self.dialect = timeout, attempts, pace or Pace(), Dialect()
        self._key, self._alive = key, alive
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=None),
            follow_redirects=True,
            trust_env=not is_loopback(self.url),  # a proxy cannot reach this machine's own address
        )

    def get(self, address: str, timeout: float = 30.0) -> object:
        """Return the JSON value at an address, or raise RequestError. The request is sent once."""
        return self._send("GET", address, None, timeout)

    def complete(
        self,
        path: str,
        payload: Mapping[str, object],
        *,
        check: Callable[[Completion], tuple[Reason, str] | None] | None = None,
        stop: threading.Event | None = None,
    ) -> Completion:
        """Send a request, again as long as the failure may pass, and return the reply.

        Args:
            path: ``/completions`` or ``/chat/completions``.
            payload: the request.
            check: returns why a reply is unusable, or None; the request is then sent again.
            stop: set when nobody waits for this reply any more.

        Raises:
            RequestError: no attempt gave a usable reply.
            ServerGoneError: the server has ended.
            RequestCancelledError: ``stop`` was set.
        """
        started, sent, billed, stopped = time.monotonic(), 0, Usage(), stop or threading.Event()

        def sleep(seconds: float) -> None:
            stopped.wait(seconds)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, RequestError) and error.passing),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=_back_off,
            sleep=sleep,
            reraise=True,
        )

        def attempt() -> Completion:
            nonlocal sent, billed
            while True:
                if not self._alive():
                    raise ServerGoneError
                if stopped.is_set():
                    raise RequestCancelledError
                self.pace.wait(stopped)
                spelled, sent = self.dialect.spell(payload), sent + 1
                try:
                    reply = self._reply(self._send("POST", f"{self.url}{path}", spelled, self.timeout))
                except RequestError as error:
                    if error.reason == "rejected" and self.dialect.learn(spelled, error.detail):
                        continue
                    raise
                billed += reply.usage
                if useless := check(reply) if check else None:
                    raise RequestError(*useless, where=self.url)
                return Completion(reply.choice, reply.usage, billed, spelled, sent, time.monotonic() - started)

        try:
            return retrying(attempt)
        except RequestError as error:
            if not self._alive():
                raise ServerGoneError from None
            error.attempts, error.seconds, error.billed = sent, time.monotonic() - started, billed
            raise

    def redact(self, text: str) -> str:
        """Return the text without the key, should a server or a library have put it there."""
        return text.replace(self._key, HIDDEN) if self._key else text

    def _send(self, method: str, address: str, payload: Mapping[str, object] | None, timeout: float) -> object:
        where, full = self.url, f"{address}?{self.query}" if self.query else address

        async def send() -> httpx2.Response:
            patience = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout))
            async with asyncio.timeout(timeout):
                return await self._http.request(method, full, json=payload, timeout=patience)

        try:
            with _STARTING:
                loop = _event_loop()
            response = asyncio.run_coroutine_threadsafe(send(), loop).result()
        except (TimeoutError, httpx2.TimeoutException):
            raise RequestError("timeout", f"no reply within {timeout:g} s", where=where) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            message = self.redact(f"{type(error).__name__}: {error}")[:300]
            raise RequestError("connection", message, where=where) from None
        status, text = response.status_code, self.redact(response.content.decode("utf-8", "replace"))
        if status in (429, 503):
            self.pace.pause(retry_after(response.headers))
        if status >= 400:
            reason, passing = _reason_of(status)
            raise RequestError(reason, f"{status}: {text[:500]}", where=where, passing=passing)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError("bad_reply", f"{type(error).__name__}: {error}"[:300], where=where) from None

    def _reply(self, body: object) -> Completion:
        reply = body if isinstance(body, dict) else {}
        choices, error, usage = reply.get("choices"), reply.get("error"), reply.get("usage")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            message = error.get("message") if isinstance(error, dict) else error
            detail = f"a reply without choices{f': {message[:300]}' if isinstance(message, str) else ''}"
            raise RequestError("bad_reply", detail, where=self.url)
        counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
        return Completion(choices[0], Usage(*(n if isinstance(n, int) and 0 <= n < _SMALL else 0 for n in counts)))


def _reason_of(status: int) -> tuple[Reason, bool]:
    """Return the name of a refusal, and whether it may pass."""
    if status in (401, 403, 404):
        return "denied", False
    if status in (409, 425, 429):
        return "rate_limited", True
    if status == 408:
        return "timeout", True
    return ("server_error", True) if status >= 500 else ("rejected", False)


def _back_off(state: tenacity.RetryCallState) -> float:
    """Return the seconds before the next attempt."""
    doubled: float = FIRST_WAIT * 2 ** (state.attempt_number - 1)
    return min(LONGEST_WAIT, doubled) * random.uniform(0.75, 1.25)


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Start the thread that all requests run in, once a process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="requests").start()
    return loop
