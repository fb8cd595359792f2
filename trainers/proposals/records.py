"""Records of proposals: a fixed mix of the sources, and the proxy runs that it was fitted on."""

from __future__ import annotations

from pydantic import Field

from harness.records import Provenance, Record
from harness.schema import Strict


class HeldOut(Record):
    """``held_out.json`` of a run: its checkpoint's loss on what its sources held out of training."""

    checkpoint_hash: str
    losses: dict[str, float] = Field(description="mean loss per target token of each source")
    seconds: float
    provenance: Provenance


class ProxyRun(Strict):
    """One run that a proposal was fitted on."""

    run: str = Field(description="its folder, relative to the store")
    weights: dict[str, float]
    losses: dict[str, float] = Field(description="held-out, by source")
    measured: float = Field(description="the target: the sources' held-out losses, weighted")
    predicted: float = Field(description="the same by a law fitted without this run and those of its fold")


class Fit(Strict):
    """How well the law predicts runs that it was not fitted on."""

    runs: int
    folds: int
    r2: float | None = Field(description="1 − squared error / variance; null where all runs came to the same")
    rank_correlation: float | None = Field(description="Spearman's, predicted to measured")
    error: float = Field(description="root mean square of predicted − measured")


class ProposalCost(Strict):
    """What it took to find the mix, all of which a run under it owes."""

    runs: int
    steps: int
    examples: int
    tokens: int
    train_seconds: float
    measure_seconds: float
    fit_seconds: float
    of_a_run: float = Field(description="the proxies' examples over those of one run of the recipe as it stands")


class Proposal(Record):
    """``proposal.json``: a fixed mix, what it was fitted on, and how far that can be trusted."""

    method: str
    source: str = Field(description="the paper and the variant")
    recipe: str
    overrides: tuple[str, ...] = Field(description="changes to the recipe that the proxies were run with")
    model: str
    seed: int
    prior: dict[str, float]
    target: dict[str, float] = Field(description="how much each source's loss counts")
    weights: dict[str, float]
    predicted: float = Field(description="the target's loss under these weights, by the law")
    at_prior: float = Field(description="measured, of the proxy that ran under the prior itself")
    lowest_measured: float
    fit: Fit
    cost: ProposalCost
    proxies: tuple[ProxyRun, ...]
    provenance: Provenance
