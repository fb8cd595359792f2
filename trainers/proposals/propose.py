"""Propose a mix for a recipe: run the missing proxies, measure their losses, fit a law, and write its best mix."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import yaml

from harness.conductor import conduct
from harness.errors import MoemixError, StageError, nearest, unknown
from harness.files import hash_value, write_text
from harness.jobs import PlannedRun
from harness.plan import build
from harness.provenance import provenance
from harness.recipe import Evaluation, Recipe, Strategy
from harness.records import HeldOutLosses, RunManifest
from harness.store import Run, Store
from trainers.figures import write_png
from trainers.mixing.base import Floats
from trainers.mixing.simplex import even, normalised
from trainers.proposals.laws import Law, fewest_runs, folds, proxy_mixes
from trainers.proposals.records import Fit, Proposal, ProposalCost, ProxyRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PROXIES = "proxies"  # their folder in the store; proxies are ordinary runs, but no rows of the recipe's table


@dataclass(frozen=True)
class Request:
    """The arguments of a proposal.

    Attributes:
        recipe: the recipe of the proxies, with overrides applied.
        overrides: these overrides, for the record.
        run_examples: the examples of one run of the recipe without overrides.
        model: the name of the model that proxies are trained from; None for the recipe's first.
        proxies: the number of proxy runs.
        prior, target: source → share; None for even shares.
        seed: the seed of the mixes, the fit and the search.
    """

    recipe: Recipe
    overrides: tuple[str, ...]
    run_examples: int
    model: str | None
    proxies: int
    prior: dict[str, float] | None
    target: dict[str, float] | None
    seed: int


def propose(law: type[Law], request: Request, store: Store, data_root: Path | None, out: Path | None) -> Path:
    """Run the proxies that are not finished yet, and write the proposal. After an interruption, call it again.

    Returns:
        The folder of ``proposal.json``, ``strategy.yaml`` (a row for a recipe) and ``fit.png``.

    Raises:
        MoemixError: the request does not match the recipe.
        StageError: a proxy failed.
    """
    names = sorted(source.name for source in request.recipe.data.sources)
    prior = shares(request.prior, names, "prior")
    target = shares(request.target, names, "target")
    if request.proxies < fewest_runs(len(names)):
        raise MoemixError(
            f"{request.proxies} proxies are too few for {law.name} over {len(names)} sources",
            where="--proxies",
            hint=f"give at least {fewest_runs(len(names))}; more proxies give a better fit",
        )
    for source in request.recipe.data.sources:
        if not source.probe_examples:
            raise MoemixError(
                "the source has no held-out examples, on which mixes are compared",
                where=f"source {source.name}",
                hint=f"add --set data.sources.{source.name}.probe_examples=100",
            )
    mixes = proxy_mixes(prior, request.proxies, request.seed)
    plan = build(proxy_recipe(request, names, mixes), store, data_root)
    outcome = conduct(plan)
    if outcome.failed:
        job, reason = next(iter(outcome.failed.items()))
        raise StageError(f"{len(outcome.failed)} proxies failed; {job}: {reason}")
    proposal = _proposal(law, request, prior, target, plan.runs, store.root)
    identity = {"runs": [proxy.run for proxy in proposal.proxies], "target": proposal.target, "seed": request.seed}
    name = f"{law.name}-{request.proxies}-{hash_value(identity)[:8]}"
    folder = out or store.root / PROXIES / request.recipe.name / name
    write(proposal, folder)
    return folder


def shares(given: dict[str, float] | None, names: Sequence[str], option: str) -> Floats:
    """Return a user's shares, normalised, f64[K]; even ones if none are given. Sources that are not named get 0.

    Raises:
        MoemixError: a source is unknown, a share is negative or not finite, all are 0, or a prior has a 0.
    """
    if given is None:
        return even(len(names))
    for name, share in given.items():
        if name not in names:
            raise unknown("source", name, names, where=f"--{option}")
        if not (np.isfinite(share) and share >= 0):
            raise MoemixError(f"weight must be finite and >= 0, got {share}", where=f"--{option} {name}")
    found = np.array([given.get(name, 0.0) for name in names])
    if option == "prior" and not found.all():
        missing = names[int(found.argmin())]
        raise MoemixError(
            f"prior weight of source {missing!r} is 0; every source needs a positive prior", where="--prior"
        )
    if not found.sum():
        raise MoemixError(f"all {option} weights are zero", where=f"--{option}")
    return normalised(found)


def proxy_recipe(request: Request, names: Sequence[str], mixes: Floats) -> Recipe:
    """Return the recipe of the proxy runs: one model, one seed, fixed weights for each mix, no evaluation."""
    recipe = request.recipe
    models = {model.name: model for model in recipe.models}
    if request.model is not None and request.model not in models:
        raise MoemixError(f"the recipe has no model {request.model!r}", hint=nearest(request.model, models))
    rows = tuple(
        Strategy(name="static", label=f"proxy-{i:04}", options={"weights": dict(zip(names, mix.tolist(), strict=True))})
        for i, mix in enumerate(mixes)
    )
    return recipe.model_copy(
        update={
            "name": f"{PROXIES}/{recipe.name}",
            "models": (models[request.model] if request.model else recipe.models[0],),
            "strategies": rows,
            "seeds": recipe.seeds[:1],
            "evaluation": Evaluation(),
        }
    )


def _proposal(
    law: type[Law],
    request: Request,
    prior: Floats,
    target: Floats,
    runs: Sequence[PlannedRun],
    store: Path,
) -> Proposal:
    names = sorted(source.name for source in request.recipe.data.sources)
    manifests = [planned.run.manifest for planned in runs]
    weights_of = [cast("dict[str, float]", m.config.strategy.options["weights"]) for m in manifests]
    mixes = np.array([[weights[name] for name in names] for weights in weights_of])
    measured = [planned.run.final_losses() for planned in runs]
    losses = np.array([_mean_losses(planned.run, names) for planned in runs])
    started = time.perf_counter()
    fitted = law.fit(mixes, losses, target, request.seed)
    weights = fitted.best(prior, request.seed)
    predicted = cross_validated(law, mixes, losses, target, request.seed)
    fit_seconds = time.perf_counter() - started
    targets = losses @ target
    return Proposal(
        method=law.name,
        source=law.source,
        recipe=request.recipe.name,
        overrides=request.overrides,
        model=runs[0].model,
        seed=request.seed,
        prior=_named(names, prior),
        target=_named(names, target),
        weights=_named(names, np.round(weights, 6)),
        predicted=float(fitted.predict(weights[None])[0]),
        at_prior=float(targets[0]),
        lowest_measured=float(targets.min()),
        fit=quality(predicted, targets),
        cost=_cost(manifests, measured, fit_seconds, request.run_examples),
        proxies=tuple(
            ProxyRun(
                run=str(planned.run.folder.relative_to(store)),
                weights=_named(names, mix),
                losses=_named(names, each),
                measured=float(target),
                predicted=float(predicted),
            )
            for planned, mix, each, target, predicted in zip(runs, mixes, losses, targets, predicted, strict=True)
        ),
        provenance=provenance(),
    )


def _mean_losses(run: Run, names: Sequence[str]) -> list[float]:
    """Return the final mean loss per target token of a run on the held-out examples of each source.

    Raises:
        StageError: the run did not measure a source, or a loss is not a finite number.
    """
    sets = run.final_losses()
    if absent := [name for name in names if name not in sets]:
        hint = "remove the run's folder, so that it is trained again"
        raise StageError(f"the held-out loss of source {absent[0]} was not measured", where=str(run.folder), hint=hint)
    means = [sum(sets[name].nats) / sum(sets[name].targets) for name in names]
    if not np.isfinite(means).all():
        raise StageError("a proxy's held-out loss is not finite", where=str(run.held_out))
    return means


def cross_validated(law: type[Law], mixes: Floats, losses: Floats, target: Floats, seed: int) -> Floats:
    """Predict each run's target loss, f64[N], by a law that was fitted without the runs of its fold."""
    predicted = np.empty(len(mixes))
    for out in folds(len(mixes)):
        fitted = law.fit(mixes[~out], losses[~out], target, seed)
        predicted[out] = fitted.predict(mixes[out])
    return predicted


