"""A control group for a program, where one can be made: the kernel itself then keeps its memory within the limit.

That takes version 2 of control groups, and a group of ours, or the one above, in which we may make others. Root often
has one.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path


@functools.cache
def parent() -> Path | None:
    """Return the group in which groups with a limit on memory can be made; None if there is none."""
    try:
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
        own = next(
            (line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/")), None
        )
    except OSError:
        return None
    if root is None or own is None:
        return None
    for group in (root / own, (root / own).parent):
        with contextlib.suppress(OSError):
            if "memory" not in (group / "cgroup.controllers").read_text().split():
                continue
            if "memory" not in (group / "cgroup.subtree_control").read_text().split():
                (group / "cgroup.subtree_control").write_text("+memory")
            with ControlGroup(1 << 30, within=group):
                return group
    return None


class ControlGroup:
    """A group of processes that may use so much memory together; they are ended with it."""

    def __init__(self, memory_bytes: int, *, within: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="moemix-", dir=within))
        try:
            (self._folder / "memory.max").write_text(str(memory_bytes))
            (self._folder / "memory.oom.group").write_text("1")
            with contextlib.suppress(OSError):  # a kernel that does not count swap has no such file
                (self._folder / "memory.swap.max").write_text("0")
        except OSError:
            self._folder.rmdir()
            raise

    def __enter__(self) -> ControlGroup:
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + 1.0
        with contextlib.suppress(OSError):
            (self._folder / "cgroup.kill").write_text("1")
        while time.monotonic() < deadline:  # until the last process has ended
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.01)

    def add(self, processes: Iterable[int]) -> None:
        """Put processes into the group, and with them all that they start later."""
        for process in processes:
            (self._folder / "cgroup.procs").write_text(str(process))

    def exceeded(self) -> bool:
        """Return whether the kernel has ended the group because of its memory."""
        return "oom_kill 0" not in (self._folder / "memory.events").read_text().splitlines()
