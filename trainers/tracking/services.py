"""The three trackers: what each needs, where it files a run, and which of the run's points it has already.

A run has one name in each of them, its id, whatever happens to its processes. A run that goes on after it was killed
is told to its trackers again from the first line of its records, so nothing is lost that was on its way; and each of
them takes every step once:

    tensorboard, W&B offline   begin anew: what earlier processes of the run left is removed
    W&B online, trackio        go on with the run of this name; steps that they have are not sent again
"""

from __future__ import annotations

import importlib
import netrc
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from harness.errors import MoemixError
from harness.execution import Tracking
from harness.records import RunManifest

FINISH_SECONDS = 60  # what a tracker gets at the end to send what it still has


@dataclass(frozen=True)
class Service:
    """One tracker of one run.

    Attributes:
        wanted: the recipe's ``tracking``.
        run: what W&B and trackio keep as the run's configuration is in it.
        folder: for files that stay on this machine.
    """

    wanted: Tracking
    run: RunManifest
    folder: Path

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]

    def require(self) -> None:
        """Load it, before anything is trained.

        Raises:
            MoemixError: it is not installed, or cannot work as asked.
        """
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            raise MoemixError(
                f"the tracker {self.title} is not installed ({error})",
                where="tracking.trackers",
                hint="pip install moemix[tracking], or leave it out",
            ) from error

    @property
    def config(self) -> dict[str, Any]:
        """All that determines the run."""
        return self.run.config.model_dump(mode="json")

    def make(self) -> Any:
        """accelerate's tracker, not started yet."""
        raise NotImplementedError

    def first_missing(self, tracker: Any) -> int:
        """The first step that a started tracker has not been told yet."""
        return 0


class TensorBoard(Service):
    name, title, module = "tensorboard", "TensorBoard", "torch.utils.tensorboard"

    def make(self) -> Any:
        from accelerate.tracking import TensorBoardTracker

        for leftover in (self.folder / self.wanted.project).glob("events.out.tfevents.*"):
            leftover.unlink()
        # A reader that has seen the removed files drops what it read from step 0 on.
        return TensorBoardTracker(self.wanted.project, self.folder, purge_step=0)


class WandB(Service):
    name, title, module = "wandb", "W&B", "wandb"

    def require(self) -> None:
        super().require()
        if self.wanted.mode == "online" and not _has_wandb_key():
            raise MoemixError(
                "W&B has no API key on this machine",
                where="tracking",
                hint="`wandb login`, or WANDB_API_KEY, or tracking.mode: offline",
            )

    def make(self) -> Any:
        import wandb
        from accelerate.tracking import WandBTracker

        offline = self.wanted.mode == "offline"
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in (self.folder / "wandb").glob(f"offline-run-*-{self._id}") if offline else ():
            shutil.rmtree(leftover)
        settings = wandb.Settings(console="off", finish_timeout=FINISH_SECONDS)
        return WandBTracker(
            self.wanted.project,
            id=self._id,
            name=self.run.run_id,
            group=self.run.recipe,
            config=self.config,
            dir=str(self.folder),
            mode=self.wanted.mode,
            resume=None if offline else "allow",
            settings=settings,
        )

    def first_missing(self, tracker: Any) -> int:
        return int(tracker.tracker.starting_step)

    @property
    def _id(self) -> str:
        return re.sub(r"[^A-Za-z0-9_-]", "-", self.run.run_id)


class Trackio(Service):
    name, title, module = "trackio", "trackio", "trackio"

    def make(self) -> Any:
        from accelerate.tracking import TrackioTracker

        return TrackioTracker(
            self.wanted.project,
            name=self.run.run_id,
            group=self.run.recipe,
            config=self.config,
            resume="allow",
            embed=False,
        )

    def first_missing(self, tracker: Any) -> int:
        return int(tracker.tracker._next_step)


SERVICES: dict[str, type[Service]] = {service.name: service for service in (TensorBoard, WandB, Trackio)}


def _has_wandb_key() -> bool:
    """Whether W&B would find a key without asking a person for one, which a run in the background cannot answer."""
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
