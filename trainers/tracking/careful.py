"""A tracker of accelerate's that cannot harm the training it is told of."""

from __future__ import annotations

import sys
import threading
from queue import SimpleQueue
from typing import Any

from accelerate.tracking import GeneralTracker

from trainers.tracking.services import FINISH_SECONDS, Service


class Careful(GeneralTracker):  # type: ignore[misc]  # accelerate is untyped
    """Does all that a tracker does in a thread of its own, where it may fail or hang.

    Training hands over a few numbers and goes on; if the tracker fails, that is said once and it is left alone. Points
    are taken in order and each step once, from the first one on that the service does not have.
    """

    requires_logging_directory = False
    main_process_only = True

    def __init__(self, service: Service) -> None:
        self.name = service.name
        super().__init__()
        self._service = service
        self._inner: Any = None
        self._points: SimpleQueue[tuple[int, dict[str, float]] | None] = SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracking-{service.name}", daemon=True)

    @property
    def tracker(self) -> Any:
        return self._inner.tracker

    def start(self) -> None:
        self._thread.start()

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        assert step is not None
        if not self._failed:
            self._points.put((step, values))

    def finish(self) -> None:
        """Wait for what is on its way, but not for ever."""
        if self._thread.is_alive():
            self._points.put(None)
            self._thread.join(FINISH_SECONDS)
            if self._thread.is_alive():
                self._say(f"has not taken everything after {FINISH_SECONDS} s, and is left")

    def _work(self) -> None:
        try:
            self._inner = self._service.make()
            self._inner.start()
            first = self._service.first_missing(self._inner)
            while (given := self._points.get()) is not None:
                step, values = given
                if step >= first:
                    self._inner.log(values, step=step)
            self._inner.finish()
        except Exception as error:
            self._failed = True
            self._say(f"failed, and training goes on without it: {type(error).__name__}: {error}")

    def _say(self, what: str) -> None:
        print(f"warning: the tracker {self._service.title} {what}", file=sys.stderr, flush=True)