def quality(predicted: Floats, measured: Floats) -> Fit:
    """Compare predictions of left-out runs, f64[N], with the measured target losses."""
    from scipy.stats import spearmanr

    error = predicted - measured
    spread = float(((measured - measured.mean()) ** 2).sum())
    varied = spread > 0 and float(np.ptp(predicted)) > 0
    return Fit(
        runs=len(measured),
        folds=len(folds(len(measured))),
        r2=1.0 - float((error**2).sum()) / spread if spread > 0 else None,
        rank_correlation=float(spearmanr(predicted, measured).statistic) if varied else None,
        error=float(np.sqrt((error**2).mean())),
    )


def _cost(
    manifests: Sequence[RunManifest],
    measured: Sequence[Mapping[str, HeldOutLosses]],
    fit_seconds: float,
    run_examples: int,
) -> ProposalCost:
    results = [manifest.result for manifest in manifests if manifest.result is not None]
    examples = sum(result.examples for result in results)
    return ProposalCost(
        runs=len(results),
        steps=sum(result.steps for result in results),
        examples=examples,
        tokens=sum(result.tokens for result in results),
        train_seconds=sum(result.seconds for result in results),
        measure_seconds=sum(losses.seconds for sets in measured for losses in sets.values()),
        fit_seconds=fit_seconds,
        of_a_run=examples / run_examples,
    )


