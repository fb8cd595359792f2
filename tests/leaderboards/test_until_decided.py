"""``moemix bench --until-decided``: seeds are added where a comparison is open, and verdicts are kept.

The plan, the looks and the command are the real ones. In the place of training and evaluation stand drawn scores.
"""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
from run_records import PROVENANCE, columns_of, sample_line, train_result, write_samples

import moemix
from harness import until_decided
from harness.commands import bench
from harness.errors import MoemixError
from harness.plan import build
from harness.process import Outcome
from harness.recipe_file import load_recipe
from harness.records import EvalResult, EvalSummary, RunManifest, Stage
from harness.requests import EvalJobRequest, ModelJobRequest, TrainJobRequest
from harness.statistics.estimates import ALPHA
from harness.statistics.sequential import levels, looks
from harness.store import Store
from harness.until_decided import with_most_seeds
from leaderboards.cli import table
from leaderboards.looks import decided
from tests.harness.statistics.test_simulations import whole_table

SKILL = {"none": 0.1, "uniform": 0.5, "dynamic": 0.9, "datasize": 0.5, "random": 0.56}
HOUR = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00", "status": "done"}
OVERRIDES = ("strategies=[none, uniform, dynamic, random]", "judging.benches=[]", "comparisons.most_seeds=8")
OPTIONS = tuple(part for override in OVERRIDES for part in ("--set", override))


def finish(job) -> None:
    """Write the records that the job would have left."""
    request, folder = job.request, job.folder
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(request, ModelJobRequest):
        job.prepare()
        manifest = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(manifest | {"stage": Stage(**HOUR).model_dump()}))
    elif isinstance(request, TrainJobRequest):
        RunManifest(
            run_id=request.config.id, recipe=request.recipe, config=request.config, base_checkpoint="base",
            stages={"train": Stage(**HOUR)}, checkpoint_hash="c" * 64, provenance=PROVENANCE,
            result=None if request.config.strategy.name == "none" else train_result((0.2, 0.3, 0.5)),
        ).write(folder / "run.json")  # fmt: skip
    else:
        assert isinstance(request, EvalJobRequest)
        config = json.loads((job.run / "run.json").read_text())["config"]
        label = config["strategy"]["label"]
        generator = np.random.default_rng([config["seed"], *label.encode()])
        lines = [sample_line(i, "facts", {"acc": float(generator.random() < SKILL[label])}, "none") for i in range(300)]
        write_samples(folder, "facts", lines)
        value = float(np.mean([line["acc"] for line in lines]))
        result = EvalResult(
            task="facts", metric="acc", value=value, stderr=None, n=300, shots=0, task_version="1", prompt_hash="p",
        )  # fmt: skip
        EvalSummary(
            request=request.config, checkpoint="checkpoint", checkpoint_hash="c" * 64, engine={"name": "transformers"},
            results=(result,), columns=columns_of([result]), seconds=1.0, provenance=PROVENANCE,
        ).write(folder / "summary.json")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with the generated data."""
    root = tmp_path_factory.mktemp("world")
    build(load_recipe("quickstart"), Store(root), None)
    return root


@pytest.fixture
def drawn(monkeypatch, world, tmp_path):
    """The jobs of each call of the conductor, which writes drawn scores."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    calls = []

    def conduct(plan, jobs):
        todo = [job for job in jobs if not job.done]
        calls.append([job for job in todo if job.kind == "train"])
        for job in todo:
            finish(job)
        return Outcome(done=[job.id for job in jobs])

    monkeypatch.setattr(until_decided, "conduct", conduct)
    return calls


def planned(tmp_path):
    return build(load_recipe("quickstart", OVERRIDES), Store(tmp_path), None)


def run(tmp_path, *more: str) -> int:
    arguments = ["quickstart", "--store", str(tmp_path), *OPTIONS, "--until-decided", *more]
    return bench.main(arguments, standalone_mode=False) or 0


def labels(jobs) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for job in jobs:
        found.setdefault(job.request.config.strategy.label, []).append(job.request.config.seed)
    return found


