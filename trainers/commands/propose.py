"""``moemix propose``: fixed weights from proxy runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import MoemixError
from harness.options import recipe_options

if TYPE_CHECKING:
    from trainers.proposals.records import Proposal


@click.command()
@click.argument("method", metavar="regmix|mixing_law|mixmin|dmo")
@click.argument("recipe")
@click.option("--proxies", type=click.IntRange(min=1), metavar="N", default=16, show_default=True, help="Proxy runs.")
@click.option("--model", metavar="NAME", help="Which of the recipe's models.  [default: its first]")
@click.option("--prior", metavar="A=X,B=Y", help="Weights around which mixes are sampled.  [default: even]")
@click.option(
    "--target",
    metavar="A=X,B=Y",
    help="Weight of the loss of each source and target set.  [default: even over sources]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the mixes and the search."
)
@recipe_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the proposal.  [default: in the store]"
)
def propose(
    method: str,
    recipe: str,
    proxies: int,
    model: str | None,
    prior: str | None,
    target: str | None,
    seed: int,
    overrides: tuple[str, ...],
    store: str | None,
    data_root: str | None,
    out: Path | None,
) -> None:
    """Propose fixed weights for RECIPE: train proxies under many mixes, fit a law, and search its best mix.

    --set changes the proxy runs (`--set training.steps=100`), not the recipe that the weights are for. Finished
    proxies are used again, also with more --proxies or with another method where it can.
    """
    from harness.recipe_file import load_recipe
    from harness.store import Store, store_root
    from harness.store import data_root as find_data_root
    from trainers.proposals.propose import Request
    from trainers.proposals.propose import propose as run
    from trainers.proposals.records import Proposal
    from trainers.proposals.registry import law

    chosen = law(method)
    plain = load_recipe(recipe).training
    request = Request(
        recipe=load_recipe(recipe, overrides),
        overrides=overrides,
        run_examples=plain.steps * plain.batch_examples,
        model=model,
        proxies=proxies,
        prior=_shares(prior, "--prior"),
        target=_shares(target, "--target"),
        seed=seed,
    )
    folder = run(chosen, request, Store(store_root(store)), find_data_root(data_root), out)
    _report(Proposal.read(folder / "proposal.json"), folder)


def _shares(text: str | None, where: str) -> dict[str, float] | None:
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, separator, share = part.partition("=")
        try:
            if not separator or name.strip() in found:
                raise ValueError
            found[name.strip()] = float(share)
        except ValueError:
            raise MoemixError(f"{part!r} is not of the form name=weight, each name once", where=where) from None
    return found


def _report(proposal: Proposal, folder: Path) -> None:
    from harness.grid import Grid, terminal_table
    from trainers.proposals.propose import describe_fit

    best = min(proposal.proxies, key=lambda proxy: proxy.measured)
    rows = [
        (name, f"{weight:.3f}", f"{proposal.prior[name]:.3f}", f"{best.weights[name]:.3f}")
        for name, weight in proposal.weights.items()
    ]
    click.echo(terminal_table(Grid(("source", "proposed", "prior", "best proxy"), rows)))
    cost, fit = proposal.cost, proposal.fit
    click.echo(
        f"\nHeld-out loss: {proposal.predicted:.4f} predicted for the proposal, {proposal.at_prior:.4f} measured at the"
        f" prior, {proposal.lowest_measured:.4f} of the best proxy."
        f"\nFit: {describe_fit(proposal)}; error {fit.error:.4f}."
        f"\nCost: {cost.runs} runs with {cost.examples:,} examples in all ({cost.of_a_run:.2f} runs of the recipe),"
        f" {cost.train_seconds:.0f} s training, {cost.measure_seconds + cost.fit_seconds:.0f} s measuring and fitting."
    )
    if fit.r2 is None or fit.r2 <= 0:
        click.echo(
            "warning: for runs that it was not fitted on, the law predicts no better than their mean; the proposal is a"
            " guess. More or longer proxies may help.",
            err=True,
        )
    row = folder / "strategy.yaml"
    click.echo(f'\nuse it:  moemix bench {proposal.recipe} --set "strategies=[uniform, dynamic, {row}]"')
