"""Signals: what mixing strategies may ask to see, one file each, measured only if asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from harness.errors import MoemixError
from harness.recipe import Mixing
from trainers.data import TokenSource
from trainers.models.routers import RouterObserver
from trainers.parallel.ranks import Ranks
from trainers.signals.base import Resources, Signal
from trainers.signals.embedding import SentenceEmbeddings
from trainers.signals.gate_load import OnlineGateLoad, ProbeGateLoad
from trainers.signals.gradient import GradientSketch
from trainers.signals.probe import Probe
from trainers.signals.probe_loss import ExcessLoss, ProbeLoss, ReferenceLoss
from trainers.signals.train_loss import TrainLoss
from trainers.training.batches import Layout
from trainers.training.loss import TargetLosses

MEASURED = ("embedding", "excess_loss", "gate_load", "gradient", "probe_loss", "reference_loss", "train_loss")

__all__ = ["MEASURED", "Resources", "Signal", "make_signals"]


def make_signals(
    wanted: Iterable[str],
    *,
    losses: TargetLosses,
    sources: Sequence[TokenSource],
    mixing: Mixing,
    layout: Layout,
    seed: int,
    ranks: Ranks,
    resources: Resources | None = None,
) -> dict[str, Signal]:
    """The signals that a strategy asks for, by the observation's field.

    Raises:
        MoemixError: a signal that is not measured, gate load of a model without MoE layers, nothing to probe with, or
            no reference model.
    """
    resources = resources or Resources()

    def probe(field: str) -> Probe:
        examples = mixing.probe_batches * mixing.probe_batch_size
        return Probe(sources, examples, layout, seed, ranks, wanted_for=field)

    def gate_load() -> Signal:
        observer = RouterObserver(losses.model)
        if mixing.gate_load == "online":
            return OnlineGateLoad(observer, len(sources), mixing.min_tokens, ranks)
        return ProbeGateLoad(observer, losses, probe("gate_load"), ranks)

    def embedding() -> Signal:
        if resources.tokenizer is None:
            raise MoemixError("sentence embeddings need the texts, and there is no tokenizer to read them back with")
        return SentenceEmbeddings(sources, mixing.embedding_examples, resources.tokenizer, resources.cache, ranks)

    def reference() -> TargetLosses:
        return resources.reference_losses(losses)

    makers: dict[str, Callable[[], Signal]] = {
        "embedding": embedding,
        "excess_loss": lambda: ExcessLoss(reference, losses, probe("excess_loss"), ranks),
        "gate_load": gate_load,
        "gradient": lambda: GradientSketch(losses, probe("gradient"), ranks),
        "probe_loss": lambda: ProbeLoss(losses, probe("probe_loss"), ranks),
        "reference_loss": lambda: ReferenceLoss(reference, losses, probe("reference_loss"), ranks),
        "train_loss": lambda: TrainLoss(len(sources)),
    }
    signals: dict[str, Signal] = {}
    for field in sorted(wanted):
        if field not in makers:
            raise MoemixError(
                f"the strategy asks for the signal {field!r}, which training does not measure",
                hint=f"measured: {', '.join(MEASURED)}",
            )
        signals[field] = makers[field]()
    return signals
