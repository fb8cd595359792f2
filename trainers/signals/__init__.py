"""Signals: what mixing strategies may ask to see, one file each, measured only if asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.errors import MoemixError
from harness.recipe import Mixing
from trainers.batches import Layout
from trainers.data import TokenSource
from trainers.loss import TargetLosses
from trainers.ranks import Ranks
from trainers.routers import RouterObserver
from trainers.signals.base import Signal
from trainers.signals.gate_load import OnlineGateLoad, ProbeGateLoad
from trainers.signals.train_loss import TrainLoss

MEASURED = ("gate_load", "train_loss")


def make_signals(
    wanted: Iterable[str],
    *,
    losses: TargetLosses,
    sources: Sequence[TokenSource],
    mixing: Mixing,
    layout: Layout,
    seed: int,
    ranks: Ranks,
) -> dict[str, Signal]:
    """The signals that a strategy asks for, by the observation's field.

    Raises:
        MoemixError: a signal that is not measured, gate load of a model without MoE layers, or nothing to probe with.
    """
    signals: dict[str, Signal] = {}
    for field in sorted(wanted):
        if field == "train_loss":
            signals[field] = TrainLoss(len(sources))
        elif field == "gate_load":
            observer = RouterObserver(losses.model)
            if mixing.gate_load == "online":
                signals[field] = OnlineGateLoad(observer, len(sources), mixing.min_tokens, ranks)
            else:
                examples = mixing.probe_batches * mixing.probe_batch_size
                signals[field] = ProbeGateLoad(observer, losses, sources, examples, layout, seed, ranks)
        else:
            raise MoemixError(
                f"the strategy asks for the signal {field!r}, which training does not measure",
                hint=f"measured: {', '.join(MEASURED)}",
            )
    return signals
