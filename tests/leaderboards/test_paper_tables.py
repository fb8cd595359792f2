"""The paper's tables and figures from finished runs: numbers by hand, differences, error bars, every format."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from paper_records import finish, finish_all, opened  # type: ignore[import-not-found]
from scipy import stats

from harness.errors import MoemixError
from harness.files import read_json
from harness.recipe_file import load_recipe, override
from harness.records import Stage
from harness.statistics.estimates import Part, estimate
from leaderboards.mixture import read_trajectory
from leaderboards.paper.claims import CLAIMS, Finding, findings, in_words
from leaderboards.paper.cli import paper
from leaderboards.paper.figures import FIGURES, figure_data, ours_and_theirs
from leaderboards.paper.measures import compare_lines
from leaderboards.paper.presets import PRESETS
from leaderboards.paper.rendering import draw, needs, render
from leaderboards.paper.report import wall_time, write_report
from leaderboards.paper.runs import Experiments
from leaderboards.paper.specs import published, table_names
from leaderboards.paper.tables import PaperTable, fill


@pytest.fixture(scope="module")
def done(tmp_path_factory, world) -> Experiments:
    experiments = opened(world(tmp_path_factory.mktemp("store")))
    finish_all(experiments)
    return experiments


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, world) -> Experiments:
    return opened(world(tmp_path_factory.mktemp("fresh")))


def values(experiments: Experiments, strategy: str, task: str, model: str = "llama_moe") -> np.ndarray:
    """f64[S, n], read from the samples without the code under test."""
    found = []
    for planned in experiments.runs(model, strategy):
        path = experiments.scores(planned) / f"samples_{task}.jsonl"
        found.append([json.loads(line)["acc"] for line in path.read_text().splitlines()])
    return np.array(found)


def test_a_score_is_the_mean_over_seeds_with_the_error_of_questions_and_seeds(done):
    scores = values(done, "dynamic", "math")
    assert scores.shape == (3, 30)
    cell = fill("table1", done).cells["llama_moe/dynamic", "gsm8k"]
    expected = estimate([Part(1.0, scores, np.arange(30))])
    assert cell.published == 11.9
    assert cell.ours.value == pytest.approx(100 * scores.mean())
    assert cell.ours.se == pytest.approx(100 * expected.se)
    assert cell.difference == pytest.approx(100 * scores.mean() - 11.9)


def test_the_average_is_that_of_the_columns_that_the_preset_has(done):
    parts = [values(done, "uniform", task).mean() for task in ("facts", "words", "math", "code")]
    cell = fill("table1", done).cells["llama_moe/uniform", "kr_average"]
    assert cell.ours.value == pytest.approx(100 * np.mean(parts))


def test_differences_to_uniform_are_paired_and_corrected_within_the_table(done):
    table = fill("table1", done)
    cell = table.cells["llama_moe/dynamic", "mbpp"]
    expected = values(done, "dynamic", "code").mean() - values(done, "uniform", "code").mean()
    assert cell.to_base.difference.value == pytest.approx(100 * expected)
    assert cell.published_to_base == pytest.approx(16.88 - 14.52)
    assert cell.significant
    assert table.comparisons == {"primary": 2 * 6 * 6, "exploratory": 2 * 15 * 6}  # 7 lines a model, in 6 columns
    assert table.detectable["mbpp"] > 0
    assert "w/o IT" in render("table1", done, "markdown")


def test_seed_variances_of_two_models_are_pooled_apart(done):
    """One model that hardly varies from seed to seed would make another's differences look surer than they are."""
    both = fill("table1", done)
    for model in ("molm", "llama_moe"):
        lines = [line for line in both.spec.lines if line.model == model]
        alone = compare_lines(done, lines, [column.quantity for column in both.spec.columns])
        for column, line in itertools.product(both.spec.columns, lines[:2] + lines[3:]):
            found = alone.difference(line.key, f"{model}/uniform", column.quantity)
            cell = both.cells[line.key, column.key].to_base
            assert (found is None) == (cell is None)
            assert found is None or cell.difference.se == pytest.approx(
                (100 if column.percent else 1) * found.difference.se
            )


