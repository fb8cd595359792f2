"""An evaluation logs its scores to the trackers of training, and is the same without them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from evals.runner import evaluate, request_for
from harness.cli import cli
from harness.errors import MoemixError
from harness.execution import Tracking
from harness.records import EvalSummary
from harness.requests import EvalJobRequest
from harness.trackers import FOLDER, Trackio


def logged(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    (file,) = folder.rglob("events.out.tfevents.*")
    events = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert {step for step, _ in events} == {0}
    return {value.tag: float(tensor_util.make_ndarray(value.tensor)) for _, value in events}


def test_trackers_get_columns_errors_and_metrics(checkpoint, mini_suite, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "out"
    command = ["eval", str(checkpoint), "--suite", str(mini_suite), "--limit", "4", "--out", str(out)]
    command += ["--tracker", "tensorboard", "--tracker", "wandb", "--tracker-offline", "--tracker-project", "mine"]
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    summary, numbers = EvalSummary.read(out / "summary.json"), logged(out / FOLDER / "mine")
    assert numbers["eval/choice"] == pytest.approx(summary.columns["choice"].value)
    assert numbers["eval/average_stderr"] == pytest.approx(summary.columns["average"].stderr)
    assert numbers["mini_choice/acc,none"] == pytest.approx(summary.results[0].value)
    (offline,) = (out / FOLDER / "wandb").glob("offline-run-*")
    assert offline.name.endswith(f"-{checkpoint.name}-out")
    config = request_for(str(mini_suite), tasks=(), limit=4, engine="transformers", dtype="float32", seed=0)
    assert summary.request == config


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_asked(
    checkpoint, mini_suite, tmp_path, monkeypatch, responses
):
    monkeypatch.setattr(Trackio, "module", "trackio_that_is_not_here")
    config = request_for(str(mini_suite), tasks=(), limit=1, engine="transformers", dtype="float32", seed=0)
    tracking = Tracking(trackers=("trackio",))
    with pytest.raises(MoemixError, match="trackio is not installed"):
        evaluate(EvalJobRequest(config=config, checkpoint=checkpoint, out=tmp_path / "out", tracking=tracking))
    assert not responses.exists()


def test_an_unknown_tracker_names_those_that_there_are(checkpoint, mini_suite, tmp_path):
    command = ["eval", str(checkpoint), "--suite", str(mini_suite), "--out", str(tmp_path), "--tracker", "mlflow"]
    assert "valid: tensorboard, trackio, wandb" in str(
        CliRunner().invoke(cli, command, standalone_mode=False).exception
    )
