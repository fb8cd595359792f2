"""The kinds of sandbox: a process that sees a read-only Python and a small ``/tmp``, and no network.

Bubblewrap makes a sandbox of namespaces. Where a machine allows none, sandlock makes one of Landlock rules and a filter
of system calls. Either has a read-only Python, numpy and system libraries, a private ``/tmp``, an empty environment and
no other process in sight. System calls that no limit counts, or that attack the kernel, are refused.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = "/packages"  # where numpy is in the sandbox
TMP_BYTES = 64 << 20
_OUTSIDER = 65534  # the user inside a user namespace


@dataclass(frozen=True)
class Sandbox:
    """How programs are started.

    Attributes:
        command: what comes before the interpreter's arguments.
        packages: where numpy is for the program.
        other_user: whether programs become a user of their own.
        idle: whether programs that fork often get only idle processors.
        supervised: whether ``command`` starts the supervisor of :mod:`evals.sandlock_launcher`.
        environment: the program's, if nothing protects the machine from it.
    """

    name: str
    command: tuple[str, ...]
    packages: str = _PACKAGES
    other_user: bool = False
    idle: bool = False
    supervised: bool = False
    environment: tuple[tuple[str, str], ...] | None = None

    @property
    def boxed(self) -> bool:
        """Whether this is a sandbox."""
        return self.environment is None


def without_sandbox() -> Sandbox:
    """Return the way to start programs where nothing protects the machine from them."""
    environment = (("LANG", "C.UTF-8"),)
    return Sandbox("no sandbox", (sys.executable,), str(_numpy_folder().parent), environment=environment)


def sandboxes() -> Iterator[Sandbox]:
    """Yield the ways to make a sandbox for which the software is here, the best first.

    The kernel does not count root's processes against a limit, so root's programs become another user. In a container,
    root may have no right to do so, or no other user to become; there a user namespace is made. If that is root's, we
    count the processes ourselves; a program that forks often gets only idle processors, so that it cannot keep us from
    ending it. Sandlock asks no rights of the machine, but each file that a program opens takes it longer.
    """
    root = os.getuid() == 0
    if shutil.which("bwrap"):
        if root:
            rights = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
            yield Sandbox("bubblewrap as root", _bubblewrap(*rights), other_user=True)
        user = ("--unshare-user", "--uid", str(_OUTSIDER), "--gid", str(_OUTSIDER))
        yield Sandbox("bubblewrap in a user namespace", _bubblewrap(*user), idle=root)
    if sandlock_installed():
        if root:
            yield Sandbox("sandlock as root", _sandlock("keep"), other_user=True, supervised=True)
        yield Sandbox("sandlock", _sandlock("drop"), idle=True, supervised=True)


def _bubblewrap(*rights: str) -> tuple[str, ...]:
    """Return the bwrap command line up to the interpreter."""
    command = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--clearenv", *rights]
    for folder in ("/usr", "/lib", "/lib64", "/bin"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    python = Path(sys.base_prefix).resolve()
    if not python.is_relative_to("/usr"):
        for parent in reversed(python.parents[:-1]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(python), str(python)]
    command += ["--perms", "0755", "--dir", _PACKAGES]
    numpy = _numpy_folder()
    for package in (numpy, numpy.with_name("numpy.libs")):
        if package.is_dir():
            command += ["--ro-bind", str(package), f"{_PACKAGES}/{package.name}"]
    command += ["--dev", "/dev", "--remount-ro", "/dev", "--size", str(1 << 20), "--perms", "1777"]
    command += ["--tmpfs", "/dev/shm"]  # semaphores
    command += ["--size", str(TMP_BYTES), "--perms", "1777", "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in (("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("OPENBLAS_NUM_THREADS", "1")):
        command += ["--setenv", name, value]
    return (*command, str(Path(getattr(sys, "_base_executable", sys.executable)).resolve()))


def _sandlock(rights: str) -> tuple[str, ...]:
    """Return the command line of sandlock's supervisor up to the limits."""
    launcher = Path(__file__).with_name("sandlock_launcher.py")
    return (sys.executable, "-I", str(launcher), rights, str(_numpy_folder().parent))


def sandlock_installed() -> bool:
    """Return whether sandlock is here."""
    return importlib.util.find_spec("sandlock") is not None


def _numpy_folder() -> Path:
    spec = importlib.util.find_spec("numpy")
    return Path(str(spec and spec.origin)).resolve().parent


# Memory that no limit counts (anonymous files, shared segments, io_uring), and what a program has no use for that
# attacks the kernel: system call → its number on x86-64 and on ARM64.
_REFUSED_CALLS = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "unshare": (272, 97), "setns": (308, 268),
    "ptrace": (101, 117), "process_vm_writev": (311, 271), "mount": (165, 40), "pivot_root": (155, 41),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
}  # fmt: skip


@functools.cache
def call_filter() -> bytes:
    """Return a seccomp program (classic BPF) that refuses these calls; empty on another kind of processor."""
    column, architecture = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(platform.machine(), (0, 0))
    if not architecture:
        return b""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: EPERM
    numbers = [pair[column] for pair in _REFUSED_CALLS.values()]
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(at_least, len(numbers) + 1, 0, 0x40000000)]  # x86-64 has a second set of numbers up there
    steps += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def not_installed() -> list[str]:
    """Return which software for sandboxes is not here."""
    missing = [] if shutil.which("bwrap") else ["bubblewrap (bwrap) is not installed"]
    return missing if sandlock_installed() else [*missing, "sandlock is not installed"]


def install_hint() -> str:
    """Return how to get a sandbox."""
    if shutil.which("bwrap") is None:
        return "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
    unsafe = "--unsafe-code runs programs without a sandbox, at your risk"
    if not sandlock_installed():
        return f"pip install 'moemix[sandbox]', or allow user namespaces in this container ({unsafe})"
    return f"allow user namespaces in this container, or take a kernel with Landlock, 6.12 or later ({unsafe})"
