"""Many judgments under way at once: a window over the tasks, each reply kept as it comes, an end that loses none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from evals.judge.endpoint import Abandoned
from evals.judge.journal import Journal
from harness.errors import StageFailed
from harness.progress import Progress

Work = Callable[[], dict[str, Any]]  # asks, and gives the judgment's line
UNREACHABLE = 8  # judgments in a row that could not be delivered before the endpoint counts as gone


def ask_all(
    work: Iterator[Work], journal: Journal, stop: threading.Event, *, concurrency: int, bar: Progress,
    after: Callable[[dict[str, Any]], None] = lambda line: None,
) -> None:  # fmt: skip
    """Do all ``work``, at most ``concurrency`` at once, and keep each line.

    Lines of judgments that could not be delivered are kept only once something else could: an endpoint that is gone
    is not written down as a hundred failed judgments.

    Args:
        stop: set when this ends early, so that waiting requests give up.
        after: called with each line; may raise to stop.

    Raises:
        StageFailed: the endpoint is gone or refuses us; what was answered is kept.
    """
    undelivered: list[dict[str, Any]] = []
    pool = ThreadPoolExecutor(concurrency)
    waiting: set[Future[dict[str, Any]]] = set()
    try:
        for doing in itertools.islice(work, 2 * concurrency):
            waiting.add(pool.submit(doing))
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                line = future.result()
                if line["reason"] == "connection":
                    undelivered.append(line)
                    if len(undelivered) >= UNREACHABLE:
                        raise StageFailed(
                            f"the judge's endpoint cannot be reached: {line['detail']}",
                            hint="run the same command again: what was judged is kept",
                        )
                else:
                    for held in undelivered:
                        journal.add(held)
                    undelivered.clear()
                    journal.add(line)
                bar.advance(note=f"{journal.failures} failed" if journal.failures else "")
                after(line)
                if (following := next(work, None)) is not None:
                    waiting.add(pool.submit(following))
        for held in undelivered:
            journal.add(held)
    except BaseException:
        stop.set()
        _keep_what_comes(waiting, journal)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _keep_what_comes(waiting: set[Future[dict[str, Any]]], journal: Journal) -> None:
    """Replies that are on their way when we stop are paid for: keep those that still come."""
    for future in waiting:
        if not future.cancel():
            try:
                line = future.result(timeout=30)
            except (Abandoned, StageFailed, TimeoutError):
                continue
            if line["reason"] is None:
                journal.add(line)
