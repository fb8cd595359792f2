"""Signals: what mixing strategies may need to see, measured only if a strategy needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.errors import unknown
from trainers.signals.base import Resources, Signal, SignalContext
from trainers.signals.embedding import SentenceEmbeddings
from trainers.signals.gate_load import OnlineGateLoad, ProbeGateLoad
from trainers.signals.gradient import GradientSketch
from trainers.signals.losses import ExcessLoss, ProbeLoss, ReferenceLoss, TrainLoss


def _gate_load(context: SignalContext) -> Signal:
    return OnlineGateLoad(context) if context.mixing.gate_load == "online" else ProbeGateLoad(context)


_SIGNALS: dict[str, Callable[[SignalContext], Signal]] = {
    "embedding": SentenceEmbeddings,
    "excess_loss": ExcessLoss,
    "gate_load": _gate_load,
    "gradient": GradientSketch,
    "probe_loss": ProbeLoss,
    "reference_loss": ReferenceLoss,
    "train_loss": TrainLoss,
}
MEASURED = tuple(_SIGNALS)


def make_signals(fields: Iterable[str], context: SignalContext) -> dict[str, Signal]:
    """Return the signals that a strategy needs, by the observation's field.

    Raises:
        MoemixError: a signal does not exist, the model has no MoE layers to observe, a source holds out no examples, or
            there is no tokenizer or reference model.
    """
    signals: dict[str, Signal] = {}
    for field in sorted(fields):
        if field not in _SIGNALS:
            raise unknown("signal", field, MEASURED, where="the strategy's signals")
        signals[field] = _SIGNALS[field](context)
    return signals


__all__ = ["MEASURED", "Resources", "Signal", "SignalContext", "make_signals"]
