"""When requests may be sent: a rate of our own, pauses that a server asks for, and its rate headers."""

from __future__ import annotations

import email.utils
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between attempts: the wait doubles each time, with jitter
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[hms]))+")
_IN_WORDS = re.compile(
    r"(?:try again|retry|wait|available|reset)[^.\n]{0,30}?\b(?:in|after|for)\s+(\d+(?:\.\d+)?)\s*"
    r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)(?![a-z])(\d+(?:\.\d+)?s)?"
    r"|\"retryDelay\":\s*\"(\d+(?:\.\d+)?)s\"",
    re.IGNORECASE,
)


class RequestCancelledError(Exception):
    """Nobody waits for this reply any more."""


@dataclass
class Pace:
    """When the next request may be sent. All threads that use a server share it.

    Attributes:
        per_minute: a rate of our own.
        progress: when the server last accepted a request.
    """

    per_minute: float | None = None
    progress: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0
    _paused: float = 0.0
    _streak: int = 0

    def wait(self, stop: threading.Event) -> None:
        """Wait until this request may be sent.

        Raises:
            RequestCancelledError: ``stop`` was set meanwhile.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                delay = max(self._next, self._paused) - now
                if delay <= 0:
                    if self.per_minute:
                        self._next = now + 60.0 / self.per_minute
                    return
            if stop.wait(min(delay, 1.0)):
                raise RequestCancelledError

    def accepted(self) -> None:
        """Note that the server accepted a request."""
        with self._lock:
            self.progress, self._streak = time.monotonic(), 0

    def pause(self, seconds: float) -> None:
        """Send nothing for so many seconds; for 0, the server asks to wait without saying how long."""
        with self._lock:
            now = time.monotonic()
            if not seconds and now >= self._paused:  # of the requests that were refused together, the first counts
                self._streak += 1
                seconds = back_off(self._streak)
            self._paused = max(self._paused, now + seconds)


def back_off(attempt: int) -> float:
    """Return the seconds to wait after so many attempts."""
    doubled: float = FIRST_WAIT * 2 ** min(attempt - 1, 16)
    return min(LONGEST_WAIT, doubled) * random.uniform(0.75, 1.25)


def asked_wait(headers: Mapping[str, str], text: str = "") -> float:
    """Return the seconds that a refusal asks to wait; 0 where it does not say.

    ``Retry-After`` may be seconds, a duration or a date, or stand in milliseconds. Without it count the headers of the
    limits that are used up, then the words of the message.
    """
    if milliseconds := _seconds(headers.get("retry-after-ms", "")):
        return milliseconds / 1000
    if seconds := _seconds(headers.get("retry-after", "")) or max(resets(headers), default=0.0):
        return seconds
    if match := _IN_WORDS.search(text):
        number, unit, more, delay = match.groups()
        if delay:
            return float(delay)
        scale = 0.001 if unit.lower().startswith(("ms", "milli")) else _UNITS[unit[0].lower()]
        return float(number) * scale + (float(more[:-1]) if more else 0.0)
    return 0.0


def resets(headers: Mapping[str, str]) -> Iterator[float]:
    """Yield the seconds until each limit that is used up is reset, by a server's rate headers.

    Servers write ``x-ratelimit-remaining-requests`` with ``x-ratelimit-reset-requests``, ``ratelimit-remaining`` with
    ``ratelimit-reset``, or ``anthropic-ratelimit-tokens-remaining`` with ``…-reset``.
    """
    for name, value in headers.items():
        key = name.lower()
        if "ratelimit" in key and "remaining" in key and value.strip() == "0":
            yield _seconds(headers.get(key.replace("remaining", "reset"), ""))


def _seconds(text: str) -> float:
    """Return the seconds that a header names: a number, a duration (``1m30s``), a moment or a date; 0 if none."""
    text = text.strip()
    if _DURATION.fullmatch(text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[hms])", text)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        seconds = float(text)
    except ValueError:
        moment = _moment(text)
        return max(moment - time.time(), 0.0) if moment else 0.0
    if seconds > 1e9:  # since 1970, in seconds or milliseconds
        seconds = (seconds / 1000 if seconds > 1e11 else seconds) - time.time()
    return max(seconds, 0.0) if seconds == seconds else 0.0


def _moment(text: str) -> float | None:
    """Return the time of an HTTP or ISO date in seconds since 1970."""
    for parse in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        try:
            return parse(text).timestamp()
        except ValueError:
            continue
    return None
