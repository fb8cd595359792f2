"""An evaluation gives lm-eval's own numbers and files, resumes where it was stopped, and is never overwritten."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from forked import Forked
from small_evaluations import REQUESTS, samples, stored
from tiny_checkpoint import make_checkpoint

from evals.runner import evaluate, request_for
from evals.suites import suite_hash
from harness.cli import cli
from harness.errors import MoemixError
from harness.records import EvalRequest, EvalSummary
from harness.requests import EvalJobRequest


def request(suite, **changes):
    settings = {"tasks": (), "limit": None, "engine": "transformers", "dtype": "float32", "seed": 0}
    return request_for(str(suite), **{**settings, **changes})


def evaluated(checkpoint, config, out):
    return evaluate(EvalJobRequest(config=config, checkpoint=checkpoint, out=out))


@pytest.fixture(scope="module")
def out(checkpoint, mini_suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals") / "mini"
    evaluated(checkpoint, request(mini_suite), folder)
    return folder


def test_the_files_are_those_of_lm_eval_and_the_summary_comes_from_them(out, checkpoint, mini_suite):
    summary = EvalSummary.read(out / "summary.json")
    raw = json.loads((out / "results.json").read_text())
    assert {"results", "configs", "versions", "n-shot", "n-samples", "config", "task_hashes"} <= raw.keys()
    by_task = {(r.task, r.metric): r for r in summary.results}
    choice = by_task["mini_choice", "acc"]
    assert choice.value == raw["results"]["mini_choice"]["acc,none"]
    assert choice.stderr == pytest.approx(raw["results"]["mini_choice"]["acc_stderr,none"])
    assert (choice.n, choice.shots, choice.task_version) == (24, 0, "1.0")
    scores = [sample["acc"] for sample in samples(out, "mini_choice")]
    assert summary.columns["choice"].value == pytest.approx(sum(scores) / len(scores))
    assert summary.columns["average"].columns == ("choice", "text")
    assert summary.engine["name"] == "transformers"
    assert summary.engine["dtype"] == "float32"
    assert {"version", "args"} <= summary.engine.keys()
    assert all(result.engine == summary.engine for result in summary.results)
    assert summary.checkpoint_hash
    assert not list(out.glob(".lm_eval*"))


def test_every_sample_equals_that_of_lm_evals_own_model(out, checkpoint, mini_suite):
    """The numbers are those of the ``lm_eval`` command line with its ``hf`` model, choice by choice, text by text."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(mini_suite.parent / "tasks"), include_defaults=False)
    stock = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(checkpoint), "dtype": "float32"},
        tasks=["mini_choice", "mini_text"],
        device="cpu",
        batch_size=1,
        task_manager=manager,
    )
    for task, key in (("mini_choice", "acc"), ("mini_text", "exact_match")):
        ours, theirs = samples(out, task), stock["samples"][task]
        assert [s[key] for s in ours] == [s[key] for s in theirs]
        assert [s["prompt_hash"] for s in ours] == [s["prompt_hash"] for s in theirs]
        for mine, other in zip(ours, theirs, strict=True):
            if task == "mini_text":
                assert mine["resps"] == other["resps"]
            else:
                likelihoods = [float(reply[0][0]) for reply in mine["resps"]]
                assert likelihoods == pytest.approx([reply[0][0] for reply in other["resps"]], abs=1e-4)


def test_the_same_request_again_does_nothing_and_another_is_refused(out, checkpoint, mini_suite, caplog, tmp_path):
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    caplog.set_level("INFO", logger="moemix")
    again = evaluated(checkpoint, request(mini_suite), out)
    assert again == EvalSummary.read(out / "summary.json")
    assert "already evaluated" in caplog.text
    with pytest.raises(MoemixError, match="another limit, seed"):
        evaluated(checkpoint, request(mini_suite, limit=3, seed=1), out)
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(MoemixError, match="another checkpoint"):
        evaluated(other, request(mini_suite), out)
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_a_limit_takes_the_first_questions_of_each_task(checkpoint, mini_suite, out, tmp_path):
    summary = evaluated(checkpoint, request(mini_suite, limit=5), tmp_path / "five")
    assert {result.n for result in summary.results} == {5}
    assert [s["resps"] for s in samples(tmp_path / "five", "mini_text")] == [
        s["resps"] for s in samples(out, "mini_text")[:5]
    ]


