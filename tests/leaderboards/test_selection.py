"""Which runs a comparison is of: a plan's, finished or not, or those of folders."""

from __future__ import annotations

import pytest
from run_records import config_of  # type: ignore[import-not-found]

from harness.errors import MoemixError
from harness.jobs import Plan, PlannedRun
from harness.recipe import CheckpointModel, Data, Recipe, Strategy
from harness.store import Run, Store
from leaderboards.selection import from_folders, from_plan, joined


@pytest.fixture
def plan(bench) -> Plan:
    """Two finished runs and one that never started."""
    bench.run("datasize", {"arc": [1.0, 0.0, 0.0]})
    bench.run("dynamic", {"arc": [1.0, 1.0, 0.0]})
    waiting = config_of("sequential", 0, "tiny-0123456789ab")
    runs = [(run, run.manifest.config) for run in bench.runs] + [(Run(bench.root / "bench" / "waiting"), waiting)]
    recipe = Recipe(
        name="bench",
        models=(CheckpointModel(kind="checkpoint", name="tiny", source="somewhere"),),
        data=Data(),
        strategies=(Strategy(name="datasize"),),
        baseline="datasize",
    )
    planned = (PlannedRun(run, config, "tiny", {"kr": run.folder / "evals" / "kr"}) for run, config in runs)
    return Plan(recipe, Store(bench.root), None, (), tuple(planned))


def test_a_plan_gives_every_run_a_row_and_its_recipes_baseline(plan):
    (comparison,) = from_plan(plan).compare()
    (table,) = comparison.tables
    assert comparison.suite == "kr"
    assert [row.label for row in table.rows] == ["datasize", "dynamic", "sequential"]
    assert table.rows[1].cells["arc"].difference.value == pytest.approx(1 / 3)
    assert table.rows[2].notes == ["has not run yet"]


def test_a_run_given_by_recipe_and_by_folder_comes_once(plan, bench):
    both = joined([from_plan(plan), from_folders([bench.root / "bench"], "uniform")])
    assert both.baseline == "datasize"
    assert [row.label for row in both.compare("kr")[0].tables[0].rows] == ["datasize", "dynamic", "sequential"]


def test_a_suite_that_only_some_runs_have_leaves_the_others_their_rows(bench):
    bench.run("uniform", {"arc": [1.0, 0.0]})
    bench.run("dynamic")
    (comparison,) = from_folders([run.folder for run in bench.runs], "uniform").compare()
    assert comparison.tables[0].rows[1].notes == ["not evaluated on this suite"]


def test_a_folder_without_runs_is_told(tmp_path):
    with pytest.raises(MoemixError, match="no run found"):
        from_folders([tmp_path], "uniform")
