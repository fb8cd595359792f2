"""The script that starts one program under sandlock, which confines it by Landlock rules and a filter of system calls.

It takes ``keep`` or ``drop`` for root's rights, the packages' folder, the limits on memory and processes, and the
interpreter's arguments. The folder that it runs in gets the program's ``/tmp`` and ``/dev/shm``. It stays as the
program's supervisor, and becomes the parent of all that the program leaves behind. Its error stream is the program's
report, so it says on the other what went wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_CAPABILITIES_VERSION = 0x20080522


def main(rights: str, packages: str, memory: str, processes: str, *arguments: str) -> int:
    """Run the interpreter, and return its exit status."""
    from sandlock import Sandbox, SandlockError

    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if rights == "drop":  # sandlock sees to it that no program gives them back
        libc.capset((ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)())
    folder = Path.cwd()
    mounts = {"/packages": str(folder / "packages")}
    for package in ("numpy", "numpy.libs"):
        if os.path.isdir(f"{packages}/{package}"):
            (folder / "packages" / package).mkdir(parents=True)
            mounts[f"/packages/{package}"] = f"{packages}/{package}"
    private = {"/tmp": str(folder / "tmp"), "/dev/shm": str(folder / "shm")}
    for path in private.values():
        os.mkdir(path)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    system = ("/usr", "/lib", "/lib64", "/bin", "/dev/null", "/dev/urandom", str(Path(sys.base_prefix).resolve()))
    try:
        return int(
            Sandbox(
                chroot="/",
                cwd="/tmp",
                fs_mount=private,
                fs_mount_ro=mounts,
                fs_readable=[*filter(os.path.exists, system), *mounts],
                fs_writable=[*private],
                max_memory=int(memory),
                max_processes=int(processes),
                extra_deny_syscalls=["memfd_create", "memfd_secret"],  # memory that no limit counts
                clean_env=True,
                env={"HOME": "/tmp", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
            ).run_interactive([str(python), *arguments])
        )
    except (SandlockError, RuntimeError, ValueError) as error:
        sys.stdout.write(f"{error}\n")
        return 1


def _end_with(parent: int) -> None:
    """End the program when this process is left alone. Who loses its parent by that becomes a child of this one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    while children := " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split():
        for pid in map(int, children):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
