"""Starts a ``moemix`` command on several processes of this machine, by torch's launcher, and ends as they end.

``python -m trainers.parallel.launch N train --run DIR``. What the processes are to be to each other is in the
environment (:mod:`harness.launch`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

GRACE_SECONDS = 55  # what interrupted processes get to write a state


def main(arguments: Sequence[str]) -> int:
    """Run ``moemix`` with ``arguments[1:]`` on ``arguments[0]`` processes; the exit status of the first that failed."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    processes, *command = arguments
    launcher = ("--standalone", "--nproc-per-node", processes, "--shutdown-timeout", str(GRACE_SECONDS))
    try:
        run.main([*launcher, "-m", "--", "harness.cli", *command])
    except ChildFailedError as failed:
        code = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
