"""Serve the files of a folder: a built site, or pages that are written again from time to time."""

from __future__ import annotations

import functools
import http.server
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.errors import MoemixError

logger = logging.getLogger("moemix.leaderboards")
ADDRESS = "127.0.0.1"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serve the files of one folder with the headers that a careful host sends; list no folder and log nothing."""

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: str | os.PathLike[str]) -> io.BytesIO | None:
        self.send_error(404)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


def server(folder: Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of a folder that listens and does not answer yet; port 0 takes a free port."""
    return http.server.ThreadingHTTPServer((host, port), functools.partial(_Handler, directory=str(folder)))


def serve(folder: Path, write: Callable[[], None], port: int, every: float) -> None:
    """Serve a folder at ``port`` (0: any free one), and write its pages again every so many seconds until Ctrl-C.

    Raises:
        MoemixError: another program has the port.
    """
    try:
        running = server(folder, ADDRESS, port)
    except OSError as error:
        raise MoemixError(f"cannot serve at port {port}: {error.strerror}", hint="take another --port") from None
    threading.Thread(target=running.serve_forever, daemon=True).start()
    logger.info("http://%s:%d/index.html (Ctrl-C ends it)", ADDRESS, running.server_address[1])
    try:
        while True:
            time.sleep(every)
            try:
                write()
            except MoemixError as error:  # a record that is just being written
                logger.info("not renewed: %s", error)
    except KeyboardInterrupt:
        running.shutdown()