def test_a_seed_is_not_a_question_weights_have_the_error_of_seeds_alone(done):
    weights = [p.run.manifest.result.final_weights["math"] for p in done.runs("llama_moe", "dynamic")]
    cell = fill("table8", done).cells["llama_moe/dynamic", "math_instruct"]
    assert cell.ours.value == pytest.approx(100 * np.mean(weights))
    assert cell.ours.se == pytest.approx(100 * stats.sem(weights))


def test_turns_of_the_judging_are_averaged_by_turn_and_not_compared_with_another_scale(done):
    table = fill("table9", done)
    first, second, overall = (
        table.cells["llama_moe/uniform", key].ours.value for key in ("first", "second", "overall")
    )
    assert overall == pytest.approx((first + second) / 2)
    assert table.cells["llama_moe/uniform", "overall"].difference is None
    assert "Its scale is not the paper's" in render("table9", done, "markdown")


def test_every_table_and_figure_is_full_where_the_preset_has_runs_for_it(done):
    for name in table_names():
        table = fill(name, done)
        missing = {reason for cell in table.cells.values() for reason in cell.missing}
        assert missing <= {"nothing corresponds to it in preset mini"}, name
        assert not any("To make what is missing" in note for note in table.notes), name
    for name in FIGURES:
        figure = figure_data(name, done)
        assert figure.panels, name
        assert not figure.missing, name


def test_every_job_of_every_target_is_planned_once_and_in_order(done, fresh):
    jobs = fresh.jobs(need for name in ("table1", "table9", "figure2", "figure8") for need in needs(name))
    ids = [job.id for job in jobs]
    assert len(ids) == len(set(ids))
    assert all(other in ids[:i] for i, job in enumerate(jobs) for other in job.after)
    assert {job.kind for job in jobs} == {"model", "train", "eval", "judge", "gate-load"}
    everything = done.jobs(need for name in FIGURES for need in needs(name))
    assert all(job.done for job in everything if job.kind != "model")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_row_of_every_target_is_a_row_of_the_presets_recipe(tmp_path, name):
    recipe = load_recipe(PRESETS[name].recipe)
    rows = {
        (model, strategy.label)
        for model, names in PRESETS[name].models.items()
        for held in recipe.models
        if held.name in names
        for strategy in override(recipe, held.overrides).strategies
    }
    targets = [*table_names(), *FIGURES]
    wanted = {(model, strategy) for target in targets for model, strategy, _ in needs(target)}
    assert {row for row in wanted if row[0] in PRESETS[name].models} <= rows
    if name == "full":
        assert wanted == rows, "the paper's setting has nothing that the paper does not show"
        assert set(PRESETS[name].sources.values()) == {source.name for source in recipe.data.sources}


def test_mini_has_eight_seeds_of_every_row_that_a_claim_rests_on(fresh):
    names = [*table_names(), *FIGURES]
    jobs = fresh.jobs(need for name in names for need in needs(name))
    assert len({job.folder for job in jobs if job.kind == "train"}) <= 132  # with three seeds, four of rows without one
    recipe = load_recipe("paper/mini")
    assert recipe.seeds == tuple(range(8))
    claimed = {claim.above for claim in CLAIMS} | {claim.below for claim in CLAIMS}
    few = {row.label for row in recipe.strategies if "seeds" in row.overrides}
    assert few
    assert not few & (claimed | {"none", "steps_500_uniform", "steps_500_dynamic"})
    assert all(len(fresh.runs("llama_moe", label)) == 4 for label in few)
    assert len([job for job in jobs if job.kind == "model"]) == 2  # one for each of the paper's


def test_of_two_models_each_is_trained_on_the_rows_that_the_paper_has_for_it(fresh):
    rows = {planned.config.strategy.label for planned in fresh.plan.runs if planned.model == "tiny-molm"}
    assert rows == set(published()["table1"]["molm"])


