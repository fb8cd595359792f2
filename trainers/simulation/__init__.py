"""Understanding a strategy without training: the real classes in a simulated world whose best answer is known.

Numpy and scipy only. ``docs/simulation.md`` states the model with its formulas.
"""

from trainers.simulation.course import Course, follow
from trainers.simulation.worlds import WORLDS, World, load_world

__all__ = ["WORLDS", "Course", "World", "follow", "load_world"]
