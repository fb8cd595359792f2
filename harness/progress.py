"""Progress that a person can read: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG_EVERY_SECONDS = 15.0
logger = logging.getLogger("moemix.harness")


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> duration(75), duration(3 * 3600 + 61)
    ('1m15s', '3h01m')
    """
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


def log_to_stderr() -> None:
    """Write the project's log messages to standard error as they are, unless the program has set up logging."""
    logger = logging.getLogger("moemix")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


class Progress:
    """A count towards a total, with the time left. Use :func:`progress`."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.note = ""
        self.started = self.logged = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() or os.environ.get("MOEMIX_PROGRESS") == "bar":
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=title, file=sys.stderr, dynamic_ncols=True, smoothing=0.1)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count more units as done; ``note`` (a loss, a rate) is shown beside the count."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self.logged >= LOG_EVERY_SECONDS:
            self.log()

    def log(self) -> None:
        """Log one line: the title, the count and the time left."""
        self.logged = time.monotonic()
        elapsed, fresh = self.logged - self.started, self.done - self.first
        left = f", {duration(elapsed / fresh * (self.total - self.done))} left" if fresh else ""
        note = f" · {self.note}" if self.note else ""
        logger.info("%s: %d/%d in %s%s%s", self.title, self.done, self.total, duration(elapsed), left, note)

    def close(self) -> None:
        """Remove the bar, or log the last count."""
        if self._bar is not None:
            self._bar.close()
        elif self.logged != self.started:
            self.log()


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show progress over ``total`` units, ``done`` of which an earlier attempt finished."""
    bar = Progress(title, total, done)
    try:
        yield bar
    finally:
        bar.close()