def test_one_question_has_a_score_without_an_error(checkpoint, mini_suite, tmp_path):
    average = evaluated(checkpoint, request(mini_suite, limit=1), tmp_path / "one").columns["average"]
    assert average.value in (0.0, 0.5, 1.0)
    assert average.stderr is None


def test_a_columns_own_limit_leaves_the_others_alone(checkpoint, mini_suite, tmp_path):
    suite = mini_suite.with_name("limited.yaml")
    suite.write_text(mini_suite.read_text().replace("tasks: [mini_text]", "tasks: [mini_text], limit: 4"))
    summary = evaluated(checkpoint, request(suite), tmp_path / "limited")
    assert {result.task: result.n for result in summary.results} == {"mini_choice": 24, "mini_text": 4}


def test_tasks_can_be_selected_by_task_or_column(checkpoint, mini_suite, tmp_path):
    summary = evaluated(checkpoint, request(mini_suite, tasks=("text",), limit=2), tmp_path / "text")
    assert list(summary.columns) == ["text"]
    with pytest.raises(MoemixError, match="did you mean 'mini_choice'"):
        evaluated(checkpoint, request(mini_suite, tasks=("mini_chioce",)), tmp_path / "typo")


def test_a_killed_evaluation_goes_on_where_it_was(checkpoint, mini_suite, out, tmp_path, responses):
    """``kill -9`` in the middle of storing answers; afterwards only the missing ones are asked for."""
    folder = tmp_path / "killed"
    code = f"""
import os, signal, sys
from pathlib import Path
import evals.cache
put, kept = evals.cache.ResponseCache.put, []
def dying(self, key, answer):
    put(self, key, answer)
    kept.append(key)
    if len(kept) == 80:
        os.kill(os.getpid(), signal.SIGKILL)
evals.cache.ResponseCache.put = dying
from evals.runner import evaluate, request_for
from harness.requests import EvalJobRequest
request = request_for({str(mini_suite)!r}, tasks=(), limit=None, engine="transformers", dtype="float32", seed=0)
evaluate(EvalJobRequest(config=request, checkpoint=Path({str(checkpoint)!r}), out=Path({str(folder)!r})))
"""
    killed = Forked(exec, code, {}).wait()
    assert killed.returncode == -9, killed.stderr
    assert not (folder / "summary.json").exists()
    before = stored(responses)
    assert len(before) == 80

    summary = evaluated(checkpoint, request(mini_suite), folder)
    rows = stored(responses)
    assert before.items() <= rows.items()
    assert len(rows) == REQUESTS
    finished = EvalSummary.read(out / "summary.json")
    assert summary.columns == finished.columns
    assert summary.results == finished.results


def test_a_task_that_cannot_run_here_is_a_missing_column_with_the_reason(checkpoint, mini_suite, tmp_path, monkeypatch):
    monkeypatch.setattr("evals.sandbox.available", lambda: "bubblewrap (bwrap) is not installed")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "code.yaml").write_text(
        (mini_suite.parent / "tasks" / "text.yaml")
        .read_text()
        .replace("mini_text", "mini_code")
        .replace("{version: 1.0}", "{version: 1.0, sandbox: true}")
    )
    suite = tmp_path / "code.yaml"
    suite.write_text(
        f"name: code\ninclude: [tasks, {mini_suite.parent / 'tasks'}]\ncolumns:\n"
        "  - {name: code, tasks: [mini_code], metric: exact_match}\n"
        "  - {name: choice, tasks: [mini_choice], metric: acc, limit: 2}\n"
        "averages:\n  - {name: average, of: [code, choice]}\n"
    )
    summary = evaluated(checkpoint, request(suite), tmp_path / "out")
    assert summary.columns["code"].value is None
    assert summary.columns["average"].value is None
    assert summary.columns["choice"].value is not None
    (note,) = [result.note for result in summary.results if result.task == "mini_code"]
    assert "bubblewrap (bwrap) is not installed" in note


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"engine": "vlm"}, "did you mean 'vllm'"), ({"dtype": "float23"}, "did you mean 'float32'")],
)
def test_an_unknown_engine_or_dtype_names_its_neighbour(checkpoint, mini_suite, tmp_path, changes, message):
    with pytest.raises(MoemixError, match=message):
        evaluated(checkpoint, request(mini_suite, **changes), tmp_path / "out")