def test_what_has_no_counterpart_stands_beside_kinds_of_our_own_questions(done):
    table = fill("table10", done)
    scores = values(done, "uniform", "words", "molm")
    for i, title in enumerate(done.preset.subtasks):
        cell = table.cells["molm/uniform", title]
        assert cell.published is None
        assert cell.ours.value == pytest.approx(100 * scores[:, i :: len(done.preset.subtasks)].mean())
    assert table.cells["molm/uniform", "average"].ours.value == pytest.approx(100 * scores.mean())
    told = [note for note in table.notes if note.startswith("Missing")]
    assert told == [
        "Missing: Boolean Expressions, Causal Judgement, Date Understanding, Disambiguation QA, Dyck Languages,"
        " Formal Fallacies and 21 more: nothing corresponds to it in preset mini."
    ]


def test_figure_two_is_the_correlation_of_load_imbalance_with_the_average(done):
    figure = figure_data("figure2", done)
    points = figure.panels[0].points
    assert [p.series for p in points] == ["DataSize", "Uniform", "Random", "Sequential", "RefLoss", "Dynamic"]
    ours = {what: value for what, value, _ in figure.facts}["Pearson's r"]
    assert ours == pytest.approx(np.corrcoef([p.x for p in points], [p.y for p in points])[0, 1])
    assert {what: told for what, _, told in figure.facts}["Pearson's r"] == -0.762
    held = []
    for planned in done.runs("llama_moe", "dynamic"):
        counts = np.array(read_json(done.gate_load(planned) / "summary.json")["counts"], dtype=float)[:, -1]
        load = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
        held.append(load.var(ddof=1) / load.mean() ** 2)
    assert points[-1].x == pytest.approx(np.mean(held))


def test_trajectories_are_means_over_seeds(done):
    panel = figure_data("figure7", done).panels[0]
    runs = [read_trajectory(planned.run) for planned in done.runs("llama_moe", "inverse")]
    last = next(p for p in reversed(panel.points) if p.series == "math")
    assert last.y == pytest.approx(np.mean([t.weights[-1, t.names.index("math")] for t in runs]))
    assert last.stderr == pytest.approx(stats.sem([t.weights[-1, t.names.index("math")] for t in runs]))


