"""How the processes of a run share its work.

They hold replicas (DDP), shards of everything (FSDP2), or shards of the optimizer's state (DeepSpeed ZeRO-1).
"""

from __future__ import annotations

from harness.recipe import Training
from trainers.parallel.base import Parallel
from trainers.parallel.peers import connect, launched_strategy, made_by_first


def parallel(training: Training) -> Parallel:
    """Return the way of training in parallel for which this process was launched.

    Raises:
        MoemixError: it is not available here.
    """
    strategy = launched_strategy()
    accelerator = connect(training.dtype)
    if strategy == "fsdp2":
        from trainers.parallel.sharded import Sharded

        return Sharded(accelerator)
    if strategy == "zero1":
        from trainers.parallel.zero1 import Zero1

        return Zero1(accelerator)
    return Parallel(accelerator)


__all__ = ["Parallel", "connect", "launched_strategy", "made_by_first", "parallel"]
