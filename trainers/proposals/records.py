"""Records of proposals: a fixed mix of the sources, and the proxy runs that it was fitted on."""

from __future__ import annotations

from pydantic import Field

from harness.records import Provenance, Record
from harness.schema import Strict


class ProxyRun(Strict):
    """One run that a proposal was fitted on."""

    run: str = Field(description="the run's folder, relative to the store")
    weights: dict[str, float]
    losses: dict[str, float] = Field(description="held-out losses by source")
    measured: float = Field(description="the target: the sources' held-out losses, weighted")
    predicted: float = Field(description="the same by a law fitted without this run and those of its fold")


class Fit(Strict):
    """How well the law predicts runs that it was not fitted on."""

    runs: int
    folds: int
    r2: float | None = Field(description="1 − squared error / variance; null if all runs have the same loss")
    rank_correlation: float | None = Field(description="Spearman's, between predicted and measured")
    error: float = Field(description="root mean square of predicted − measured")


class ProposalCost(Strict):
    """The cost of finding the mix, which a run with this mix owes."""

    runs: int
    steps: int
    examples: int
    tokens: int
    train_seconds: float
    measure_seconds: float
    fit_seconds: float
    of_a_run: float = Field(description="the proxies' examples divided by those of one run of the original recipe")


class Proposal(Record):
    """``proposal.json``: a fixed mix, the proxy runs behind it, and the quality of the fit."""

    method: str
    source: str = Field(description="the paper and the variant")
    recipe: str
    overrides: tuple[str, ...] = Field(description="changes to the recipe for the proxies")
    model: str
    seed: int
    prior: dict[str, float]
    target: dict[str, float] = Field(description="how much each source's loss counts")
    weights: dict[str, float]
    predicted: float = Field(description="the target's loss under these weights, by the law")
    at_prior: float = Field(description="measured target of the proxy with the prior itself")
    lowest_measured: float
    fit: Fit
    cost: ProposalCost
    proxies: tuple[ProxyRun, ...]
    provenance: Provenance
