"""From a recipe to a proposed mix: plan the proxy runs, run what is missing, measure, fit, and write it down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from harness.conductor import conduct
from harness.errors import MoemixError, StageFailed, nearest, unknown
from harness.files import hash_value, write_text
from harness.plan import Plan, PlannedRun, build
from harness.progress import progress
from harness.provenance import provenance
from harness.recipe import Evaluation, Recipe, Strategy
from harness.records import RunManifest
from harness.store import Store
from trainers.mixing.base import Floats
from trainers.proposals.design import proxy_mixes
from trainers.proposals.laws import Law, folds
from trainers.proposals.records import Fit, HeldOut, Proposal, ProposalCost, ProxyRun

PROXIES = "proxies"  # their folder in the store: they are runs like any other, and no rows of the recipe's table


@dataclass(frozen=True)
class Request:
    """What to propose.

    Attributes:
        recipe: what the proxies run, overrides applied.
        overrides: those, to be told.
        run_examples: examples of one run of the recipe without them.
        model: name of the model that proxies are trained from; None for the recipe's first.
        proxies: how many runs.
        prior, target: source → share; None for even ones.
        seed: of the design and the search.
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
    """Run the proxies that are not done yet, and write the proposal. Run again after an interruption, it goes on.

    Returns:
        the folder of ``proposal.json``, ``strategy.yaml`` (a row for a recipe) and ``fit.png``.

    Raises:
        MoemixError: the request does not fit the recipe.
        StageFailed: a proxy failed.
    """
    names = sorted(source.name for source in request.recipe.data.sources)
    prior_K = shares(request.prior, names, "prior")
    target_K = shares(request.target, names, "target")
    if request.proxies < law.fewest(len(names)):
        raise MoemixError(
            f"{request.proxies} proxies are too few for {law.name} over {len(names)} sources",
            where="--proxies",
            hint=f"at least {law.fewest(len(names))}; the more, the better the fit",
        )
    bare = [source.name for source in request.recipe.data.sources if not source.probe_examples]
    if bare:
        raise MoemixError(
            "holds out no examples, and what a mix is worth is measured on them",
            where=f"source {bare[0]}",
            hint=f"--set data.sources.{bare[0]}.probe_examples=100",
        )
    mixes_NK = proxy_mixes(prior_K, request.proxies, request.seed)
    plan = build(proxy_recipe(request, names, mixes_NK), store, data_root)
    outcome = conduct(plan)
    if outcome.failed:
        job, reason = next(iter(outcome.failed.items()))
        raise StageFailed(f"{len(outcome.failed)} proxies failed; {job}: {reason}")
    measured = _measure(plan)
    proposal = _proposal(law, request, names, prior_K, target_K, plan.runs, measured, store)
    identity = {"runs": [proxy.run for proxy in proposal.proxies], "target": proposal.target, "seed": request.seed}
    name = f"{law.name}-{request.proxies}-{hash_value(identity)[:8]}"
    folder = out or store.root / PROXIES / request.recipe.name / name
    write(proposal, folder)
    return folder


def shares(given: dict[str, float] | None, names: Sequence[str], what: str) -> Floats:
    """f64[K], even if nothing is given; sources that are not named get nothing."""
    if given is None:
        return np.full(len(names), 1.0 / len(names))
    for name, share in given.items():
        if name not in names:
            raise unknown("source", name, names, where=f"--{what}")
        if not (np.isfinite(share) and share >= 0):
            raise MoemixError(f"{share} is no share", where=f"--{what} {name}")
    found = np.array([given.get(name, 0.0) for name in names])
    if what == "prior" and not found.all():
        missing = names[int(found.argmin())]
        raise MoemixError(f"gives {missing!r} nothing, so no proxy would try it", where="--prior")
    if not found.sum():
        raise MoemixError("nothing counts", where=f"--{what}")
    total: Floats = found / found.sum()
    return total