def test_a_metric_that_does_not_exist_fails_before_anything_is_asked(checkpoint, mini_suite, tmp_path, responses):
    suite = mini_suite.with_name("metric.yaml")
    suite.write_text(mini_suite.read_text().replace("metric: acc}", "metric: accc}"))
    with pytest.raises(MoemixError, match="did you mean 'acc'"):
        evaluated(checkpoint, request(suite), tmp_path / "out")
    assert not responses.exists()


def test_a_folder_that_is_no_checkpoint_is_named(mini_suite, tmp_path):
    with pytest.raises(MoemixError, match="not a checkpoint"):
        evaluated(tmp_path, request(mini_suite), tmp_path / "out")


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom evals.cli import eval_command\n"
        "result = CliRunner().invoke(eval_command, ['--help'])\n"
        "assert 'CHECKPOINT' in result.output\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'datasets', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_asks_a_task_that_only_an_included_folder_has(checkpoint, mini_suite, tmp_path):
    suite = tmp_path / "other.yaml"
    suite.write_text("name: other\ncolumns: [{name: boolq, tasks: [boolq], shots: 0, metric: acc}]\n")
    command = ["eval", str(checkpoint), "--suite", str(suite), "--include_path", str(mini_suite.parent / "tasks")]
    command += ["--tasks", "mini_choice", "--limit", "3", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0
    summary = EvalSummary.read(tmp_path / "out" / "summary.json")
    assert [(r.task, r.metric, r.n) for r in summary.results] == [("mini_choice", "acc", 3)]
    assert summary.columns.keys() == {"mini_choice"}


def test_generation_arguments_are_those_of_the_tasks_that_generate(checkpoint, mini_suite, tmp_path):
    command = ["eval", str(checkpoint), "--suite", str(mini_suite), "--limit", "2", "--out", str(tmp_path / "out")]
    command += ["--gen-kwargs", "max_gen_toks=3"]
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    (sample, *_) = samples(tmp_path / "out", "mini_text")
    assert sample["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 3


@pytest.mark.data
def test_tasks_without_a_suite_are_asked_and_the_request_is_what_a_recipe_makes(checkpoint, real_data, tmp_path):
    out = tmp_path / "out"
    options = ["--tasks", "arc_easy,boolq", "--num-fewshot", "0", "--limit", "0.002"]
    options += ["--engine-arg", "max_batch_size=8"]
    done = CliRunner().invoke(
        cli,
        ["eval", str(checkpoint), *options, "--data-root", str(real_data), "--out", str(out)],
        standalone_mode=False,
    )
    assert done.exception is None, done.exception
    summary = EvalSummary.read(out / "summary.json")
    assert {name: column.n for name, column in summary.columns.items()} == {"arc_easy": 5, "boolq": 7}
    assert summary.engine["args"]["max_batch_size"] == 8
    suite = str(out / "suite.yaml")
    recipe = EvalRequest(
        suite=suite,
        suite_hash=suite_hash(suite),
        limit=0.002,
        engine="transformers",
        engine_args={"max_batch_size": "8"},
    )
    assert summary.request == recipe
    assert recipe.id != recipe.model_copy(update={"engine_args": {}}).id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "0"], "neither a number of questions nor a share"),
        (["--limit", "1.5"], "neither a number of questions nor a share"),
        (["--engine-arg", "x"], "expected KEY=VALUE"),
        (["--gen-kwargs", "temperature"], "expected KEY=VALUE"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(options, message, mini_suite, checkpoint, tmp_path):
    arguments = ["eval", str(checkpoint), "--suite", str(mini_suite), "--out", str(tmp_path / "out"), *options]
    assert message in str(CliRunner().invoke(cli, arguments, standalone_mode=False).exception)
