"""The landscape over mixes: what every static mix leads to, which mix is best, and how far each strategy stays behind.

Trains the quickstart's model on each mix of a grid, and under each strategy, with several seeds, and fits a Gaussian
process to the scores of the static mixes. Finished runs are kept in ``--store``, so it can be interrupted.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from harness.files import write_text
from harness.grid import Value, csv_text
from harness.plan import build
from harness.recipe import Recipe
from harness.recipe_file import load_recipe
from harness.records import EvalSummary
from harness.store import Run, Store
from leaderboards.drawing import colour, save
from leaderboards.selection import from_plan
from tests.bench.landscape_world import fit_world, losses_of, report_world, write_world
from tests.bench.report import RESULTS, Report, options
from trainers.proposals.laws import MixingLaw, ProxyLosses, RegMix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "landscape"
PARTS, LEAST = 4, 0.04  # a mix is LEAST for each source, and the rest in so many equal parts
FINE = 20  # parts of the grid on which the best mix is sought
DRAWS = 2000
SUBSETS, PROXIES = 20, 16  # how often a law is fitted, and to how many of the mixes
QUICK = 3  # strategies at the tiny size
LEAST_SPREAD = 1e-9
# All but `static`, whose rows the mixes are, and `doge_target`, which aims at sets of its own.
STRATEGIES: tuple[str | dict[str, object], ...] = (
    "none", "uniform", {"name": "dynamic", "options": {"eta": 1.0}}, "datasize", "temperature", "random", "sequential",
    "gate_load_static", "sentence_embedding", {"name": "inverse", "options": {"eta": 1.0}}, "steady",
    "steady_probability", "steady_progress", "ref_loss", "loss_softmax", "odm", "ado", "skill_it", "aioli", "doge",
    "pike", "balanced", "rnb", "dynamix_sft", "odm_exp3", "doremi", "final_static",
    {"name": "dynamic_from_sentence_embedding", "options": {"eta": 1.0}},
)  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reached:
    """What the runs of one row reached, a number for each seed.

    Attributes:
        average: points.
        losses: nats per target token, f64[seeds, sets].
        runs: one for each seed.
    """

    average: Floats
    losses: Floats
    runs: tuple[Run, ...]

    def numbers(self, measure: str) -> Floats:
        """Return one number for each seed; more is better."""
        return self.average if measure == "average" else -self.losses.mean(axis=1)


VERDICTS = {"average": "Avg, points", "held_out": "mean held-out loss, nats per target token"}
MEASURES = {"average": "Avg, points", "loss": "mean held-out loss, nats per target token (with the sign changed)"}


def grid(sources: int, parts: int) -> Floats:
    """Return every mix of equal parts on top of the least share of each source, f64[mixes, sources]."""
    places = itertools.combinations(range(parts + sources - 1), sources - 1)
    counts = [np.diff((-1, *place, parts + sources - 1)) - 1 for place in places]
    mixes: Floats = LEAST + (1 - sources * LEAST) * np.array(counts, dtype=np.float64) / parts
    return mixes


def make_recipe(seeds: int, *, quick: bool) -> tuple[Recipe, Floats]:
    """Return the quickstart with a row for each mix and strategy, and the mixes."""
    plain = load_recipe("quickstart")
    names = [source.name for source in plain.data.sources]
    mixes = grid(len(names), 1 if quick else PARTS)
    static = [
        {"name": "static", "label": f"mix_{number:02}", "options": {"weights": dict(zip(names, mix, strict=True))}}
        for number, mix in enumerate(mixes.round(6).tolist())
    ]
    tree = plain.model_dump(mode="json", exclude_defaults=True)
    tree |= {"name": "landscape", "seeds": list(range(seeds)), "judging": {"benches": []}}
    tree["strategies"] = [*static, *(STRATEGIES[:QUICK] if quick else STRATEGIES)]
    if quick:
        tree["training"] |= {"steps": 8, "save_every": 8}
        tree["mixing"] |= {"interval": 2}
        tree["evaluation"] |= {"limit": 4}
        tree["models"][0]["pretrain"] = None
    return Recipe.model_validate(tree), mixes


def measure(recipe: Recipe, store: Path) -> dict[str, Reached]:
    """Return what each row reached, by its label, with the seeds in order."""
    found: dict[str, list[tuple[float, Run]]] = defaultdict(list)
    for planned in build(recipe, Store(store), None).runs:
        summary = EvalSummary.read(planned.evaluations["quickstart"] / "summary.json")
        value = summary.columns["average"].value
        assert value is not None
        found[planned.config.strategy.label].append((100 * value, planned.run))
    return {
        label: Reached(
            np.array([average for average, _ in seeds]), losses_of(runs := [run for _, run in seeds]), (*runs,)
        )
        for label, seeds in found.items()
    }


class Surface:
    """A Gaussian process over log-shares, fitted to the means over seeds; their error is known from the seeds."""

    def __init__(self, mixes: Floats, values: Floats) -> None:
        """Fit it.

        Args:
            mixes: f64[mixes, sources].
            values: f64[mixes, seeds].
        """
        # over seeds, pooled; at the tiny size all scores may be the same
        self.spread = float(np.sqrt(values.var(axis=1, ddof=1).mean())) or LEAST_SPREAD
        means = values.mean(axis=1)
        self._centre, self._scale = float(means.mean()), float(means.std()) or LEAST_SPREAD
        error = self.spread**2 / values.shape[1] / self._scale**2
        kernel = ConstantKernel(1.0, (0.05, 50.0)) * RBF(np.ones(mixes.shape[1]), (0.2, 30.0))
        self._fit = GaussianProcessRegressor(kernel, alpha=error, n_restarts_optimizer=5, random_state=0)
        self._fit.fit(np.log(mixes), (means - self._centre) / self._scale)
        self.signal_to_noise = self._scale / self.spread

    def draws(self, mixes: Floats) -> Floats:
        """Return draws from what is known of the surface, f64[DRAWS, mixes]."""
        drawn: Floats = self._fit.sample_y(np.log(mixes), DRAWS, random_state=0).T
        return self._centre + self._scale * drawn


def interval(values: Floats, digits: int) -> str:
    """Return the median with the 95 % interval."""
    low, middle, high = np.quantile(values, (0.025, 0.5, 0.975))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def regrets_of_laws(mixes: Floats, losses: Floats, fine: Floats, drawn: Floats) -> dict[str, Floats]:
    """Return how far the mix that a law proposes stays behind the best, for laws fitted to some of the mixes.

    Args:
        mixes: f64[mixes, sources].
        losses: of one seed, f64[mixes, sets].
        fine: the mixes on which the surface is known.
        drawn: the surface there, f64[draws, fine mixes]; more is better.
    """
    rng = np.random.default_rng(0)
    uniform = np.full(mixes.shape[1], 1 / mixes.shape[1])
    target = np.full(losses.shape[1], 1 / losses.shape[1])
    best, middle = drawn.max(axis=1), drawn.mean(axis=0)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(SUBSETS):
        some = rng.choice(len(mixes), min(PROXIES, len(mixes)), replace=False)
        for law in (MixingLaw, RegMix):
            proposed = law.fit(ProxyLosses(mixes[some], losses[some]), target, 0).best(uniform, 0)
            nearest = int(np.abs(fine - proposed).sum(axis=1).argmin())
            found[law.name].append(float(best.mean() - middle[nearest]))
    return {name: np.array(values) for name, values in found.items()}


def records_of(
    rows: Mapping[str, Reached], mixes: Mapping[str, Sequence[float]], names: Sequence[str]
) -> list[dict[str, Value]]:
    """Return a record for each run; ``mixes`` has the weights of the first rows, the static ones."""
    records = []
    for label, row in rows.items():
        shares = mixes.get(label, [None] * len(names))
        for seed, (average, losses) in enumerate(zip(row.average, row.losses, strict=True)):
            record: dict[str, Value] = {"row": label, "seed": seed, "average": float(average)}
            record |= {f"weight of {name}": share for name, share in zip(names, shares, strict=True)}
            record |= {f"loss of {name}": float(loss) for name, loss in zip(sorted(names), losses, strict=True)}
            records.append(record)
    return records


def draw(mixes: Floats, averages: Sequence[float], names: Sequence[str], path: Path) -> None:
    """Draw the score of every mix over the share of each source."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(names), sharey=True)
        for place, (axes, name) in enumerate(zip(panels, names, strict=True)):
            axes.plot(100 * mixes[:, place], averages, "o", color=colour(0, 1), markersize=4, alpha=0.7)
            shares = np.unique(mixes[:, place])
            middles = [
                float(np.mean([a for a, w in zip(averages, mixes[:, place], strict=True) if w == share]))
                for share in shares
            ]
            axes.plot(100 * shares, middles, "-", color="0.4")
            axes.set_xlabel(f"{name}, % of the draws")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("Avg")

    save(path, (10, 3), paint)


