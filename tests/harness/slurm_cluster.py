"""A real Slurm on this machine: munged, slurmctld and slurmd in a folder of their own, on ports of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

CONFIGURATION = """
ClusterName=moemix
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,default_queue_depth=100
KillWait=3
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)}): apt install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a Slurm of our own is started as root, and this is not root"
    return None


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        ports = _free_ports(2)
        text = CONFIGURATION.format(host=self.host, folder=self.folder, ctld_port=ports[0], slurmd_port=ports[1])
        self.configuration.write_text(text)
        munge = [
            f"--{what}={self.folder}/munge.{ending}"
            for what, ending in (
                ("socket", "sock"),
                ("key-file", "key"),
                ("pid-file", "pid"),
                ("log-file", "log"),
                ("seed-file", "seed"),
            )
        ]
        self._launch("munged", "--foreground", "--force", *munge)
        _wait_for(lambda: (self.folder / "munge.sock").exists(), "munged")
        self._launch("slurmctld", "-D", "-f", str(self.configuration))
        self._launch("slurmd", "-D", "-f", str(self.configuration))
        _wait_for(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "slurmd")

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def ask(self, *command: str) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        return subprocess.run(command, capture_output=True, text=True, env=environment).stdout

    def stop(self) -> None:
        self.ask("scancel", "--user=root")
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _launch(self, program: str, *arguments: str) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        with open(self.folder / f"{program}.out", "wb") as log:
            command = (str(shutil.which(program, path=path)), *arguments)
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(condition, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up in {seconds:.0f} s")
        time.sleep(0.1)
