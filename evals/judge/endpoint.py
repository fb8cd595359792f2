"""An OpenAI-compatible chat endpoint, asked with patience: retries, back-off, rate limits, and every failure named."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests

from harness.errors import MoemixError, StageFailed

KEY_VARIABLES = ("MOEMIX_JUDGE_API_KEY", "OPENAI_API_KEY")
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between attempts: doubled each time, with jitter
_PASSING = (408, 409, 425, 429)  # refused for now; 5xx as well
_FATAL = (401, 403, 404)  # no request to this endpoint will do better
HIDDEN = "[key]"
NEW_LIMIT = "max_completion_tokens"  # what some servers want `max_tokens` to be called


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the reply; empty where there is none.
        reason: why there is no reply: ``rate_limited``, ``server_error``, ``timeout``, ``connection``, ``bad_reply``
            (not the JSON it should be), ``empty``, ``refused`` (by a content filter), ``rejected`` (the request).
        detail: the last trouble in words.
        attempts: requests sent.
        structured: whether the server was asked to hold the reply to a schema.
    """

    text: str = ""
    reason: str | None = None
    detail: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    reply_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0
    structured: bool = False


class Abandoned(Exception):
    """Nobody waits for this reply any more."""


@dataclass
class Pace:
    """When the next request may go out: a rate, and pauses that the server asked for. Shared by all threads."""

    per_minute: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def wait(self, stop: threading.Event) -> None:
        """Wait for this request's turn."""
        while True:
            with self._lock:
                now = time.monotonic()
                delay = self._next - now
                if delay <= 0:
                    if self.per_minute:
                        self._next = now + 60.0 / self.per_minute
                    return
            if stop.wait(min(delay, 1.0)):
                raise Abandoned

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Endpoint:
    """One judge.

    Args:
        url: with or without ``/v1`` or ``/v1/chat/completions``; credentials in it are refused.
        key: sent as a bearer token, and shown nowhere.
        timeout: seconds that one request may take.
        attempts: requests for one reply, at the most.

    Attributes:
        engine: what serves it, where we do.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        attempts: int = 6,
        pace: Pace | None = None,
    ) -> None:
        self.url, self.model, self._key = base_url(url), model, key
        self.timeout, self.attempts, self.pace = timeout, attempts, pace or Pace()
        self.schema_refused = False
        self.limit_name = "max_tokens"
        self.engine: dict[str, Any] = {}
        self.stop = threading.Event()
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    def ask(self, messages: list[dict[str, str]], params: dict[str, Any], schema: dict[str, Any] | None) -> Reply:
        """One reply, asked for again while the trouble may pass.

        Raises:
            StageFailed: the endpoint refuses us altogether (key, model or address).
            Abandoned: :attr:`stop` was set meanwhile.
        """
        started, sent, tries, trouble = time.monotonic(), 0, 0, ("connection", "")
        while tries < self.attempts:
            if tries and self.stop.wait(_back_off(tries)):
                raise Abandoned
            self.pace.wait(self.stop)
            structured = schema is not None and not self.schema_refused
            payload = {"model": self.model, "messages": messages, **params}
            payload[self.limit_name] = payload.pop("max_tokens")
            if structured:
                named = {"name": "verdict", "strict": True, "schema": schema}
                payload["response_format"] = {"type": "json_schema", "json_schema": named}
            sent += 1
            tries += 1
            found = self._attempt(payload)
            if isinstance(found, Reply):
                if found.reason == "rejected" and structured and _about_schema(found.detail):
                    self.schema_refused = True
                    tries -= 1  # the same question, put as this server can take it
                    continue
                if found.reason == "rejected" and NEW_LIMIT in found.detail and self.limit_name != NEW_LIMIT:
                    self.limit_name = NEW_LIMIT
                    tries -= 1
                    continue
                took = time.monotonic() - started
                return Reply(**{**vars(found), "attempts": sent, "seconds": took, "structured": structured})
            trouble = found
        took = time.monotonic() - started
        return Reply(reason=trouble[0], detail=trouble[1], attempts=sent, seconds=took)

    def _attempt(self, payload: dict[str, Any]) -> Reply | tuple[str, str]:
        """A reply that is final, or the reason and words of a trouble that may pass."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = self._session().post(
                f"{self.url}/chat/completions", json=payload, headers=headers, timeout=(10.0, self.timeout)
            )
            text = self.redact(response.text)
        except requests.Timeout:
            return "timeout", f"no reply within {self.timeout:g} s"
        except requests.RequestException as error:
            return "connection", self.redact(f"{type(error).__name__}: {error}")[:300]
        if response.status_code == 200:
            return self._read(response)
        said = f"{response.status_code}: {text[:300]}"
        if response.status_code in _FATAL:
            raise StageFailed(f"the judge's endpoint refuses requests ({said})", where=f"{self.url} {self.model}",
                              hint=f"the key is read from {' or '.join(KEY_VARIABLES)}")  # fmt: skip
        if response.status_code in _PASSING:
            self.pace.pause(_retry_after(response))
            return ("timeout" if response.status_code == 408 else "rate_limited"), said
        if response.status_code >= 500:
            return "server_error", said
        return Reply(reason="rejected", detail=said)

    def _read(self, response: requests.Response) -> Reply | tuple[str, str]:
        try:
            body = response.json()
            choice = body["choices"][0]
            message = choice["message"]
            text = message.get("content")
            text = "" if text is None else self.redact(str(text))
            usage = body.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return "bad_reply", self.redact(f"{type(error).__name__}: {error}")[:300]
        finish = choice.get("finish_reason")
        if message.get("refusal") or finish == "content_filter":
            said = self.redact(str(message.get("refusal") or text))
            return Reply(said, "refused", finish_reason=finish, prompt_tokens=counts[0], reply_tokens=counts[1])
        if not text.strip():
            return "empty", "a reply without text"
        return Reply(text, finish_reason=finish, prompt_tokens=counts[0], reply_tokens=counts[1])

    def redact(self, text: str) -> str:
        """The text without the key, should a server or a library have put it there."""
        return text.replace(self._key, HIDDEN) if self._key else text

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


def base_url(url: str) -> str:
    """``…/v1`` of an endpoint however it is written.

    Raises:
        MoemixError: not an http(s) address, or one with credentials in it (which would end up in records).
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MoemixError("the judge's address is a URL such as http://127.0.0.1:8000/v1", where=url.split("@")[-1])
    if parts.username or parts.password or parts.query:
        raise MoemixError(
            "the judge's address holds credentials or a query",
            where=parts.hostname,
            hint=f"put the key into {KEY_VARIABLES[0]}",
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path if re.search(r'/v[0-9]+$', path) else f'{path}/v1'}"


def api_key() -> str | None:
    """The key in the environment, if there is one."""
    return next((value for name in KEY_VARIABLES if (value := os.environ.get(name))), None)


def _back_off(attempt: int) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)


def _retry_after(response: requests.Response) -> float:
    try:
        return min(float(response.headers.get("Retry-After", "0")), LONGEST_WAIT * 2)
    except ValueError:
        return 0.0  # a date; the back-off will do


def _about_schema(said: str) -> bool:
    return bool(re.search(r"response_format|json_schema|structured|guided|schema", said, re.IGNORECASE))
