"""How the processes of a run share its work: replicas (DDP), shards of everything (FSDP2) or of the
optimizer's state (DeepSpeed ZeRO-1)."""

from __future__ import annotations

from harness.recipe import Training
from trainers.parallel.base import Parallel
from trainers.parallel.peers import asked_for, connect, made_by_first


def parallel(training: Training) -> Parallel:
    """The way of training in parallel that this process was launched for.

    Raises:
        MoemixError: what was asked for is not to be had here.
    """
    strategy = asked_for()
    peers = connect(training.dtype)
    if strategy == "fsdp2":
        from trainers.parallel.sharded import Sharded

        return Sharded(peers)
    if strategy == "zero1":
        from trainers.parallel.zero1 import Zero1

        return Zero1(peers)
    return Parallel(peers)


__all__ = ["Parallel", "asked_for", "connect", "made_by_first", "parallel"]
