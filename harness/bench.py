"""Running a recipe to its comparison, for the command line and for Python alike."""

from __future__ import annotations

from dataclasses import dataclass

from harness.checks import disk_shortage
from harness.conductor import conduct
from harness.errors import MoemixError
from harness.jobs import Plan
from harness.process import Outcome
from harness.until_decided import conduct_until_decided, with_most_seeds


@dataclass(frozen=True)
class Bench:
    """A plan that was run.

    Attributes:
        first: the number of seeds at the first look; None unless seeds were added until the comparisons were decided.
    """

    plan: Plan
    outcome: Outcome
    first: int | None


def run_bench(
    plan: Plan, *, until_decided: bool = False, budget: float | None = None, unsafe_code: bool = False
) -> Bench:
    """Run every job of a plan that is not done.

    Args:
        plan: jobs that were checked (:func:`harness.checks.check`).
        until_decided: add seeds where a primary comparison is open, up to the recipe's ``comparisons.most_seeds``.
        budget: the hours that the jobs of all runs may take, one after the other; needs ``until_decided``.
        unsafe_code: run generated programs without a sandbox where none works.

    Raises:
        MoemixError: the disk is too small for the checkpoints, or seeds cannot be added to this recipe.
    """
    if shortage := disk_shortage(plan):
        raise MoemixError(shortage, where=f"recipe {plan.recipe.name}")
    first = len(plan.recipe.seeds) if until_decided else None
    if until_decided:
        plan = with_most_seeds(plan)
    if unsafe_code:
        plan = plan.with_unsafe_code()
    outcome = conduct(plan) if first is None else conduct_until_decided(plan, first, budget)
    return Bench(plan, outcome, first)
