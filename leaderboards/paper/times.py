"""What a preset's runs took, stage by stage, as their records tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from harness.records import ModelManifest, Stage
from leaderboards.paper.runs import Experiments, Need

KINDS = {"model": "making models", "train": "training", "eval": "evaluating", "judge": "judging",
         "gate-load": "measuring gate loads"}  # fmt: skip
Interval = tuple[datetime, datetime]


@dataclass
class Times:
    """When the jobs of each kind ran."""

    intervals: dict[str, list[Interval]] = field(default_factory=dict)
    processors: set[str] = field(default_factory=set)

    def add(self, kind: str, begun: datetime, ended: datetime) -> None:
        self.intervals.setdefault(kind, []).append((begun, ended))

    def rows(self) -> list[list[str]]:
        """Header and lines: a kind of job, how many, their time in all and of one."""
        lines = [["stage", "jobs", "in all", "one, median", "one, longest"]]
        for kind, words in KINDS.items():
            seconds = [(ended - begun).total_seconds() for begun, ended in self.intervals.get(kind, [])]
            if seconds:
                lines.append([words, str(len(seconds)), clock(sum(seconds)), clock(float(np.median(seconds))),
                              clock(max(seconds))])  # fmt: skip
        return lines

    def in_words(self) -> str:
        """Wall time with the pauses between jobs left out: jobs run side by side count once."""
        every = sorted(interval for held in self.intervals.values() for interval in held)
        if not every:
            return "Nothing was run yet."
        worked, reach = timedelta(), every[0][0]
        for begun, ended in every:
            worked += max(timedelta(), ended - max(begun, reach))
            reach = max(reach, ended)
        total = sum((ended - begun).total_seconds() for begun, ended in every)
        on = f" Processors: {', '.join(sorted(self.processors))}." if self.processors else ""
        return (
            f"The {len(every)} jobs took {clock(worked.total_seconds())} of wall time, pauses left out; one after the"
            f" other they would have been {clock(total)}.{on}"
        )


def clock(seconds: float) -> str:
    """``1h02m``, ``3m05s`` or ``12s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def times(experiments: Experiments, needs: Iterable[Need]) -> Times:
    """Of the finished jobs behind what is needed; one that was interrupted counts from its last start."""
    found = Times()
    if experiments.plan is None:
        return found
    wanted = {(model, strategy) for model, strategy, _ in needs}
    models = set()
    for model, strategy in sorted(wanted):
        for planned in experiments.runs(model, strategy):
            if not planned.run.trained:
                continue
            manifest = planned.run.manifest
            found.processors.add(f"{manifest.provenance.processor}, {manifest.provenance.cpu_count} cores")
            models.add(planned.config.model_id)
            for name, stage in manifest.stages.items():
                _stage(found, name.partition(":")[0], stage)
    for model_id in models:
        path = experiments.plan.store.root / "_models" / model_id / "model.json"
        if path.is_file():
            _stage(found, "model", ModelManifest.read(path).stage)
    return found


def _stage(found: Times, kind: str, stage: Stage) -> None:
    if stage.status == "done" and stage.started and stage.finished and kind in KINDS:
        found.add(kind, datetime.fromisoformat(stage.started), datetime.fromisoformat(stage.finished))
