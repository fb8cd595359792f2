"""The whole path on the quickstart's world, cut to a few steps: recipe → models → runs → evaluations → table."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "models.tiny.pretrain.training.steps=3",
    "training.steps=6",
    "mixing.interval=2",
    "evaluation.limit=4",
    "seeds=[0]",
    "judging.benches=[]",
    "strategies=[none, uniform, dynamic]",
]


def command(*arguments: str, store: Path, settings: list[str]) -> list[str]:
    options = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "harness.cli", *arguments, "--store", str(store), *options]


def moemix(*arguments: str, store: Path, settings: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    settings = SMALL if settings is None else settings
    return subprocess.run(command(*arguments, store=store, settings=settings), capture_output=True, text=True)


def strategies_of(store: Path) -> dict[str, dict]:
    manifests = [json.loads(path.read_text()) for path in store.glob("quickstart/*/run.json")]
    return {manifest["config"]["strategy"]["label"]: manifest for manifest in manifests}


def scores_table(store: Path) -> bytes:
    """The comparison as JSON without what a clock decides."""

    def timeless(value):
        if isinstance(value, dict):
            clocks = ("seconds", "total_seconds", "mixing_seconds", "mixing_share")
            return {key: timeless(item) for key, item in value.items() if key not in clocks}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    process = moemix("table", "quickstart", "--format", "json", store=store)
    assert process.returncode == 0, process.stderr
    return json.dumps(timeless(json.loads(process.stdout))).encode()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    store = tmp_path_factory.mktemp("store")
    return store, moemix("bench", "quickstart", store=store)


def test_one_command_leads_from_a_recipe_to_a_table(finished):
    store, process = finished
    assert process.returncode == 0, process.stderr
    for label in ("none", "uniform", "dynamic"):
        assert label in process.stdout
    assert (store / "quickstart" / "table.md").is_file()
    assert (store / "quickstart" / "weights.png").stat().st_size > 10_000


def test_every_run_holds_its_records(finished):
    store, _ = finished
    runs = strategies_of(store)
    assert set(runs) == {"none", "uniform", "dynamic"}
    assert all(stage["status"] == "done" for run in runs.values() for stage in run["stages"].values())
    dynamic = store / "quickstart" / runs["dynamic"]["run_id"]
    updates = [json.loads(line) for line in (dynamic / "mixture.jsonl").read_text().splitlines()]
    assert [update["step"] for update in updates] == [0, 2, 4]
    assert updates[1]["before"] == updates[0]["after"]
    assert updates[1]["observation"]["gate_load"]
    summary = json.loads((dynamic / "evals" / "quickstart" / "summary.json").read_text())
    assert summary["request"]["limit"] == 4
    assert runs["dynamic"]["checkpoint_hash"] == summary["checkpoint_hash"] != runs["uniform"]["checkpoint_hash"]


def test_judging_is_a_stage_of_the_recipe_and_a_column_of_its_table(finished):
    store, _ = finished
    settings = [*SMALL[:4], "seeds=[0]", "judging.limit=1", "judging.max_tokens=8", "strategies=[uniform, dynamic]"]
    process = moemix("bench", "quickstart", store=store, settings=settings)
    assert process.returncode == 0, process.stderr
    assert "judge dynamic on quickstart: done" in process.stderr
    assert "Reference grader (quickstart)" in process.stdout
    assert "MT-Bench" not in process.stdout
    run = strategies_of(store)["dynamic"]
    assert run["stages"]["judge:quickstart"]["status"] == "done"
    folder = store / "quickstart" / run["run_id"] / "judge" / "quickstart"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["checkpoint_hash"] == run["checkpoint_hash"]
    assert summary["average"]["n"] + sum(summary["failed"].values()) == 8
    again = moemix("bench", "quickstart", store=store, settings=settings)
    assert again.returncode == 0
    assert again.stderr.count("already done") == 7  # a model; two runs, their evaluations and judgings


def test_the_same_command_again_does_nothing_and_prints_the_same_table(finished):
    store, first = finished
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    again = moemix("bench", "quickstart", store=store)
    assert again.returncode == 0
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")} == before


def test_planning_says_what_is_done_and_starts_nothing(finished, tmp_path):
    store, _ = finished
    done = json.loads(moemix("plan", "quickstart", "--format", "json", store=store).stdout)
    assert all(job["done"] for job in done["jobs"])
    fresh = json.loads(moemix("plan", "quickstart", "--format", "json", store=tmp_path).stdout)
    assert [job["kind"] for job in fresh["jobs"]] == ["model", *["train", "eval"] * 3]
    assert not any(job["done"] for job in fresh["jobs"])
    assert not (tmp_path / "quickstart").exists()


def test_a_failing_run_is_reported_and_does_not_stop_the_others(finished, tmp_path):
    store, _ = finished
    broken = "strategies=[none, {name: uniform, label: broken, overrides: {training.learning_rate: 1.0e30}}, dynamic]"
    process = moemix("bench", "quickstart", store=store, settings=[*SMALL[:-1], broken])
    assert process.returncode == 1
    assert "FAILED" in process.stderr
    assert "Traceback" not in process.stderr
    assert "dynamic" in process.stdout
    failed = [
        manifest
        for path in store.glob("quickstart/broken*/run.json")
        if (manifest := json.loads(path.read_text()))["stages"]["train"]["status"] == "failed"
    ]
    assert len(failed) == 1
    assert "not a finite number" in failed[0]["stages"]["train"]["error"]


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, for which nobody can prepare."""
    found = subprocess.run(("pgrep", "-P", str(process.pid)), capture_output=True, text=True)
    for pid in (process.pid, *map(int, found.stdout.split())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def test_an_interrupted_bench_goes_on_to_the_same_result(finished, tmp_path):
    store, _ = finished
    started = subprocess.Popen(
        command("bench", "quickstart", store=tmp_path, settings=SMALL), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("quickstart/uniform*/run.json")):
        assert time.monotonic() < deadline
        assert started.poll() is None, started.stderr.read().decode()
        time.sleep(0.1)
    os.kill(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=600)
    assert started.returncode == 130, errors.decode()
    started = subprocess.Popen(
        command("bench", "quickstart", store=tmp_path, settings=SMALL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(random.uniform(1, 6))  # wherever that is
    kill_with_children(started)
    resumed = moemix("bench", "quickstart", store=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    first, second = strategies_of(store), strategies_of(tmp_path)
    for label in ("uniform", "dynamic"):
        assert first[label]["config"] == second[label]["config"]
        assert first[label]["checkpoint_hash"] == second[label]["checkpoint_hash"]
    assert scores_table(store) == scores_table(tmp_path)  # byte for byte


def test_one_strategy_from_a_users_file_trains_by_name_alone(finished, tmp_path):
    store, _ = finished
    rule = tmp_path / "mine.py"
    rule.write_text(
        "from dataclasses import dataclass\nimport numpy as np\n"
        "from trainers.mixing import MixingStrategy, MixtureState\n\n"
        "@dataclass(frozen=True)\nclass First(MixingStrategy):\n    '''All but a little on the first source.'''\n"
        "    name = 'first'\n    updates = False\n    rest: float = 0.1\n\n"
        "    def init(self, sources):\n        w = np.full(len(sources.names), self.rest / (len(sources.names) - 1))\n"
        "        w[0] = 1 - self.rest\n        return MixtureState(weights=w)\n\n"
        "    def update(self, state, seen):\n        return state\n"
    )
    process = moemix("train", "quickstart", "--strategy", f"{rule}:First", store=store)
    assert process.returncode == 0, process.stderr
    weights = strategies_of(store)["First"]["result"]["final_weights"]
    assert weights[min(weights)] == pytest.approx(0.9)


@pytest.mark.serve
def test_the_same_recipe_is_evaluated_through_a_vllm_server(finished):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (extra `serve`, or make install-serve)")
    store, _ = finished
    process = moemix(
        "bench", "quickstart", "--set", "engine=vllm", store=store, settings=[*SMALL[:-1], "strategies=[uniform]"]
    )
    assert process.returncode == 0, process.stderr
    engines = {}
    for path in store.glob("quickstart/uniform*/evals/*/summary.json"):
        summary = json.loads(path.read_text())
        engines[summary["engine"]["name"]] = summary["columns"]
    assert set(engines) == {"transformers", "vllm"}  # two evaluations side by side, neither overwritten
    scores = [{name: column["value"] for name, column in columns.items()} for columns in engines.values()]
    assert scores[0] == scores[1]
    servers = subprocess.run(("pgrep", "-f", f"openai.api_server --model {store}"), capture_output=True, text=True)
    assert servers.stdout == ""  # stopped, whatever happened
