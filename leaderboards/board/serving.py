"""``moemix board serve``: a look at a site on this machine."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, with headers that a careful host would send too; no listing, no log."""

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: object) -> None:  # type: ignore[override]
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


def server(site: Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server of ``site``, listening and not yet answering; port 0 takes a free one."""
    return http.server.ThreadingHTTPServer((host, port), functools.partial(_Handler, directory=str(site)))
