"""Many judgments under way at once: a window over the tasks, each reply kept as it comes, an end that loses none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from evals.judge.journal import Journal
from harness.errors import StageFailed
from harness.progress import Progress

Work = Callable[[], dict[str, Any]]  # asks, and gives the judgment's line
UNDELIVERED = "connection"
UNREACHABLE = 8  # judgments in a row that could not be delivered before the endpoint counts as gone


def ask_all(
    work: Iterator[Work], journal: Journal, stop: threading.Event, *, concurrency: int, bar: Progress,
    after: Callable[[dict[str, Any]], None] = lambda line: None,
) -> None:  # fmt: skip
    """Do all ``work``, at most ``concurrency`` at once, and keep each line as soon as it is there.

    Lines of judgments that could not be delivered are kept only once something else could: an endpoint that is gone
    is not written down as a hundred failed judgments.

    Args:
        stop: set when this ends early, so that waiting requests give up.
        after: called with each line; may raise to stop.

    Raises:
        StageFailed: the endpoint is gone or refuses us; what was answered is kept.
    """
    undelivered: list[dict[str, Any]] = []

    def do_and_keep(doing: Work) -> dict[str, Any]:
        line = doing()
        if line["reason"] != UNDELIVERED:
            journal.add(line)
        return line

    pool = ThreadPoolExecutor(concurrency)
    waiting: set[Future[dict[str, Any]]] = set()
    try:
        for doing in itertools.islice(work, 2 * concurrency):
            waiting.add(pool.submit(do_and_keep, doing))
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                line = future.result()
                if line["reason"] == UNDELIVERED:
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
                bar.advance(note=f"{journal.failures} failed" if journal.failures else "")
                after(line)
                if (following := next(work, None)) is not None:
                    waiting.add(pool.submit(do_and_keep, following))
        for held in undelivered:
            journal.add(held)
    except BaseException:
        stop.set()
        raise
    finally:  # replies that are on their way are paid for: those that still come are kept
        pool.shutdown(wait=True, cancel_futures=True)
