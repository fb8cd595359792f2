"""The client for OpenAI-compatible servers: keys, deadlines, retries, budgets, and a name for every failure.

Engines and judges send their requests through it. Requests of all threads run on one event loop in a thread of its
own, because only there a deadline ends a request whatever the server does.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NoReturn, Protocol
from urllib.parse import urljoin, urlsplit

import httpx2
import tenacity

from evals.addresses import base_url, is_loopback, key_headers
from evals.dialect import RENAMED, Dialect
from evals.pace import Pace, RequestCancelledError, asked_wait, back_off, resets
from evals.replies import Completion, Reason, Usage, completion, error_in, parse_body, reason_of, tokens_of
from harness.errors import StageError

CONNECT_SECONDS = 10.0
PATIENCE = 900.0  # seconds without a reply after which a server that asks to wait is given up
HIDDEN = "[key]"  # what stands in place of a key in every text
RESUME_HINT = "run the same command again: what was answered is kept"
_REDIRECTS = 3
_LARGEST = 1 << 28  # bytes of a response; more would fill the memory
_STARTING = threading.Lock()  # threads that send their first requests together must not start two event loops


class RequestError(StageError):
    """A request that got no usable reply.

    Attributes:
        reason: what went wrong, as one word.
        detail: what went wrong, in the server's or the library's words.
        passing: whether the same request may succeed later.
        attempts, seconds, billed, omitted: as in :class:`Completion`.
        lost: whether the server may have made a reply that did not arrive.
        status, text: of the refusal, if it was one.
    """

    def __init__(self, reason: Reason, detail: str, *, where: str, passing: bool = True) -> None:
        self.reason, self.detail, self.passing = reason, detail, passing
        self.attempts, self.seconds, self.billed, self.omitted = 1, 0.0, Usage(), tuple[str, ...]()
        self.lost, self.status, self.text = False, 0, ""
        if passing:
            super().__init__(f"no usable reply: {detail}", where=where, hint=RESUME_HINT)
        else:
            super().__init__(f"the server refused a request ({detail})", where=where)


class ServerGoneError(Exception):
    """The server ended with requests in flight."""


class _TooLargeError(Exception):
    """A response does not end."""


class Meter(Protocol):
    """Counts what requests cost."""

    def reserve(self, most: Usage, stop: threading.Event) -> AbstractContextManager[Callable[[Usage], None]]:
        """Set aside what a request may cost at most; the block calls the function with what it did cost.

        Raises:
            StageError: the budget does not have that much.
        """


class Client:
    """A client of one server.

    Args:
        url: the server's address, see :func:`base_url`.
        key: sent as a header; it appears in no text.
        timeout: seconds that one request may take, from connecting to the last byte.
        attempts: how often one request is sent at most. Being asked to wait is no failed attempt.
        pace: when requests may be sent; shared by clients of the same server.
        alive: returns false once the server is known to have ended.
        optional: what may be left out of a request that the server refuses, see :class:`Dialect`.
        meter: counts what requests cost, and refuses those that the budget does not cover.

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
        optional: Sequence[str] = ("response_format",),
        meter: Meter | None = None,
    ) -> None:
        self.url, self.query = base_url(url)
        self.timeout, self.attempts, self.pace, self.dialect = timeout, attempts, pace or Pace(), Dialect(optional)
        self._key, self._alive, self._meter = key, alive, meter
        self._http = httpx2.AsyncClient(
            headers=key_headers(self.url, key),
            limits=httpx2.Limits(max_connections=None),
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

        ``check`` says why a reply is unusable, or returns None; an unusable one is asked for again. ``stop`` is set
        when nobody waits for this reply any more.

        Raises:
            RequestError: no attempt gave a usable reply.
            ServerGoneError: the server has ended.
            RequestCancelledError: ``stop`` was set.
        """
        call = _Call(self, path, payload, check, stop or threading.Event())
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, RequestError) and error.passing),
            stop=lambda state: call.failures >= self.attempts or call.out_of_patience(),
            wait=lambda state: 0.0 if call.asked_to_wait else back_off(call.failures),
            sleep=call.sleep,
            reraise=True,
        )
        try:
            return retrying(call.attempt)
        except RequestError as error:
            if not self._alive():
                raise ServerGoneError from None
            error.attempts, error.seconds, error.billed = call.sent, time.monotonic() - call.started, call.billed
            error.omitted = self.dialect.omitted
            raise

    def redact(self, text: str) -> str:
        """Return the text without the key, should a server or a library have put it there."""
        return text.replace(self._key, HIDDEN) if self._key else text

    def _send(self, method: str, address: str, payload: Mapping[str, object] | None, timeout: float) -> object:
        """Send a request once and return the body of its response; half of a surrogate pair is sent as ``?``."""
        body = None if payload is None else json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
        kind = {"Content-Type": "application/json"} if body else None

        async def send() -> tuple[httpx2.Response, bytes]:
            patience, full = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)), address
            full += f"{'&' if '?' in full else '?'}{self.query}" if self.query else ""
            async with asyncio.timeout(timeout):
                for _ in range(_REDIRECTS):
                    got = bytearray()
                    async with self._http.stream(
                        method, full, content=body, headers=kind, timeout=patience
                    ) as response:
                        async for chunk in response.aiter_bytes():
                            got += chunk
                            if len(got) > _LARGEST:
                                raise _TooLargeError
                    if not response.is_redirect:
                        break
                    before, full = full, urljoin(full, response.headers.get("location", ""))
                    if urlsplit(before).hostname != urlsplit(full).hostname:  # the key is for this server only
                        break
                return response, bytes(got)

        try:
            with _STARTING:
                loop = _event_loop()
            response, content = asyncio.run_coroutine_threadsafe(send(), loop).result()
        except (TimeoutError, httpx2.TimeoutException) as error:
            lost = not isinstance(error, httpx2.ConnectTimeout)
            self._fail("timeout", f"no reply within {timeout:g} s", lost=lost)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            lost = not isinstance(error, httpx2.ConnectError | httpx2.InvalidURL)
            self._fail("connection", self.redact(f"{type(error).__name__}: {error}")[:300], lost=lost)
        except _TooLargeError:
            self._fail("bad_reply", f"a response of more than {_LARGEST >> 20} MiB", lost=True)
        status, text = response.status_code, self.redact(content.decode("utf-8-sig", "replace"))
        for seconds in resets(response.headers):
            if seconds <= PATIENCE:
                self.pace.pause(seconds)
        if response.is_redirect:
            self._fail("denied", f"{status}: redirected to {response.headers.get('location')}", passing=False)
        if status >= 400:
            self._refuse(status, text, response.headers)
        try:
            return parse_body(text, response.headers.get("content-type", ""))
        except (ValueError, RecursionError) as error:
            self._fail("bad_reply", f"{type(error).__name__}: {error}"[:300], lost=True)

    def _reply(self, body: object) -> Completion:
        if found := error_in(body):
            status, detail = found
            if status is not None:
                self._refuse(status, detail, {})
            self._fail("bad_reply", detail, lost=True)
        return completion(body if isinstance(body, dict) else {})

    def _refuse(self, status: int, text: str, headers: Mapping[str, str]) -> NoReturn:
        """Raise the error of a refusal, and pause where the server asks for it."""
        reason, passing = reason_of(status, text)
        detail = f"{status}: {text[:500]}"
        if passing and (reason == "rate_limited" or "retry-after" in headers or "retry-after-ms" in headers):
            seconds = asked_wait(headers, text)
            if seconds > PATIENCE:
                self._fail(reason, f"{detail} (asks to wait {seconds:.0f} s)", passing=False, status=status)
            self.pace.pause(seconds)
        self._fail(reason, detail, passing=passing, status=status, text=text)

    def _fail(
        self, reason: Reason, detail: str, *, passing: bool = True, lost: bool = False, status: int = 0, text: str = ""
    ) -> NoReturn:
        error = RequestError(reason, detail, where=self.url, passing=passing)
        error.lost, error.status, error.text = lost, status, text
        raise error from None


class _Call:
    """One request on its way to a usable reply.

    Attributes:
        sent: how often it was sent.
        failures: how often it failed otherwise than by being asked to wait.
        billed: tokens of all replies.
        asked_to_wait: whether the last reply asked to wait.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        payload: Mapping[str, object],
        check: Callable[[Completion], tuple[Reason, str] | None] | None,
        stop: threading.Event,
    ) -> None:
        self.client, self.path, self.payload, self.check, self.stop = client, path, payload, check, stop
        self.started, self.sent, self.failures, self.billed = time.monotonic(), 0, 0, Usage()
        self.asked_to_wait = False

    def out_of_patience(self) -> bool:
        """Return whether the server has accepted nothing for long while it asked to wait."""
        since = max(self.started, self.client.pace.progress)
        return self.asked_to_wait and time.monotonic() - since > PATIENCE

    def sleep(self, seconds: float) -> None:
        """Wait, unless nobody waits for the reply any more."""
        self.stop.wait(seconds)

    def attempt(self) -> Completion:
        """Send the request, in another form where the server refuses the first one."""
        client, dialect = self.client, self.client.dialect
        self.asked_to_wait = False
        changes = dialect.changes
        with dialect.first(self.stop):
            while True:
                changes |= dialect.changes
                spelled = dialect.spell(self.payload, changes)
                try:
                    reply = self._once(spelled)
                except RequestError as error:
                    learnt = dialect.learn(spelled, changes, error.status, error.text) | dialect.changes
                    if learnt != changes:
                        changes = learnt
                        continue
                    self.asked_to_wait = error.reason == "rate_limited"
                    self.failures += not self.asked_to_wait
                    raise
                dialect.accept(changes)
                break
        if useless := self.check(reply) if self.check else None:
            self.failures += 1
            raise RequestError(*useless, where=client.url)
        return replace(
            reply, billed=self.billed, sent=spelled, omitted=dialect.omissions(changes), attempts=self.sent,
            seconds=time.monotonic() - self.started,
        )  # fmt: skip

    def _once(self, spelled: Mapping[str, object]) -> Completion:
        """Send the request once, and count what it costs."""
        client = self.client
        if not client._alive():
            raise ServerGoneError
        if self.stop.is_set():
            raise RequestCancelledError
        limit = next((spelled[name] for name in (*RENAMED, *RENAMED.values()) if name in spelled), 0)
        prompt = tokens_of(json.dumps(spelled.get("messages", spelled.get("prompt")), ensure_ascii=False))
        most = Usage(prompt, limit if isinstance(limit, int) else 0)
        meter = client._meter.reserve(most, self.stop) if client._meter else nullcontext(lambda usage: None)
        with meter as settle:
            client.pace.wait(self.stop)
            self.sent += 1
            used = Usage()
            try:
                reply = client._reply(client._send("POST", f"{client.url}{self.path}", spelled, client.timeout))
                client.pace.accepted()
                used = reply.usage or Usage(prompt, reply.estimated)
                return reply
            except RequestError as error:
                used = most if error.lost else Usage()  # whether a lost reply is paid for, nobody knows
                raise
            finally:
                self.billed += used
                settle(used)


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Start the thread that all requests run in, once a process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="requests").start()
    return loop
