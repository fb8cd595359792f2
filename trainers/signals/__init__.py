"""Signals: what mixing strategies may need to see, measured only if a strategy needs it.

Each is a class in a file of its own here, or a plug-in: an entry point of the group ``moemix.signals``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.errors import MoemixError
from harness.recipe import Mixing, Source
from trainers.mixing import MixingStrategy
from trainers.plugins import SIGNALS
from trainers.signals.base import (
    Probe,
    Resources,
    Sight,
    Signal,
    SignalContext,
    Situation,
    evaluating,
    no_held_out,
    no_targets,
    plain,
)


def make_signals(fields: Iterable[str], context: SignalContext) -> dict[str, Signal]:
    """Return the signals that a strategy needs, by the observation's field.

    Raises:
        MoemixError: a signal does not exist, the model has no MoE layers to observe, a source holds out no examples, or
            there is no tokenizer or reference model.
    """
    return {field: SIGNALS.find(field).make(context) for field in sorted(fields)}


def sights(fields: Iterable[str]) -> frozenset[Sight]:
    """Return everything that signals must see."""
    return frozenset().union(*(SIGNALS.find(field).sees for field in fields))


def check_signals(
    strategy: MixingStrategy, sources: Sequence[Source], mixing: Mixing, targets: Sequence[Source] = ()
) -> None:
    """Check that what a strategy needs to see can be measured in a run, before anything is made.

    Raises:
        MoemixError: a signal does not exist or its plug-in is broken, a source holds out no examples for it, or there
            is no target set.
    """
    at_start = mixing.model_copy(update={"gate_load": "probe"})  # there is no training batch yet
    for fields, settings in ((strategy.signals, mixing), (strategy.at_start, at_start)):
        for field in sorted(fields):
            if field not in SIGNALS.names():
                raise MoemixError(
                    f"the strategy `{strategy.name}` needs the signal {field!r}, which nothing measures",
                    hint=f"install a package that has it (entry points `{SIGNALS.group}`);"
                    " `moemix strategies signals` lists those that are here",
                )
            required = SIGNALS.find(field).required(settings)
            for source in sources:
                if "held-out examples" in required and not source.probe_examples:
                    raise no_held_out(source.name, field)
            if "target sets" in required and not targets:
                raise no_targets(field)


__all__ = [
    "Probe",
    "Resources",
    "Sight",
    "Signal",
    "SignalContext",
    "Situation",
    "check_signals",
    "evaluating",
    "make_signals",
    "plain",
    "sights",
]
