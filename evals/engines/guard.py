"""Run a server that ends when its owner does, however the owner ends.

This script needs the standard library only::

    python guard.py COMMAND …

The owner has the other end of this script's standard input. When that closes (on purpose, by a crash, by ``kill -9``),
the script ends the server's whole process group. It writes the server's process id to its standard output, and exits
with the server's status.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


def end_group(group: int, seconds: float = STOP_SECONDS) -> None:
    """Ask a process group to end, and kill it if it still runs after ``seconds``."""
    try:
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(command: list[str]) -> int:
    """Run the server until it ends or the owner is gone; return its exit status."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # if this process itself is killed
    )
    os.write(1, f"{server.pid}\n".encode())
    os.close(1)
    ended_by_owner = threading.Event()

    def stop(*_: object) -> None:
        ended_by_owner.set()
        server.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        stop()
        end_group(server.pid)

    threading.Thread(target=watch, daemon=True).start()
    status = server.wait()
    end_group(server.pid, seconds=2.0 if not ended_by_owner.is_set() else STOP_SECONDS)  # what it left behind
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
