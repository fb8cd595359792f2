"""Serve pages to this machine alone, and write them again from time to time."""

from __future__ import annotations

import functools
import http.server
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.errors import MoemixError

logger = logging.getLogger("moemix.leaderboards")
ADDRESS = "127.0.0.1"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and logs nothing for each."""

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal for what matters."""


def serve(folder: Path, write: Callable[[], None], port: int, every: float) -> None:
    """Serve a folder at ``port`` (0: any free one), and write its pages again every so many seconds until Ctrl-C.

    Raises:
        MoemixError: another program has the port.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer((ADDRESS, port), handler)
    except OSError as error:
        raise MoemixError(f"cannot serve at port {port}: {error.strerror}", hint="take another --port") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    logger.info("http://%s:%d/index.html (Ctrl-C ends it)", ADDRESS, server.server_address[1])
    try:
        while True:
            time.sleep(every)
            try:
                write()
            except MoemixError as error:  # a record that is just being written
                logger.info("not renewed: %s", error)
    except KeyboardInterrupt:
        server.shutdown()
