"""Read servers' addresses as providers document them, and keys from environment variables."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from harness.errors import MoemixError

# A path with one of these is complete: a version, or what Gemini, Vertex, GitHub Models, Azure and Databricks have.
_COMPLETE = re.compile(r"/(v[0-9]+\w*|openai|openapi|inference|models|serving-endpoints)(/|$)")


def base_url(url: str) -> tuple[str, str]:
    """Split a server's address into what stands before ``/chat/completions``, and its query.

    A version is appended where the path names none: ``http://host`` and ``http://host/v1/chat/completions`` both give
    ``http://host/v1``. A path that providers document without a version (Gemini, Vertex, GitHub Models, DeepInfra,
    Azure, Databricks), and one that ends with ``/chat/completions``, stay as they are.

    Raises:
        MoemixError: it is not an http(s) address, or has credentials in it, which would be written into records.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if port == -1 or parts.scheme not in ("http", "https") or not parts.hostname:
        raise MoemixError("a server's address is a URL such as http://127.0.0.1:8000/v1", where=url.split("@")[-1])
    if parts.username or parts.password or re.search(r"(^|&)(api[-_]?)?(key|token)=", parts.query, re.IGNORECASE):
        raise MoemixError(
            "a server's address must not hold credentials",
            where=parts.hostname,
            hint="put the key into an environment variable",
        )
    path = re.sub(r"/(chat/)?completions$", "", parts.path.rstrip("/"))
    complete = _COMPLETE.search(path) or path != parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if complete else f'{path}/v1'}", parts.query


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


def key_headers(url: str, key: str | None) -> dict[str, str]:
    """Return the headers that carry a key: Azure has one of its own."""
    if not key:
        return {}
    host = urlsplit(url).hostname or ""
    return {"api-key": key} if host.endswith(".azure.com") else {"Authorization": f"Bearer {key}"}
