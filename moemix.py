"""The Python interface of moemix: what the command line does, for notebooks and scripts.

    import moemix

    recipe = moemix.recipe("quickstart", seeds=[0])
    moemix.bench(recipe)                       # run everything that is not done, and return the table
    moemix.table(recipe).to_pandas()           # one row per number

Every function raises ``harness.errors.MoemixError`` where the input is not valid, and its ``StageError`` where a job
failed. Nothing heavy is imported before a function needs it. ``docs/python.md`` shows all functions at work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from harness.jobs import Plan
    from harness.judging import JudgeSummary
    from harness.recipe import Recipe
    from harness.records import EvalSummary
    from harness.store import Run, Store
    from leaderboards.table import Comparison
    from trainers.mixing import MixingStrategy

    AnyPath = str | PathLike[str]
    AnyRecipe = Recipe | AnyPath | Mapping[str, object]

__version__ = metadata.version("moemix")
__all__ = [
    "Board",
    "Table",
    "bench",
    "board",
    "evaluate",
    "judge",
    "load_strategy",
    "plan",
    "recipe",
    "register",
    "table",
    "train",
]


def recipe(source: AnyRecipe, **changes: object) -> Recipe:
    """Return a recipe with some of its keys changed.

    Args:
        source: the name of a built-in recipe, a YAML file, a mapping with the keys of a recipe, or a recipe.
        **changes: keys and their new values. A mapping changes only the keys in it:
            ``recipe("quickstart", training={"steps": 100})``. Dotted keys work too: ``**{"training.steps": 100}``.
    """
    from harness.recipe import Recipe as RecipeModel
    from harness.recipe_file import load_recipe, override
    from harness.schema import parse

    if isinstance(source, Mapping):
        base = parse(RecipeModel, {"name": "notebook", **source}, where="the recipe")
    else:
        base = source if isinstance(source, RecipeModel) else load_recipe(str(source))
    return override(base, dict(_dotted(changes)))


def plan(source: AnyRecipe, *, store: AnyPath | None = None, data_root: AnyPath | None = None) -> Plan:
    """Check a recipe, and return every job that it needs, done or not (``job.done``). Nothing is started.

    Args:
        source: as in :func:`recipe`.
        store: folder of all runs; default: ``MOEMIX_STORE``, else ``runs``.
        data_root: folder of local data files; default: ``MOEMIX_DATA_ROOT``, else the hub is used.
    """
    from harness.checks import check
    from harness.plan import build

    tree, runs, root = recipe(source), _store(store), _data(data_root)
    check(tree, runs, root)
    return build(tree, runs, root)


def bench(
    source: AnyRecipe,
    *,
    store: AnyPath | None = None,
    data_root: AnyPath | None = None,
    until_decided: bool = False,
    budget: float | None = None,
    unsafe_code: bool = False,
) -> Table:
    """Run a recipe and return its comparison table; the first arguments and errors are as in :func:`plan`.

    What is done already is kept. A job that fails is logged and does not stop the others; its row in the table has
    the reason. After an interrupt, the same call goes on.

    ``until_decided`` adds seeds where a primary comparison is open, up to the recipe's ``comparisons.most_seeds``;
    ``budget`` is the hours that the jobs of all runs may then take, one after the other. ``unsafe_code`` runs generated
    programs without a sandbox where none works, at your own risk.
    """
    from harness.bench import run_bench
    from harness.errors import MoemixError
    from leaderboards.looks import select

    if budget is not None and not until_decided:
        raise MoemixError("`budget` needs `until_decided=True`", where="moemix.bench")
    _log()
    done = run_bench(
        plan(source, store=store, data_root=data_root),
        until_decided=until_decided,
        budget=budget,
        unsafe_code=unsafe_code,
    )
    return Table(tuple(select(done.plan, done.first).compare()))


def train(
    source: AnyRecipe,
    strategy: str = "dynamic",
    *,
    model: str | None = None,
    seed: int | None = None,
    store: AnyPath | None = None,
    data_root: AnyPath | None = None,
) -> Run:
    """Train one model of a recipe under one mixing strategy, and return the finished run.

    ``strategy`` is the label of a row of the recipe, or any strategy's name; ``model`` and ``seed`` are by default the
    recipe's first; the rest is as in :func:`plan`. The run has ``folder``, ``checkpoint`` (a folder that transformers
    loads) and ``manifest``.
    """
    from harness.checks import check
    from harness.conductor import run_only
    from harness.plan import training_job, with_row
    from harness.store import Run

    _log()
    tree, runs, root = recipe(source), _store(store), _data(data_root)
    check(with_row(tree, strategy)[0], runs, root)
    planned, job = training_job(tree, strategy, model, seed, runs, root)
    run_only(planned, job.id)
    return Run(job.folder)


def evaluate(
    checkpoint: Run | AnyPath,
    suite: str,
    out: AnyPath | None = None,
    *,
    data_root: AnyPath | None = None,
    **settings: object,
) -> EvalSummary:
    """Score a checkpoint on a suite. The same call resumes, or returns the scores if it is finished.

    Args:
        checkpoint: a run, a folder, or a hub id.
        suite: a suite's name or YAML file (``moemix suites``).
        out: folder of the results; needed unless ``checkpoint`` is a run.
        data_root: folder of local benchmark files; default: that of the run, else ``MOEMIX_DATA_ROOT``.
        **settings: ``tasks``, ``limit``, ``engine``, ``dtype``, ``seed`` and ``questions``, as in ``moemix eval``.
    """
    from evals import runner
    from harness.errors import MoemixError
    from harness.requests import EvalJobRequest

    _log()
    config = runner.request_for(suite, where="moemix.evaluate", **settings)
    folder, run = _checkpoint(checkpoint)
    target = run.eval_folder(config) if run and out is None else out
    if target is None:
        raise MoemixError("`out` is missing: the folder of the results", hint="only a run has one of its own")
    job = EvalJobRequest(config=config, checkpoint=folder, out=Path(target), data_root=_data(data_root, run))
    return runner.evaluate(job)


def judge(
    checkpoint: Run | AnyPath | None, bench: str, out: AnyPath, *, data_root: AnyPath | None = None, **settings: object
) -> JudgeSummary:
    """Judge the answers of a checkpoint to a bench. The same call resumes, or returns the verdicts if it is finished.

    Args:
        checkpoint: a run, a folder, or a hub id; None if ``answers`` names FastChat files.
        bench: name of a bench, or a JSONL file of questions.
        out: folder of the results.
        data_root: folder of local files; default: that of the run, else ``MOEMIX_DATA_ROOT``.
        **settings: the options of ``moemix judge``, with underscores: ``judge_url=("http://…/v1",)``,
            ``judge_model=("name",)``, ``repeats=3``. Without a judge, answers that can be checked are checked.
    """
    from evals.judge.cli import run as command
    from evals.judge.qualify import judge_tested
    from evals.judge.run import request_from
    from harness.errors import unknown

    _log()
    options = command.make_context("judge", ["--out", str(out)]).params
    options = {name: value for name, value in options.items() if name != "request"}
    for name in settings:
        if name not in options:
            raise unknown("setting", name, options, where="moemix.judge")
    folder, run = (None, None) if checkpoint is None else _checkpoint(checkpoint)
    given = {"checkpoint": folder, "bench": bench, "out": Path(out), "data_root": _data(data_root, run)}
    return judge_tested(request_from(**{**options, **given, **settings}))


def table(
    *targets: Recipe | Plan | Run | AnyPath | Mapping[str, object],
    suite: str | None = None,
    baseline: str | None = None,
    checkpoints: bool = False,
    until_decided: bool = False,
    store: AnyPath | None = None,
    data_root: AnyPath | None = None,
) -> Table:
    """Compare the runs of recipes or plans, or runs and folders of runs, in one table.

    ``suite`` selects one suite; ``baseline`` is the label of the row that differences are taken to (default: the
    recipe's); ``checkpoints`` compares every run as a checkpoint, and not strategies over their seeds;
    ``until_decided`` shows what ``bench(recipe, until_decided=True)`` decided; the rest is as in :func:`plan`.
    """
    import dataclasses

    from harness.errors import MoemixError
    from harness.jobs import Plan
    from harness.plan import build
    from harness.store import Run
    from leaderboards.cli import BASELINE
    from leaderboards.looks import decided
    from leaderboards.selection import Selection, from_folders, from_plan, joined

    def selected(target: Recipe | Plan | Run | AnyPath | Mapping[str, object]) -> Selection:
        if isinstance(target, Run):
            folder = target.folder
        elif isinstance(target, str | PathLike) and Path(target).is_dir():
            folder = Path(target)
        else:
            planned = target if isinstance(target, Plan) else build(recipe(target), _store(store), _data(data_root))
            return decided(planned) if until_decided else from_plan(planned)
        if until_decided:
            raise MoemixError("`until_decided` is for a recipe, and these are runs", where=str(folder))
        return from_folders([folder], BASELINE)

    if until_decided and (len(targets) != 1 or baseline is not None):
        raise MoemixError("`until_decided` takes one recipe, with its own baseline", where="moemix.table")
    selection = dataclasses.replace(joined([selected(target) for target in targets]), checkpoints=checkpoints)
    if baseline is not None:
        selection = dataclasses.replace(selection, baseline=baseline)
    return Table(tuple(selection.compare(suite)))


@dataclass(frozen=True)
class Table:
    """A comparison of runs. ``print(table)`` shows it, a notebook displays it, and it converts to every format."""

    comparisons: tuple[Comparison, ...]

    def render(self, style: str) -> str:
        """Return the table as ``terminal``, ``markdown``, ``latex``, ``html``, ``csv`` or ``json``."""
        from leaderboards.exports import render

        return render(self.comparisons, style)

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row per number: suite, model, strategy, seed, quantity, name, value, stderr, n, and more."""
        import io

        import pandas

        return pandas.read_csv(io.StringIO(self.render("csv")))

    def __str__(self) -> str:
        return self.render("terminal")

    def _repr_markdown_(self) -> str:
        return self.render("markdown")


def board(address: AnyPath) -> Board:
    """Return the leaderboard whose site is at a web address, or in a folder that ``moemix board build`` wrote."""
    return Board(str(address).removesuffix("index.html").rstrip("/"))


@dataclass(frozen=True)
class Board:
    """A leaderboard's site, of which ``board.csv`` is read."""

    address: str

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row for each score: suite, rank, model, strategy, seed, column, score, lower, upper, and more.

        Raises:
            MoemixError: the site cannot be read.
        """
        import pandas

        from harness.errors import MoemixError

        try:
            return pandas.read_csv(f"{self.address}/board.csv")
        except (OSError, ValueError) as error:
            raise MoemixError(f"no leaderboard can be read here: {error}", where=self.address,
                              hint="give the address of a site's first page, or its folder") from None  # fmt: skip


def load_strategy(name: str, /, **options: object) -> MixingStrategy:
    """Return the mixing strategy of this name with these options; see :func:`trainers.mixing.load_strategy`."""
    from trainers.mixing import load_strategy as load

    return load(name, **options)


def register(strategy: type[MixingStrategy], *, store: AnyPath | None = None) -> str:
    """Make a strategy that was written in a notebook or script known by a name that recipes take.

    Its source code is written to a file in the store, with the imports, constants and functions that it uses, because
    training runs in other processes. The hash of that file is part of a run's identity: an edited class gives new runs.

    Returns:
        the name, ``path/to/file.py:ClassName``; as a row of a recipe: ``recipe(…, strategies=["uniform", name])``.
    """
    from harness.plugins import write_source

    name = f"{write_source(strategy, _store(store).root / '_strategies')}:{strategy.__name__}"
    load_strategy(name)
    return name


def _dotted(changes: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in changes.items():
        if isinstance(value, Mapping) and value and "kind" not in value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checkpoint(checkpoint: Run | AnyPath) -> tuple[Path, Run | None]:
    """Return a checkpoint's folder, and the run that it belongs to."""
    from harness.checkpoint_argument import CheckpointArgument
    from harness.store import Run

    if isinstance(checkpoint, Run):
        return checkpoint.checkpoint, checkpoint
    return CheckpointArgument().convert(str(checkpoint), None, None), None


def _data(given: AnyPath | None, run: Run | None = None) -> Path | None:
    from harness.store import data_root

    return data_root(str(given) if given else run.manifest.data_root if run else None)


def _store(given: AnyPath | None) -> Store:
    from harness.store import Store, store_root

    return Store(store_root(str(given) if given else None))


def _log() -> None:
    """Show progress messages, unless the program has set up logging."""
    from harness.progress import log_to_stderr

    log_to_stderr()
