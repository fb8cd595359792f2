"""What ``trainers`` offers to the rest of the project (:class:`harness.stages.TrainingStage`)."""

from __future__ import annotations

from pathlib import Path

from harness.recipe import Source
from trainers.data.reading import read_part
from trainers.data.world import world_id
from trainers.mixing import load_strategy, strategy_code
from trainers.signals import check_signals


def count_rows(source: Source, root: Path | None) -> int:
    """Read the files of a source as training does, and return the number of rows."""
    return sum(read_part(part, root=root, source=source.name)[0] for part in source.parts)


__all__ = ["check_signals", "count_rows", "load_strategy", "strategy_code", "world_id"]
