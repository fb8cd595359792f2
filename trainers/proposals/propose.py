"""Propose a mix for a recipe: run the missing proxies, measure their losses, fit a law, and write its best mix."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from harness.conductor import conduct
from harness.drawing import WIDTH, save
from harness.errors import MoemixError, StageError, nearest, unknown
from harness.files import hash_value, write_text
from harness.jobs import PlannedRun
from harness.plan import build
from harness.provenance import provenance
from harness.recipe import Evaluation, Recipe, Strategy
from harness.records import HeldOutLosses, RunManifest, TrainResult
from harness.store import Store
from trainers.mixing.base import Floats
from trainers.mixing.simplex import even, normalised
from trainers.proposals.laws import Law, Proxy, ProxyLosses
from trainers.proposals.records import Fit, Proposal, ProposalCost, ProxyRun
from trainers.proposals.transfer import TransferLaw

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
        The folder of ``proposal.json``, ``strategy.yaml`` (a row for a recipe), and ``fit.png`` and ``fit.svg``.

    Raises:
        MoemixError: the request does not match the recipe.
        StageError: a proxy failed.
    """
    names = sorted(source.name for source in request.recipe.data.sources)
    prior = shares(request.prior, names, "prior")
    sets = [*names, *(source.name for source in request.recipe.held_out)]
    target = shares(request.target or dict.fromkeys(names, 1.0), sets, "target")
    if law is TransferLaw and target[len(names) :].any():
        raise MoemixError("dmo has a law of each source alone, so it cannot aim at a target set", where="--target")
    if request.proxies < law.fewest(len(names)):
        raise MoemixError(
            f"{request.proxies} proxies are too few for {law.name} over {len(names)} sources",
            where="--proxies",
            hint=f"give at least {law.fewest(len(names))}; more proxies give a better fit",
        )
    for source in request.recipe.data.sources:
        if not source.probe_examples:
            raise MoemixError(
                "the source has no held-out examples, on which mixes are compared",
                where=f"source {source.name}",
                hint=f"add --set data.sources.{source.name}.probe_examples=100",
            )
    proxies = law.design(prior, request.proxies, request.seed)
    plan = build(proxy_recipe(request, names, proxies), store, data_root)
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


def proxy_recipe(request: Request, names: Sequence[str], proxies: Sequence[Proxy]) -> Recipe:
    """Return the recipe of the proxy runs: one model, one seed, fixed weights for each proxy, no evaluation."""
    recipe = request.recipe
    models = {model.name: model for model in recipe.models}
    if request.model is not None and request.model not in models:
        raise MoemixError(f"the recipe has no model {request.model!r}", hint=nearest(request.model, models))
    rows = tuple(
        Strategy(
            name="static",
            label=f"proxy-{i:04}",
            options={"weights": _named(names, proxy.weights)},
            overrides={} if proxy.size == 1 else {"training.steps": max(1, round(proxy.size * recipe.training.steps))},
        )
        for i, proxy in enumerate(proxies)
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
    law: type[Law], request: Request, prior: Floats, target: Floats, runs: Sequence[PlannedRun], store: Path
) -> Proposal:
    names = sorted(source.name for source in request.recipe.data.sources)
    sets = [*names, *(source.name for source in request.recipe.held_out)]
    manifests = [planned.run.manifest for planned in runs]
    measured = [planned.run.final_losses() for planned in runs]
    found = _losses(runs, names, sets, request.run_examples)
    started = time.perf_counter()
    fitted = law.fit(found, target, request.seed)
    weights = fitted.best(prior, request.seed)
    predicted, judged = cross_validated(law, found, target, request.seed)
    fit_seconds = time.perf_counter() - started
    targets = found.losses @ target
    return Proposal(
        method=law.name,
        source=law.source,
        recipe=request.recipe.name,
        overrides=request.overrides,
        model=runs[0].model,
        seed=request.seed,
        prior=_named(names, prior),
        target=_named(sets, target),
        weights=_named(names, np.round(weights, 6)),
        predicted=fitted.value(weights),
        at_prior=float(targets[0]),
        lowest_measured=float(targets.min()),
        fit=quality(predicted[judged], targets[judged], len(law.left_out(found))),
        cost=_cost(manifests, measured, fit_seconds, request.run_examples),
        proxies=tuple(
            ProxyRun(
                run=str(planned.run.folder.relative_to(store)),
                weights=_named(names, found.mixes[i]),
                losses=_named(sets, found.losses[i]),
                measured=float(targets[i]),
                predicted=float(predicted[i]),
            )
            for i, planned in enumerate(runs)
        ),
        provenance=provenance(),
    )