def test_formats_say_the_same(done):
    rows = list(csv.DictReader(io.StringIO(render("table5", done, "csv"))))
    cells = json.loads(render("table5", done, "json"))["cells"]
    assert len(rows) == len(cells) == 9
    for row, cell in zip(rows, cells, strict=True):
        assert float(row["published"]) == cell["published"]
        assert float(row["ours"]) == pytest.approx(cell["ours"])
    text = render("table5", done, "markdown")
    assert f"{cells[0]['ours']:.1f} ± {cells[0]['stderr']:.1f}" in text
    for name in ("table1", "table5", "figure2"):
        assert not re.search(r"<br>|&\w+;", render(name, done, "terminal")), "a terminal is shown no markup"
    latex = render("table5", done, "latex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_are_drawn_and_the_same_records_give_the_same_bytes(done, tmp_path, kind):
    for name in ("figure2", "figure3", "figure6", "figure8"):
        draw(name, done, tmp_path / f"{name}.{kind}")
        draw(name, done, tmp_path / f"{name}-again.{kind}")
        drawn = (tmp_path / f"{name}.{kind}").read_bytes()
        assert len(drawn) > 5000
        assert drawn == (tmp_path / f"{name}-again.{kind}").read_bytes()


def test_the_papers_points_have_axes_of_their_own(done):
    ours, theirs = (part for panel in figure_data("figure6", done).panels for part in ours_and_theirs(panel))
    assert ours.y_label != theirs.y_label
    assert {point.y for point in theirs.points} == {point.published for point in ours.points} - {None}


def test_the_report_holds_everything_and_no_markup_of_a_record(done, tmp_path):
    written = write_report(done, tmp_path / "report", tmp_path / "docs" / "mini.md")
    assert all(path.is_file() for path in written)
    text = (tmp_path / "docs" / "mini.md").read_text()
    assert all(f"### Table {i}: " in text for i in range(1, 11))
    assert all(f"](mini/figure{i}.png)" in text for i in range(2, 9))
    assert (tmp_path / "docs" / "mini" / "figure4.png").is_file()
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<h2 ") == 17
    for section in ("What agrees with the paper at this scale, and what does not", "Wall time"):
        assert f"\n## {section}\n" in text
        assert f"<h2>{section}</h2>" in page
    assert "<script" not in page


@pytest.fixture(scope="module")
def claimed(done) -> tuple[list[Finding], dict[str, PaperTable]]:
    tables = {name: fill(name, done) for name in table_names()}
    return findings(done, tables), tables


def test_every_claim_is_what_the_paper_prints_and_is_judged_by_its_table(done, claimed):
    found, tables = claimed
    assert all(finding.published > 0 for finding in found)
    assert [f.table for f in found] == sorted((f.table for f in found), key=[*table_names(), "figure6"].index)
    by_text = {(f.table, f.model, f.text): f for f in found}
    better = by_text["table1", "llama_moe", "K&R Avg: Dynamic above Uniform"]
    cell = tables["table1"].cells["llama_moe/dynamic", "kr_average"]
    assert better.ours.difference.value == cell.to_base.difference.value
    assert better.ours.margin == cell.to_base.margin == 2.0
    assert better.verdict == "agrees"
    margins = {f.text.partition(":")[0]: f.ours.margin for f in found}
    points = {"K&R Avg": 2, "K&R Avg after 500 of 2,000 steps": 2, "final weight": 2}
    points |= dict.fromkeys(("BBH", "GSM8K", "MBPP", "QA"), 4)
    assert margins == points | dict.fromkeys(("MT-Bench", "first turn", "second turn"), 0.05)
    assert all(finding.ours.family == "primary" for finding in found)
    other = by_text["table1", "llama_moe", "K&R Avg: Uniform above DataSize"]
    scores = [np.mean([values(done, name, task).mean() for task in ("facts", "words", "math", "code")])
              for name in ("uniform", "datasize")]  # fmt: skip
    assert other.ours.difference.value == pytest.approx(100 * (scores[0] - scores[1]))
    assert other.verdict == "undecided"
    weights = by_text["table8", "llama_moe", "final weight: Math-Instruct above ShareGPT"]
    held = [p.run.manifest.result.final_weights for p in done.runs("llama_moe", "dynamic")]
    assert weights.ours.difference.value == pytest.approx(100 * np.mean([w["math"] - w["chat"] for w in held]))


def test_the_claims_are_one_family_in_one_file(done, claimed, tmp_path):
    write_report(done, tmp_path / "report", tmp_path / "report.md")  # whose figures' folder is that of the report
    lines = list(csv.DictReader((tmp_path / "report" / "claims.csv").open(encoding="utf-8", newline="")))
    assert list(lines[0]) == ["claim", "where", "published", "ours", "standard error", "p", "margin", "verdict"]
    assert [line["verdict"] for line in lines] == [finding.verdict for finding in claimed[0]]
    assert {line["verdict"] for line in lines} <= {"agrees", "disagrees", "equal", "undecided"}
    assert len(lines) == 47
    for line, finding in zip(lines, claimed[0], strict=True):
        assert float(line["p"]) == finding.ours.p_adjusted >= finding.ours.p
        assert float(line["standard error"]) == finding.ours.difference.se


def test_claims_of_two_seeds_are_undecided_and_keep_their_errors(tmp_path, world):
    experiments = opened(world(tmp_path / "store"), "seeds=[0, 1]")
    finish_all(experiments)
    found = findings(experiments, {name: fill(name, experiments) for name in table_names()})
    assert {finding.verdict for finding in found} == {"undecided"}
    assert all(finding.ours.difference.se > 0 for finding in found)


def test_claims_of_one_model_are_tested_before_the_other_has_run(tmp_path, world):
    experiments = opened(world(tmp_path / "store"))
    for model, strategy in {need[:2]: None for name in table_names() for need in needs(name)}:
        if model != "molm":
            for planned in experiments.runs(model, strategy):
                finish(experiments, planned)
    found = findings(experiments, {name: fill(name, experiments) for name in table_names()})
    assert {finding.verdict for finding in found if "MoLM" in finding.place} == {"not measured"}
    assert {"agrees", "disagrees"} & {finding.verdict for finding in found}


def test_what_agrees_is_counted_and_told_in_words(done, claimed):
    found, tables = claimed
    told = in_words(found, tables, figure_data("figure2", done))
    verdicts = [finding.verdict for finding in found]
    assert told[0].startswith(f"Of {len(found)} claims of the paper, {len(found)} could be tested, and")
    assert f": {verdicts.count('agrees')} as in the paper, {verdicts.count('disagrees')} the other way" in told[0]
    assert any("in the paper Dynamic > RefLoss > Uniform > Random > Sequential > DataSize > w/o IT" in t for t in told)
    assert any("the paper has −0.76" in text for text in told)
    upside_down = [replace(finding, ours=finding.ours.reversed()) for finding in found]
    assert [f.verdict for f in upside_down].count("disagrees") == verdicts.count("agrees") > 0


def test_a_table_without_uniform_is_compared_with_plain_dynamic(done):
    table = fill("table4", done)
    difference = values(done, "interval_200", "math").mean() - values(done, "dynamic", "math").mean()
    assert table.baseline.title == "every 100 steps"
    assert table.cells["llama_moe/interval_200", "gsm8k"].to_base.difference.value == pytest.approx(100 * difference)
    assert "* differs from “every 100 steps” at 5 %" in " ".join(table.notes)


def test_wall_time_is_told_by_stage_and_jobs_side_by_side_count_once(fresh):
    for seed, (begun, ended) in enumerate(
        (("10:00:00", "10:01:00"), ("10:00:30", "10:02:00"), ("11:00:00", "11:00:10"))
    ):
        planned = fresh.runs("llama_moe", "balanced")[seed]
        finish(fresh, planned)
        stage = Stage(status="done", started=f"2026-01-01T{begun}+00:00", finished=f"2026-01-01T{ended}+00:00")
        planned.run.update(stages={"train": stage})
    words, grid = wall_time(fresh, [("llama_moe", "balanced", "")])
    assert grid.rows == [["training", "3", "2m40s", "1m00s", "1m30s"]]
    assert "The 3 jobs took 2m10s of wall time, pauses left out" in words
    assert "one after the other they would have taken 2m40s" in words


def test_a_run_that_failed_is_missing_with_its_reason(fresh):
    planned = fresh.runs("llama_moe", "interval_200")[0]
    finish(fresh, planned)
    path = planned.run.manifest_path
    manifest = read_json(path)
    manifest["stages"]["train"] = {"status": "failed", "error": "the loss is NaN at step 7 (log: /x)"}
    path.write_text(json.dumps(manifest))
    cell = fill("table4", fresh).cells["llama_moe/interval_200", "gsm8k"]
    assert cell.ours is None
    assert cell.missing == ("training failed: the loss is NaN at step 7", "has not run yet")


def test_scores_of_another_checkpoint_do_not_count(fresh):
    for planned in fresh.runs("llama_moe", "public_sft"):
        finish(fresh, planned)
        planned.run.update(checkpoint_hash="f" * 64)
    (reason,) = fill("table7", fresh).cells["llama_moe/public_sft", "gsm8k"].missing
    assert "is of another checkpoint" in reason


def test_rows_that_did_not_answer_the_same_questions_are_refused(fresh):
    for strategy in ("final_static", "sentence_embedding"):
        for planned in fresh.runs("llama_moe", strategy):
            finish(fresh, planned)
    for planned in fresh.runs("llama_moe", "sentence_embedding"):
        path = fresh.scores(planned) / "samples_math.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["doc_hash"] = "e" * 64
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(MoemixError, match=r"question 0 of math is not the one in"):
        fill("table2", fresh)


def moemix(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, "-m", "harness.cli", *arguments), capture_output=True, text=True)


def test_the_commands_print_write_and_name_the_nearest(done, tmp_path: Path):
    store = str(done.plan.store.root)
    shown = moemix("paper", "table8", "--runs", store, "--format", "csv", "--set", "seeds=[0, 1, 2]")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == render("table8", done, "csv")
    arguments = ["figure7", "--runs", store, "--out", str(tmp_path / "f.png")]
    drawn = CliRunner().invoke(paper, arguments, standalone_mode=False)
    assert drawn.exception is None
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    wrong = CliRunner().invoke(paper, ["table11"])
    assert wrong.exit_code == 2
    assert "did you mean 'table1" in wrong.output
