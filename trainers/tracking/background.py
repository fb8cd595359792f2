"""A tracker of accelerate's that cannot harm the training that it logs."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue

from accelerate.tracking import GeneralTracker

from trainers.tracking.services import FINISH_SECONDS, Service

logger = logging.getLogger("moemix.tracking")


class BackgroundTracker(GeneralTracker):  # type: ignore[misc]  # accelerate is untyped
    """Does all that a tracker does in a thread of its own, where it may fail or hang.

    Training hands over a few numbers and goes on. If the tracker fails, one warning says so and it gets nothing more.
    Points arrive in order, each step once, from the first step on that the service does not have.
    """

    requires_logging_directory = False
    main_process_only = True

    def __init__(self, service: Service) -> None:
        self.name = service.name
        super().__init__()
        self._service = service
        self._inner: GeneralTracker | None = None
        self._points: SimpleQueue[tuple[int, dict[str, float]] | None] = SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracking-{service.name}", daemon=True)

    @property
    def tracker(self) -> object:
        """The service's own run object, once it has started."""
        return self._inner.tracker if self._inner else None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def log(self, values: dict[str, float], step: int, **kwargs: object) -> None:
        """Hand over the numbers of a step."""
        if not self._failed:
            self._points.put((step, values))

    def finish(self) -> None:
        """Wait for the upload, for at most ``FINISH_SECONDS``."""
        if self._thread.is_alive():
            self._points.put(None)
            self._thread.join(FINISH_SECONDS)
            if self._thread.is_alive():
                self._warn(f"did not finish uploading within {FINISH_SECONDS} s; giving up")

    def _work(self) -> None:
        try:
            self._inner = self._service.make()
            self._inner.start()
            first = self._service.first_missing(self._inner)
            while (item := self._points.get()) is not None:
                step, values = item
                if step >= first:
                    self._inner.log(values, step=step)
            self._inner.finish()
        except Exception as error:
            self._failed = True
            self._warn(f"failed, and training continues without it: {type(error).__name__}: {error}")

    def _warn(self, what: str) -> None:
        logger.warning("warning: the tracker %s %s", self._service.title, what)