def report_verdicts(report: Report, recipe: Recipe, store: Path) -> None:
    """Say which strategies differ from `uniform`: those of the recipe without its mixes, as their own table."""
    report.say("## Strategies against `uniform`")
    report.say(
        f"Differences ± standard error over {len(recipe.seeds)} seeds. \\* is significant at 5 % in the family of all"
        " comparisons of the table, = is surely smaller than the margin (`docs/statistics.md`)."
    )
    strategies = tuple(row for row in recipe.strategies if not row.label.startswith("mix_"))
    plan = build(recipe.model_copy(update={"strategies": strategies}), Store(store), None)
    (table,) = from_plan(plan).compare()[0].tables
    rows, decided = [], defaultdict(list)
    for row in table.rows:
        cells = [row.label]
        for name in VERDICTS:
            test, (scale, digits) = row.cells[name].to_base, (100, 1) if name == "average" else (1, 3)
            if test is None:
                cells.append("—")
                continue
            value, error = scale * test.difference.value, scale * test.difference.se
            cells.append(f"{value:+.{digits}f} ± {error:.{digits}f}{test.sign}")
            if test.verdict != "undecided":
                decided[name, test.verdict].append(row.label)
        rows.append(cells)
    report.table(rows, ("strategy", *VERDICTS.values()))
    for (name, verdict), labels in sorted(decided.items()):
        text = VERDICTS[name].split(",")[0]
        report.say(f"{text[0].upper()}{text[1:]}, {verdict}: {', '.join(f'`{label}`' for label in labels)}.")
    if not any(verdict == "better" for _, verdict in decided):
        report.say("No strategy is better than `uniform`.")