def _named(names: Sequence[str], values: Floats) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def write(proposal: Proposal, folder: Path) -> None:
    """Write the record, the row for a recipe, and the figure of the fit."""
    cost = proposal.cost
    seconds = round(cost.train_seconds + cost.measure_seconds + cost.fit_seconds, 3)
    spent = {"runs": cost.runs, "steps": cost.steps, "tokens": cost.tokens, "seconds": seconds}
    row = {"name": "static", "label": proposal.method, "options": {"weights": proposal.weights}, "spent": spent}
    head = (
        f"# proposed by {proposal.method} on {proposal.fit.runs} proxy runs of {proposal.recipe}; see proposal.json\n"
    )
    draw_fit(proposal, folder / "fit.png")
    write_text(folder / "strategy.yaml", head + yaml.safe_dump(row, sort_keys=False))
    proposal.write(folder / "proposal.json")


def draw_fit(proposal: Proposal, path: Path) -> None:
    """Write the figure as PNG."""

    def panels(figure: Figure) -> None:
        agreement, mix = figure.subplots(1, 2)
        measured = [proxy.measured for proxy in proposal.proxies]
        predicted = [proxy.predicted for proxy in proposal.proxies]
        ends = (min(measured + predicted), max(measured + predicted))
        agreement.plot(ends, ends, color="0.7", linewidth=0.8)
        agreement.plot(measured, predicted, "o", color="0.15", markersize=4)
        agreement.set_xlabel("measured held-out loss of a proxy")
        agreement.set_ylabel("predicted without it")
        agreement.set_title(f"{proposal.method}: {describe_fit(proposal)}", fontsize=9, loc="left", parse_math=False)
        names = list(proposal.weights)
        height = np.arange(len(names))[::-1]
        for proxy in proposal.proxies:
            mix.plot([proxy.weights[name] for name in names], height, "|", color="0.75", markersize=8)
        mix.plot([proposal.weights[name] for name in names], height, "o", color="0.1", label="proposed")
        mix.plot([proposal.prior[name] for name in names], height, "|", color="0.1", markersize=12, label="prior")
        mix.set_yticks(height, names, parse_math=False)
        mix.set_xlabel("weight (grey: proxies)")
        mix.legend(frameon=False, fontsize=8)

    write_png(path, (9, 3.4), panels, font_size=9, dpi=130)


def describe_fit(proposal: Proposal) -> str:
    """Return ``R² 0.91, rank correlation 0.88 on 16 left-out runs in 10 folds``."""
    fit = proposal.fit
    r2, rank = ("–" if value is None else f"{value:.2f}" for value in (fit.r2, fit.rank_correlation))
    return f"R² {r2}, rank correlation {rank} on {fit.runs} left-out runs in {fit.folds} folds"
