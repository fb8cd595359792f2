"""Read what a server's address, its environment variables and its headers say."""

from __future__ import annotations

import email.utils
import ipaddress
import os
import re
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from harness.errors import MoemixError

_LONGEST_PAUSE = 120.0  # seconds; the longest Retry-After that is followed


def base_url(url: str) -> tuple[str, str]:
    """Split a server's address into what stands before ``/chat/completions``, and its query.

    A version is appended where the path names none: ``http://host`` and ``http://host/v1/chat/completions`` both give
    ``http://host/v1``. A path with a version or ``openai`` in it (Gemini, Vertex, DeepInfra, Azure) stays as it is.

    Raises:
        MoemixError: it is not an http(s) address, or has credentials in it, which would be written into records.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MoemixError("a server's address is a URL such as http://127.0.0.1:8000/v1", where=url.split("@")[-1])
    if parts.username or parts.password or re.search(r"(^|&)(api[-_]?)?(key|token)=", parts.query, re.IGNORECASE):
        raise MoemixError(
            "a server's address must not hold credentials",
            where=parts.hostname,
            hint="put the key into an environment variable",
        )
    path = re.sub(r"/(chat/)?completions$", "", parts.path.rstrip("/"))
    known = re.search(r"/(v[0-9]+\w*|openai)(/|$)", path)
    return f"{parts.scheme}://{parts.netloc}{path if known else f'{path}/v1'}", parts.query


def is_loopback(url: str) -> bool:
    """Return whether an address is one of this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def api_key(variables: Sequence[str]) -> str | None:
    """Return the key from the first of these environment variables that is set; None if none is."""
    return next((value for name in variables if (value := os.environ.get(name))), None)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: ``Retry-After`` in seconds or as a date, or in milliseconds."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after", "0")
    try:
        seconds = float(milliseconds) / 1000 if milliseconds else float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE)