def _losses(runs: Sequence[PlannedRun], names: Sequence[str], sets: Sequence[str], run_examples: int) -> ProxyLosses:
    """Return the final losses of the runs on each set.

    Raises:
        StageError: a run did not measure a set, or a loss is not a finite number.
    """
    results = [cast("TrainResult", planned.run.manifest.result) for planned in runs]
    measured = [planned.run.final_losses() for planned in runs]
    for planned, of_run in zip(runs, measured, strict=True):
        if absent := [name for name in sets if name not in of_run]:
            hint = "remove the run's folder, so that it is trained again"
            where = str(planned.run.folder)
            raise StageError(f"the held-out loss of {absent[0]} was not measured", where=where, hint=hint)
        if not np.isfinite([nats for name in sets for nats in of_run[name].nats]).all():
            raise StageError("a proxy's held-out loss is not finite", where=str(planned.run.held_out))
    nats = tuple(np.array([of_run[name].nats for of_run in measured]) for name in sets)
    targets = tuple(np.array(measured[0][name].targets, dtype=np.float64) for name in sets)
    tokens, examples = (
        np.array([[getattr(result, field)[name] for name in names] for result in results], dtype=np.float64)
        for field in ("realised_tokens", "realised_examples")
    )
    return ProxyLosses(
        mixes=np.array([[result.final_weights[name] for name in names] for result in results]),
        losses=np.stack([each.sum(axis=1) / count.sum() for each, count in zip(nats, targets, strict=True)], axis=1),
        tokens=tokens,
        nats=nats,
        targets=targets,
        per_weight=run_examples * tokens.sum(axis=0) / np.maximum(examples.sum(axis=0), 1),
    )


def cross_validated(law: type[Law], runs: ProxyLosses, target: Floats, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Predict each run's target loss, f64[N], by a law that was fitted without the runs of its fold.

    The second array, bool[N], says which runs were in a fold; the others are what every fit is made of.
    """
    predicted, judged = law.fit(runs, target, seed).predict(runs), np.zeros(len(runs.mixes), bool)
    for out in law.left_out(runs):
        predicted[out] = law.fit(runs.of(~out), target, seed).predict(runs.of(out))
        judged |= out
    return predicted, judged


def quality(predicted: Floats, measured: Floats, number: int) -> Fit:
    """Compare predictions of runs left out in so many folds, f64[N], with the measured target losses."""
    from scipy.stats import spearmanr

    error = predicted - measured
    spread = float(((measured - measured.mean()) ** 2).sum())
    varied = spread > 0 and float(np.ptp(predicted)) > 0
    return Fit(
        runs=len(measured),
        folds=number,
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
    draw_fit(proposal, folder / "fit")
    write_text(folder / "strategy.yaml", head + yaml.safe_dump(row, sort_keys=False))
    proposal.write(folder / "proposal.json")


def draw_fit(proposal: Proposal, path: Path) -> list[Path]:
    """Draw what the fit predicted and what it proposes, and return the files."""

    def panels(figure: Figure) -> None:
        agreement, mix = figure.subplots(1, 2)
        measured = [proxy.measured for proxy in proposal.proxies]
        predicted = [proxy.predicted for proxy in proposal.proxies]
        ends = (min(measured + predicted), max(measured + predicted))
        agreement.plot(ends, ends, color="0.7", linewidth=0.8)
        agreement.plot(measured, predicted, "o", color="0.15", markersize=4)
        agreement.set_xlabel("measured held-out loss of a proxy")
        agreement.set_ylabel("predicted without it")
        figure.suptitle(f"{proposal.method}: {describe_fit(proposal)}", fontsize=9, parse_math=False, wrap=True)
        names = list(proposal.weights)
        height = np.arange(len(names))[::-1]
        for proxy in proposal.proxies:
            mix.plot([proxy.weights[name] for name in names], height, "|", color="0.75", markersize=8)
        mix.plot([proposal.weights[name] for name in names], height, "o", color="0.1", label="proposed")
        mix.plot([proposal.prior[name] for name in names], height, "|", color="0.1", markersize=12, label="prior")
        mix.set_yticks(height, names, parse_math=False)
        mix.set_xlabel("weight (grey: proxies)")
        mix.legend()

    return save(path, (WIDTH, 3.0), panels)


def describe_fit(proposal: Proposal) -> str:
    """Return ``R² 0.91, rank correlation 0.88 on 16 left-out runs in 10 folds``."""
    fit = proposal.fit
    r2, rank = ("–" if value is None else f"{value:.2f}" for value in (fit.r2, fit.rank_correlation))
    return f"R² {r2}, rank correlation {rank} on {fit.runs} left-out runs in {fit.folds} folds"
