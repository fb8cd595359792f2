"""What ``leaderboards`` offers to the rest of the project (:class:`harness.stages.ComparisonStage`)."""

from __future__ import annotations

from pathlib import Path

from harness.jobs import Plan
from harness.stages import Progress
from leaderboards.cli import write_report
from leaderboards.exports import render
from leaderboards.looks import follow
from leaderboards.selection import Selection, from_plan


def report(plan: Plan, folder: Path) -> tuple[str, list[Path]]:
    """Write the comparison of a plan's runs in every format, with figures; return it for a terminal, and the files."""
    return _report(from_plan(plan), folder)


def report_looks(plan: Plan, first: int, folder: Path) -> tuple[str, list[Path]]:
    """Do the same for a plan whose seeds are added until its primary comparisons are decided."""
    return _report(follow(plan, first)[1], folder)


def progress(plan: Plan, first: int) -> Progress:
    """Return how far such a plan is."""
    return follow(plan, first)[0]


def _report(selection: Selection, folder: Path) -> tuple[str, list[Path]]:
    comparisons = selection.compare()
    return render(comparisons, "terminal"), write_report(comparisons, folder)
