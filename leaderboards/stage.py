"""What ``leaderboards`` offers to the rest of the project (:class:`harness.stages.ComparisonStage`)."""

from __future__ import annotations

from pathlib import Path

from harness.jobs import Plan
from leaderboards.cli import write_report
from leaderboards.exports import render
from leaderboards.selection import from_plan


def report(plan: Plan, folder: Path) -> tuple[str, list[Path]]:
    """Compare the runs of a plan, and write the comparison in every format and its figures into a folder.

    Returns:
        the table for a terminal, and the files that were written.
    """
    comparisons = from_plan(plan).compare()
    return render(comparisons, "terminal"), write_report(comparisons, folder)