def main() -> None:
    """Train what is missing, fit the surfaces, and write the page with its data."""
    given = options(
        store={"metavar": "DIR", "type": Path, "help": "folder of the runs", "default": Path("runs")},
        seeds={"type": int, "help": "seeds of each row", "default": 3},
    )
    recipe, mixes = make_recipe(given.seeds, quick=given.quick)
    path = given.store / "landscape.yaml"
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
    command = [sys.executable, "-m", "harness.cli", "bench", str(path), "--store", str(given.store)]
    subprocess.run(command, check=True)
    rows = measure(recipe, given.store)
    static = [rows[f"mix_{number:02}"] for number in range(len(mixes))]
    names = [source.name for source in recipe.data.sources]
    report = Report(
        NAME,
        "The landscape over mixes",
        f"What the quickstart's model reaches on {len(mixes)} static mixes and under"
        f" {len(recipe.strategies) - len(mixes) - 1} strategies, {given.seeds} seeds each, and before training"
        " (`none`). A Gaussian process over the logarithms of the shares is fitted to the static mixes; its best point"
        " is sought among mixes of"
        f" {FINE} parts. The regret of a strategy is the best mix's value minus its own. Intervals hold 95 % of what"
        " the seeds leave open.",
        quick=given.quick,
        folder=RESULTS,
    )
    fine = grid(len(names), FINE)
    regrets: dict[str, dict[str, str]] = defaultdict(dict)
    for name, title in MEASURES.items():
        digits = 1 if name == "average" else 3
        surface = Surface(mixes, np.array([row.numbers(name) for row in static]))
        drawn = surface.draws(fine)
        best = fine[drawn.argmax(axis=1)]
        report.say(f"## {title[0].upper()}{title[1:]}")
        report.say(
            f"Standard deviation over seeds: {surface.spread:.{digits + 1}f}. Standard deviation of the mixes' means:"
            f" {surface.signal_to_noise * surface.spread:.{digits + 1}f}, so signal to noise is"
            f" {surface.signal_to_noise:.1f}. The best mix reaches {interval(drawn.max(axis=1), digits)}."
        )
        shares = [(source, interval(100 * best[:, place], 0)) for place, source in enumerate(names)]
        report.table(shares, ("source", "share in the best mix, %"))
        for label, row in rows.items():
            if not label.startswith("mix_"):
                values = row.numbers(name)
                noise = np.random.default_rng(1).normal(0.0, surface.spread / np.sqrt(len(values)), DRAWS)
                regrets[label][name] = interval(drawn.max(axis=1) - values.mean() + noise, digits)
        for law, behind in regrets_of_laws(mixes, np.array([row.losses[0] for row in static]), fine, drawn).items():
            regrets[f"{law}, from {min(PROXIES, len(mixes))} mixes with one seed"][name] = interval(behind, digits)
    report.say("## Regret of each strategy")
    report.table([(label, *values.values()) for label, values in regrets.items()], ("strategy", *MEASURES.values()))
    report_verdicts(report, recipe, given.store)
    by_name = mixes[:, np.argsort(names)]
    world, curves, losses = fit_world(
        recipe,
        by_name,
        [row.runs for row in static],
        rows["none"].runs[0],
        rows["uniform"].runs[0],
        rows["dynamic"].runs,
    )
    trained = {label: row.losses.mean(axis=1) for label, row in rows.items() if not label.startswith("mix_")}
    report_world(report, world, curves, by_name, losses, trained, recipe, quick=given.quick)
    report.say(
        f"Every run is in [{NAME}.csv]({NAME}.csv). ![The score of each mix over the share of each source]({NAME}.png)"
    )
    report.save()
    if not given.quick:
        write_world(world)
        records = records_of(rows, dict(zip(rows, mixes.round(6).tolist(), strict=False)), names)
        write_text(RESULTS / f"{NAME}.csv", csv_text(list(records[0]), records))
        draw(mixes, [row.average.mean() for row in static], names, RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
