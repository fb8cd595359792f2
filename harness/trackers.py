"""The three trackers: what each needs, where it stores a run, and which of the run's points it has already.

A run is a training or an evaluation. It has one name in each of them, its ID, whatever happens to its processes. A run
that resumes after it was killed is logged again from the first line of its records, so nothing is lost that was still
on its way; and each tracker takes every step once:

    tensorboard, W&B offline   start again: what earlier processes of the run left is removed
    W&B online, trackio        resume the run of this name; steps that they have are not sent again
"""

from __future__ import annotations

import importlib
import logging
import netrc
import os
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import ClassVar
from urllib.parse import urlsplit

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from harness.errors import MoemixError
from harness.execution import Tracking

logger = logging.getLogger("moemix.tracking")
FINISH_SECONDS = 60  # the time at the end for what is still to be sent


@dataclass(frozen=True)
class Service:
    """One tracker of one run.

    Attributes:
        wanted: the recipe's ``tracking``.
        config: all that determines it; stored with the run in W&B and trackio.
        folder: for files that stay on this machine.
    """

    wanted: Tracking
    run: str
    group: str
    config: dict[str, object]
    folder: Path

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]

    def require(self) -> None:
        """Import the service's package, before anything is trained or asked.

        Raises:
            MoemixError: it is not installed, or its settings do not work.
        """
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise MoemixError(
                f"the tracker {self.title} is not installed ({error})",
                where="tracking.trackers",
                hint="pip install moemix[tracking], or remove it from the list",
            ) from error

    def make(self) -> GeneralTracker:
        """Return accelerate's tracker, not started yet."""
        raise NotImplementedError

    def first_missing(self, tracker: GeneralTracker) -> int:
        """Return the first step that a started tracker does not have yet."""
        return 0

    def _named(self) -> dict[str, object]:
        return {"name": self.run, "group": self.group, "config": self.config}


class TensorBoard(Service):
    """Event files in the run's folder."""

    name, title, module = "tensorboard", "TensorBoard", "torch.utils.tensorboard"

    def make(self) -> GeneralTracker:
        """Remove what earlier processes of the run left."""
        for leftover in (self.folder / self.wanted.project).glob("events.out.tfevents.*"):
            leftover.unlink()
        # A reader that has seen the removed files drops what it read from step 0 on.
        return TensorBoardTracker(self.wanted.project, self.folder, purge_step=0)


class WandB(Service):
    """Weights & Biases, online or offline."""

    name, title, module = "wandb", "W&B", "wandb"

    def require(self) -> None:
        """Check for a key, too."""
        super().require()
        if self.wanted.mode == "online" and not _has_wandb_key():
            raise MoemixError(
                "W&B has no API key on this machine",
                where="tracking",
                hint="run `wandb login`, set WANDB_API_KEY, or set tracking.mode: offline",
            )

    def make(self) -> GeneralTracker:
        """Remove an offline run that earlier processes left; resume an online one."""
        name = re.sub(r"[^A-Za-z0-9_-]", "-", self.run)
        offline = self.wanted.mode == "offline"
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in (self.folder / "wandb").glob(f"offline-run-*-{name}") if offline else ():
            shutil.rmtree(leftover)
        return WandBTracker(
            self.wanted.project,
            id=name,
            dir=str(self.folder),
            mode=self.wanted.mode,
            resume=None if offline else "allow",
            settings={"console": "off", "finish_timeout": FINISH_SECONDS},
            **self._named(),
        )

    def first_missing(self, tracker: GeneralTracker) -> int:
        """Ask W&B, which counts from the step after the last one that it has."""
        return int(tracker.tracker.starting_step)


class Trackio(Service):
    """trackio."""

    name, title, module = "trackio", "trackio", "trackio"

    def make(self) -> GeneralTracker:
        """Resume the run of this name."""
        return TrackioTracker(self.wanted.project, resume="allow", embed=False, **self._named())

    def first_missing(self, tracker: GeneralTracker) -> int:
        """Ask trackio."""
        return int(tracker.tracker._next_step)


_SERVICES: dict[str, type[Service]] = {service.name: service for service in (TensorBoard, WandB, Trackio)}
FOLDER = "tracking"  # in a run's folder, for what trackers keep on this machine


def make_trackers(
    wanted: Tracking, folder: Path, *, run: str, group: str, config: dict[str, object]
) -> list[BackgroundTracker]:
    """Return a run's trackers, not started yet, with its name, the group it belongs to and all that determines it.

    Raises:
        MoemixError: a tracker is not installed, or its settings do not work.
    """
    services = [_SERVICES[name](wanted, run, group, config, folder / FOLDER) for name in sorted(set(wanted.trackers))]
    for service in services:
        service.require()
    return [BackgroundTracker(service) for service in services]


class BackgroundTracker(GeneralTracker):  # type: ignore[misc]  # accelerate is untyped
    """Does all that a tracker does in a thread of its own, where it may fail or hang.

    A run hands over a few numbers and goes on. If the tracker fails, one warning says so and it gets nothing more.
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
            self._warn(f"failed, and the run continues without it: {type(error).__name__}: {error}")

    def _warn(self, what: str) -> None:
        logger.warning("warning: the tracker %s %s", self._service.title, what)


def _has_wandb_key() -> bool:
    """Return whether W&B would find a key without a prompt, which a run in the background cannot answer."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if path and netrc.netrc(os.path.expanduser(path)).authenticators(host or ""):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
