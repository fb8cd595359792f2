"""Asking many things at once, and keeping each answer as soon as it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def as_answered(
    items: Iterable[T], ask: Callable[[T, threading.Event], R], *, concurrency: int, finish: bool = False
) -> Generator[Iterable[tuple[T, Future[R]]]]:
    """Ask for many things at once, and give each with its result or error as soon as it is there.

    ::

        with as_answered(questions, ask, concurrency=32) as answered:
            for question, answer in answered:
                keep(question, answer.result())

    Items are taken as they are needed, a few more than are asked at once. ``ask`` is called in a thread with an item
    and an event, which is set when the block ends before all is answered; with ``finish`` the block waits at its end
    for what is being asked.
    """
    stop, rest = threading.Event(), iter(items)
    pool = ThreadPoolExecutor(concurrency)

    def answered() -> Generator[tuple[T, Future[R]]]:
        waiting = {pool.submit(ask, item, stop): item for item in islice(rest, 2 * concurrency)}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future
                waiting.update((pool.submit(ask, item, stop), item) for item in islice(rest, 1))

    try:
        yield answered()
    finally:
        stop.set()
        pool.shutdown(wait=finish, cancel_futures=True)
