"""What a training run did: its final weights, the data that it really saw, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.recipe import SearchCost
from harness.records import RunManifest, TrainResult
from harness.store import Run
from leaderboards.table import Member, Row

Cost = TrainResult | SearchCost | None


@dataclass(frozen=True)
class RunFacts:
    """One run in numbers. Everything is empty or None for a base checkpoint, and for a run that has not finished.

    Attributes:
        weights: source → final weight.
        examples_share: source → its share of all examples.
        tokens_share: source → its share of all tokens, padding excluded.
        tokens: number of tokens, padding excluded.
        seconds: wall time of the training steps; ``mixing_seconds`` of them went into signals and weight updates.
        scales: what the weights acted on: ``draws`` or ``loss``.
        average: source → mean weight over the run, of a strategy whose paper proposes it for the next run.
        needed: the runs that this one starts from, directly or through each other, by the strategy's label.
        total_steps: steps with those of the needed runs; None where one of them is missing.
        total_tokens: tokens with those of the needed runs.
        total_seconds: seconds with those of the needed runs.
    """

    name: str
    run_id: str
    seed: int
    problem: str | None
    weights: Mapping[str, float] = field(default_factory=dict)
    examples_share: Mapping[str, float] = field(default_factory=dict)
    tokens_share: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    examples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    mixing_seconds: float | None = None
    scales: str = "draws"
    average: Mapping[str, float] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    total_steps: int | None = None
    total_tokens: int | None = None
    total_seconds: float | None = None

    @property
    def mixing_share(self) -> float | None:
        """Return the share of the training time that the mixing itself took."""
        return self.mixing_seconds / self.seconds if self.seconds and self.mixing_seconds is not None else None


def run_facts(row: Row) -> list[RunFacts]:
    """Return the runs of a row, one for each seed."""
    return [
        _facts(member, row.label if len(row.members) == 1 else f"{row.label} · seed {member.seed}")
        for member in row.members
    ]


def _facts(member: Member, name: str) -> RunFacts:
    result = member.manifest.result if member.manifest else None
    if result is None or result.steps == 0:
        return RunFacts(name, member.run.folder.name, member.seed, member.problem)
    needed = _needed(member.run)
    costs = [cost for cost in (result, *(cost for _, cost in needed)) if cost is not None]
    complete = len(costs) == 1 + len(needed)
    return RunFacts(
        name, member.run.folder.name, member.seed, member.problem, result.final_weights,
        _share(result.realised_examples), _share(result.realised_tokens), result.steps, result.examples, result.tokens,
        result.seconds, result.mixing_seconds, result.scales, result.average_weights or {},
        needed=tuple(label for label, _ in needed),
        total_steps=sum(cost.steps for cost in costs) if complete else None,
        total_tokens=sum(cost.tokens for cost in costs) if complete else None,
        total_seconds=sum(cost.seconds for cost in costs) if complete else None,
    )  # fmt: skip


def _needed(run: Run) -> list[tuple[str, Cost]]:
    """Return the runs that a run starts from, nearest first: strategy's label and cost; None where one is missing.

    Proxy runs on which a strategy's options were fitted count as one.
    """
    manifest = run.manifest
    found = _proxies(manifest)
    while manifest.reference_run is not None:
        needed = Run(run.store / manifest.reference_run)
        if not needed.manifest_path.is_file():
            return [*found, (f"{needed.folder.name} (not here)", None)]
        manifest = needed.manifest
        found += [(manifest.config.strategy.label, manifest.result), *_proxies(manifest)]
    return found


def _proxies(manifest: RunManifest) -> list[tuple[str, Cost]]:
    spent = manifest.config.strategy.spent
    return [(f"{spent.runs} proxy runs", spent)] if spent else []


def _share(counts: dict[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}
