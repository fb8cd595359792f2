"""Study a strategy without training: its class runs in a simulated world whose best mix is known.

This package needs numpy and scipy only. ``docs/simulation.md`` states the model with its formulas.
"""