def proxy_recipe(request: Request, names: Sequence[str], mixes_NK: Floats) -> Recipe:
    """The recipe of the proxy runs: one model, one seed, a row of fixed weights for each mix, no evaluation."""
    recipe = request.recipe
    models = {model.name: model for model in recipe.models}
    if request.model is not None and request.model not in models:
        raise MoemixError(f"the recipe has no model {request.model!r}", hint=nearest(request.model, models))
    rows = tuple(
        Strategy(name="static", label=f"proxy-{i:04}", options={"weights": dict(zip(names, mix.tolist(), strict=True))})
        for i, mix in enumerate(mixes_NK)
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


def _measure(plan: Plan) -> list[HeldOut]:
    from trainers.proposals.held_out import held_out

    with progress("held-out losses", len(plan.runs)) as bar:
        return held_out([planned.run for planned in plan.runs], bar.advance)


def _proposal(
    law: type[Law],
    request: Request,
    names: Sequence[str],
    prior_K: Floats,
    target_K: Floats,
    runs: Sequence[PlannedRun],
    measured: Sequence[HeldOut],
    store: Store,
) -> Proposal:
    manifests = [planned.run.manifest for planned in runs]
    mixes_NK = np.array([[m.config.strategy.options["weights"][name] for name in names] for m in manifests])
    losses_NK = np.array([[each.losses[name] for name in names] for each in measured])
    if not np.isfinite(losses_NK).all():
        raise StageFailed("a proxy's held-out loss is not a finite number", hint="see held_out.json in its folder")
    started = time.perf_counter()
    fitted = law.fit(mixes_NK, losses_NK, target_K, request.seed)
    weights_K = fitted.best(prior_K, request.seed)
    predicted_N = cross_validated(law, mixes_NK, losses_NK, target_K, request.seed)
    fit_seconds = time.perf_counter() - started
    target_N = losses_NK @ target_K
    return Proposal(
        method=law.name,
        source=law.source,
        recipe=request.recipe.name,
        overrides=request.overrides,
        model=runs[0].model,
        seed=request.seed,
        prior=_named(names, prior_K),
        target=_named(names, target_K),
        weights=_named(names, np.round(weights_K, 6)),
        predicted=float(fitted.predict(weights_K[None])[0]),
        at_prior=float(target_N[0]),
        lowest_measured=float(target_N.min()),
        fit=quality(predicted_N, target_N),
        cost=_cost(manifests, measured, fit_seconds, request.run_examples),
        proxies=tuple(
            ProxyRun(
                run=str(planned.run.folder.relative_to(store.root)),
                weights=_named(names, mix),
                losses=each.losses,
                measured=float(target),
                predicted=float(predicted),
            )
            for planned, mix, each, target, predicted in zip(
                runs, mixes_NK, measured, target_N, predicted_N, strict=True
            )
        ),
        provenance=provenance(),
    )


def cross_validated(law: type[Law], mixes_NK: Floats, losses_NK: Floats, target_K: Floats, seed: int) -> Floats:
    """f64[N], each run's target by a law fitted without the runs of its fold."""
    predicted_N = np.empty(len(mixes_NK))
    for out in folds(len(mixes_NK)):
        fitted = law.fit(mixes_NK[~out], losses_NK[~out], target_K, seed)
        predicted_N[out] = fitted.predict(mixes_NK[out])
    return predicted_N


def quality(predicted_N: Floats, measured_N: Floats) -> Fit:
    """How well predictions of runs left out agree with what was measured."""
    from scipy.stats import spearmanr

    error_N = predicted_N - measured_N
    spread = float(((measured_N - measured_N.mean()) ** 2).sum())
    varied = spread > 0 and float(np.ptp(predicted_N)) > 0
    return Fit(
        runs=len(measured_N),
        folds=len(folds(len(measured_N))),
        r2=1.0 - float((error_N**2).sum()) / spread if spread > 0 else None,
        rank_correlation=float(spearmanr(predicted_N, measured_N).statistic) if varied else None,
        error=float(np.sqrt((error_N**2).mean())),
    )


def _cost(
    manifests: Sequence[RunManifest], measured: Sequence[HeldOut], fit_seconds: float, run_examples: int
) -> ProposalCost:
    results = [manifest.result for manifest in manifests if manifest.result is not None]
    examples = sum(result.examples for result in results)
    return ProposalCost(
        runs=len(results),
        steps=sum(result.steps for result in results),
        examples=examples,
        tokens=sum(result.tokens for result in results),
        train_seconds=sum(result.seconds for result in results),
        measure_seconds=sum(each.seconds for each in measured),
        fit_seconds=fit_seconds,
        of_a_run=examples / run_examples,
    )


def _named(names: Sequence[str], values_K: Floats) -> dict[str, float]:
    return dict(zip(names, values_K.tolist(), strict=True))


def write(proposal: Proposal, folder: Path) -> None:
    """The record, the row for a recipe, and the picture of the fit."""
    from trainers.proposals.figures import draw_fit

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