def test_seeds_are_added_only_where_a_comparison_is_open_and_its_verdicts_are_shown(tmp_path, drawn, caplog, capfd):
    caplog.set_level(logging.INFO, logger="moemix.harness")
    assert run(tmp_path) == 0
    text = capfd.readouterr().out
    assert labels(drawn[0]) == {"none": [0], "uniform": [0, 1, 2], "dynamic": [0, 1, 2], "random": [0, 1, 2]}
    assert labels(drawn[1]) == {"uniform": [3, 4], "random": [3, 4]}  # dynamic and none are decided
    assert "1 primary comparisons are open: tiny · random · facts" in caplog.text
    table.main(
        ["quickstart", "--store", str(tmp_path), *OPTIONS, "--until-decided", "--format", "json"], standalone_mode=False
    )
    rows = {row["strategy"]: row for row in json.loads(capfd.readouterr().out)["comparisons"][0]["tables"][0]["rows"]}
    assert "Seeds were added until the primary comparisons were decided" in text
    dynamic = rows["dynamic"]["cells"]["facts"]["difference"]
    assert (dynamic["verdict"], dynamic["seeds"], dynamic["level"]) == ("better", 3, levels(looks(3, 8))[0])
    assert rows["dynamic"]["seeds"] == [0, 1, 2]
    assert len(rows["random"]["seeds"]) == len(rows["uniform"]["seeds"]) > 3
    before = len(drawn)
    run(tmp_path)  # everything is there, so nothing runs
    assert capfd.readouterr().out == text
    assert len(drawn) == before


def test_python_decides_as_the_command_line_does(tmp_path, drawn, capfd):
    assert run(tmp_path) == 0
    text = capfd.readouterr().out
    before = len(drawn)
    recipe = moemix.recipe(load_recipe("quickstart", OVERRIDES))
    assert str(moemix.bench(recipe, store=tmp_path, until_decided=True)) == text
    assert str(moemix.table(recipe, store=tmp_path, until_decided=True)) == text
    assert len(drawn) == before
    assert str(moemix.table(recipe, store=tmp_path)) != text
    with pytest.raises(MoemixError, match="with its own baseline"):
        moemix.table(recipe, until_decided=True, baseline="none")
    with pytest.raises(MoemixError, match="these are runs"):
        moemix.table(tmp_path / "quickstart", until_decided=True)
    with pytest.raises(MoemixError, match="until_decided=True"):
        moemix.bench(recipe, store=tmp_path, budget=2.0)


def test_the_budget_ends_it_with_a_sentence_and_the_next_command_goes_on(tmp_path, drawn, caplog):
    caplog.set_level(logging.INFO, logger="moemix.harness")
    assert run(tmp_path, "--budget", "11") == 0
    assert "4 more runs would make 14.00 hours of jobs in all, and the budget is 11" in caplog.text
    assert [len(jobs) for jobs in drawn] == [10]
    for label in ("uniform", "random"):  # a look that was begun changes nothing
        one = next(job for job in with_most_seeds(planned(tmp_path)).jobs if f"{label} on tiny, seed 3" in job.title)
        finish(one)
    selection = decided(planned(tmp_path))
    (found,) = selection.compare()[0].tables
    tests = [cell.to_base for row in found.rows for cell in row.cells.values() if cell.to_base]
    assert {test.level for test in tests if test.family == "primary"} == {levels(looks(3, 8))[0]}
    assert {max(row.seeds, default=0) for row in found.rows} == {0, 2}
    assert run(tmp_path, "--budget", "20") == 0
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("setting", "whose"),
    [
        ("models.tiny.overrides.seeds=[4, 5, 6]", "models.tiny"),
        ("strategies.uniform.overrides.seeds=[4, 5, 6]", "strategies.uniform"),
        (
            "models.tiny.overrides={strategies: [{name: uniform, overrides: {seeds: [4, 5, 6]}}, random]}",
            "strategies.uniform",
        ),
    ],
)
def test_models_and_rows_with_seeds_of_their_own_are_refused(tmp_path, drawn, setting, whose):
    with pytest.raises(MoemixError, match="--until-decided") as refused:
        run(tmp_path, "--set", setting)
    assert refused.value.where == f"{whose}.overrides.seeds"
    assert not drawn


def test_the_looks_spend_five_percent_and_equal_strategies_are_seldom_told_apart_at_any():
    counts = looks(3, 12)
    assert sum(levels(counts)) == pytest.approx(ALPHA)
    wrong = careless = 0
    for number in range(80):
        smallest = []
        for count in counts:
            generator = np.random.default_rng([number, count])  # looks at other data: the levels promise no less
            _, found = whole_table(generator, np.zeros(4), np.full(4, 0.2), count, 1, [(1, 0), (2, 0), (3, 0)], 200)
            smallest.append(found.adjusted.min())
        wrong += any(p < level for p, level in zip(smallest, levels(counts), strict=True))
        careless += min(smallest) < ALPHA
    assert wrong <= 9  # 4 expected at most; more than 9 has 1 %
    assert careless > wrong  # looking four times at 5 % each errs more often
