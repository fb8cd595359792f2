"""Data mixing: what share of the training data each source gets, and how that changes while training goes on.

Numpy only, so that listing strategies and simulating them never waits for torch.
"""

from trainers.mixing.base import MixingStrategy, MixtureState, Observation, Reference, Sources
from trainers.mixing.registry import (
    StrategyCard,
    load_strategy,
    plugin_faults,
    strategy_cards,
    strategy_code,
    strategy_names,
)

__all__ = [
    "MixingStrategy",
    "MixtureState",
    "Observation",
    "Reference",
    "Sources",
    "StrategyCard",
    "load_strategy",
    "plugin_faults",
    "strategy_cards",
    "strategy_code",
    "strategy_names",
]
