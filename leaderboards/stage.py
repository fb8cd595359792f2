"""What ``leaderboards`` offers to the rest of the project (:class:`harness.stages.ComparisonStage`)."""

from __future__ import annotations

from pathlib import Path

from harness.jobs import Plan
from harness.stages import Progress
from leaderboards.cli import write_report
from leaderboards.exports import render
from leaderboards.looks import follow, select


def report(plan: Plan, folder: Path, first: int | None = None) -> tuple[str, list[Path]]:
    """Write the comparison of a plan's runs in every format, with figures; return it for a terminal, and the files.

    ``first`` is the number of seeds at the first look, if seeds are added until the primary comparisons are decided.
    """
    comparisons = select(plan, first).compare()
    return render(comparisons, "terminal"), write_report(comparisons, folder)


def progress(plan: Plan, first: int) -> Progress:
    """Return how far such a plan is."""
    return follow(plan, first)[0]
