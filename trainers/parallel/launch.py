"""Starting a ``moemix`` command on several processes of this machine, by torch's launcher."""

from __future__ import annotations

import os

from harness.execution import Launcher
from harness.launch import launch_environment

GRACE_SECONDS = 55  # what interrupted processes get to write a state


def launch(launcher: Launcher, *command: str) -> int:
    """Run a ``moemix`` command on the launcher's processes; return the exit status of the first that failed, else 0."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.update(launch_environment(launcher))
    options = ("--standalone", "--nproc-per-node", str(launcher.processes), "--shutdown-timeout", str(GRACE_SECONDS))
    try:
        run.main([*options, "-m", "--", "harness.cli", *command])
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0
