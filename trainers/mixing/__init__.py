"""Data mixing: the share of the training data that each source gets, and how it changes during training.

This package uses numpy only, so listing and simulating strategies never imports torch.
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
