"""What a training run did: its final weights, the mix it really saw, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.recipe import Spent
from harness.records import RunManifest, TrainResult
from harness.store import Run
from leaderboards.members import Member
from leaderboards.table import Row


@dataclass(frozen=True)
class RunFacts:
    """One run in numbers. Everything is empty or None for a base checkpoint, and for a run that has not finished.

    Attributes:
        weights: source → final weight.
        examples_share, tokens_share: source → the part of all examples and of all real tokens that came from it.
        tokens: real tokens, padding excluded.
        seconds: wall time of the training steps; ``mixing_seconds`` of these went into signals and weight updates.
        scales: what the weights acted on: the draws, or the loss.
        average: source → mean weight over the run, of a strategy whose paper proposes that for a next run.
        needed: the runs that this one starts from, directly or through each other, by the strategy's label.
        total_steps, total_tokens, total_seconds: with those of the runs it needed; None where one of them is gone.
    """

    name: str
    run_id: str
    seed: int
    problem: str | None
    weights: dict[str, float]
    examples_share: dict[str, float]
    tokens_share: dict[str, float]
    steps: int | None = None
    examples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    mixing_seconds: float | None = None
    scales: str = "draws"
    average: dict[str, float] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    total_steps: int | None = None
    total_tokens: int | None = None
    total_seconds: float | None = None

    @property
    def mixing_share(self) -> float | None:
        """Part of the training time that the mixing itself took."""
        if self.seconds and self.mixing_seconds is not None:
            return self.mixing_seconds / self.seconds
        return None


def run_facts(row: Row) -> list[RunFacts]:
    """The runs of a row, one a seed."""
    return [
        _facts(member, row.label if len(row.members) == 1 else f"{row.label} · seed {member.seed}")
        for member in row.members
    ]


def _facts(member: Member, name: str) -> RunFacts:
    result = member.manifest.result if member.manifest else None
    if result is None or result.steps == 0:
        return RunFacts(name, member.run.folder.name, member.seed, member.problem, {}, {}, {})
    needed = _needed(member.run)
    spent: list[TrainResult | Spent | None] = [result, *(found for _, found in needed)]
    whole = [each for each in spent if each is not None]
    complete = len(whole) == len(spent)
    return RunFacts(
        name=name,
        run_id=member.run.folder.name,
        seed=member.seed,
        problem=member.problem,
        weights=result.final_weights,
        examples_share=_share(result.realised_examples),
        tokens_share=_share(result.realised_tokens),
        steps=result.steps,
        examples=result.examples,
        tokens=result.tokens,
        seconds=result.seconds,
        mixing_seconds=result.mixing_seconds,
        scales=result.scales,
        average=result.average_weights or {},
        needed=tuple(label for label, _ in needed),
        total_steps=sum(each.steps for each in whole) if complete else None,
        total_tokens=sum(each.tokens for each in whole) if complete else None,
        total_seconds=sum(each.seconds for each in whole) if complete else None,
    )


def _needed(run: Run) -> list[tuple[str, TrainResult | Spent | None]]:
    """The runs that a run starts from, nearest first, each by its strategy's label with its totals, if it is there.

    Proxy runs that a strategy's options were fitted on are told as one.
    """
    manifest = run.manifest
    found: list[tuple[str, TrainResult | Spent | None]] = _proxies(manifest)
    while manifest.reference_run is not None:
        needed = Run(run.store / manifest.reference_run)
        if not needed.manifest_path.is_file():
            return [*found, (f"{needed.folder.name} (not here)", None)]
        manifest = needed.manifest
        found += [(manifest.config.strategy.label, manifest.result), *_proxies(manifest)]
    return found


def _proxies(manifest: RunManifest) -> list[tuple[str, TrainResult | Spent | None]]:
    spent = manifest.config.strategy.spent
    return [(f"{spent.runs} proxy runs", spent)] if spent else []


def _share(counts: dict[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}
