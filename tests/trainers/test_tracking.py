"""Trackers are told what the records say, each step once, whatever happens to the run; and nothing becomes of the run
whatever happens to them."""

from __future__ import annotations

import importlib.util
import json
import signal
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forked
from small_runs import create_run, lines, wait_until

from harness import trackers
from harness.errors import MoemixError
from harness.execution import Tracking
from harness.files import hash_tree, read_jsonl
from harness.recipe_file import load_recipe
from harness.schema import parse
from harness.store import Run
from harness.trackers import FOLDER
from trainers.tracking import stored_points
from trainers.training.run import train

STEPS = {"steps": 12, "save_every": 4, "log_every": 1, "balance_loss": "model"}
ALL = ("tensorboard", "trackio", "wandb")
KEY = "0123456789abcdef" * 2 + "01234567"  # of the form of a W&B key


@pytest.fixture(scope="module", autouse=True)
def _here(tmp_path_factory):
    """What trackers keep outside a run goes into a folder of the tests."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRACKIO_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_SILENT", "true")
        yield


def create(folder: Path, *trackers: str, **changes: object) -> Run:
    run = create_run(folder / "store", changes={**STEPS, **changes}, interval=4)
    run.update(tracking=Tracking(trackers=trackers, project=folder.name, mode="offline"))
    return run


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    run = create(tmp_path_factory.mktemp("untracked"))
    train(run)
    return run


def result(run: Run) -> tuple:
    return (
        hash_tree(run.checkpoint, "*.safetensors"),
        lines(run.mixture, without="cost"),
        lines(run.metrics, without="seconds"),
    )


# --- reading back what trackers keep ----------------------------------------------------------------


def of_tensorboard(run: Run) -> list[tuple[int, str, float]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    found = []
    for path in sorted((run.folder / FOLDER / run.manifest.tracking.project).glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.append((event.step, value.tag, float(tensor_util.make_ndarray(value.tensor))))
    return found


def of_wandb(run: Run) -> list[tuple[int, str, float]]:
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted((run.folder / FOLDER / "wandb").glob("offline-run-*/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    found.append((record.history.step.num, name, json.loads(item.value_json)))
    return found


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """What a file of W&B holds: LevelDB's log format, blocks of 32 KB with records in pieces, after 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def of_trackio(run: Run) -> list[tuple[int, str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for row in SQLiteStorage.get_logs(run.manifest.tracking.project, run.manifest.run_id):
        found += [(row["step"], name, value) for name, value in row.items() if "/" in name]
    return found


READ = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


def assert_told(run: Run, tracker: str) -> None:
    """Every number of the records, once, and no other."""
    found = READ[tracker](run)
    assert [key for key, count in Counter((step, name) for step, name, _ in found).items() if count > 1] == []
    told = {(step, name): value for step, name, value in found}
    expected = {(step, name): value for step, point in stored_points(run) for name, value in point.items()}
    assert told.keys() == expected.keys()
    for (step, name), value in expected.items():
        if name != "train/tokens_per_second":  # of a step that was done again the first time stays
            assert told[step, name] == pytest.approx(value, rel=1e-6), (step, name)


def installed(tracker: str) -> bool:
    return importlib.util.find_spec(tracker) is not None


def needs(tracker: str) -> str:
    if not installed(tracker):
        pytest.skip(f"{tracker} is not installed (the extra `tracking`)")
    return tracker


# --- what they are told -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that every installed tracker was told of."""
    run = create(tmp_path_factory.mktemp("whole"), *filter(installed, ALL))
    train(run)
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Another one, taken down by ``kill -9`` in its middle, and continued."""
    run = create(tmp_path_factory.mktemp("killed"), *filter(installed, ALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_SERVICE", raising=False)  # W&B's process would be shared with the tests
        process = Forked(train, run)
    wait_until(lambda: process.poll() is not None or (run.state / "step-00000008").is_dir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run.trained
    train(run)
    return run


def test_a_run_ends_in_the_same_bits_with_trackers_killed_or_not(untracked, whole, killed):
    assert whole.manifest.run_id == untracked.manifest.run_id, "trackers are no part of a run's identity"
    assert result(whole) == result(untracked)
    assert result(killed) == result(untracked)


@pytest.mark.parametrize("tracker", ALL)
def test_a_tracker_is_told_every_number_of_the_records_once(whole, tracker):
    assert_told(whole, needs(tracker))


@pytest.mark.parametrize("tracker", ALL)
def test_a_tracker_of_a_killed_run_has_lost_nothing_and_nothing_twice(killed, tracker):
    assert_told(killed, needs(tracker))


def test_a_key_is_in_no_file_of_a_run(whole):
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    if installed("wandb"):
        assert any(path.suffix == ".wandb" for path in files)


def test_the_points_of_a_run_are_its_losses_rates_weights_shares_and_distances(untracked):
    points = dict(stored_points(untracked))
    assert list(points) == list(range(13))
    assert set(points[0]) == {"weight/adding", "weight/chat", "weight/code"}
    step = json.loads(untracked.metrics.read_text().splitlines()[7])
    assert step["balance_loss"] > 0
    for name in ("loss", "balance_loss", "learning_rate", "grad_norm"):
        assert points[8][f"train/{name}"] == step[name]
    assert points[8]["train/tokens_per_second"] == step["tokens"] / step["seconds"]
    assert points[8]["loss/chat"] == step["source_loss"]["chat"]
    update = list(read_jsonl(untracked.mixture))[2]
    assert update["step"] == 8
    assert [points[8][f"weight/{name}"] for name in update["names"]] == update["after"]
    drawn = [points[8][f"realised/{name}"] for name in update["names"]]
    assert drawn == [count / sum(update["realised_examples"]) for count in update["realised_examples"]]
    distances = [points[8][f"gate_load_distance/{name}"] for name in update["names"]]
    before, after = update["before"], update["after"]
    assert distances[after.index(max(after))] > 0
    gains = [new / old for new, old in zip(after, before, strict=True)]
    assert distances.index(max(distances)) == gains.index(max(gains)), "the farthest source gains the most weight"


# --- what cannot be had, and what goes wrong --------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_named_with_the_extra_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.Trackio, "module", "trackio_that_is_not_here")
    run = create(tmp_path, "trackio")
    with pytest.raises(MoemixError, match=r"trackio is not installed[\s\S]*moemix\[tracking\]"):
        train(run)
    assert not run.metrics.exists()
    assert "moemix[tracking]" in run.manifest.stages["train"].error


def test_wandb_online_without_a_key_is_an_error_and_not_a_question(tmp_path, monkeypatch):
    needs("wandb")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    run = create(tmp_path, "wandb")
    run.update(tracking=Tracking(trackers=("wandb",)))
    with pytest.raises(MoemixError, match=r"no API key[\s\S]*mode: offline"):
        train(run)


@pytest.mark.parametrize("when", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_left_and_training_goes_on_to_the_same_bits(
    tmp_path, untracked, monkeypatch, caplog, when
):
    from accelerate.tracking import TensorBoardTracker

    def broken(*_, **__):
        raise ConnectionError("the network is gone")

    monkeypatch.setattr(TensorBoardTracker, when, broken)
    run = create(tmp_path, "tensorboard")
    train(run)
    assert result(run) == result(untracked)
    said = caplog.text
    assert said.count("the tracker TensorBoard failed, and the run continues without it: ConnectionError") == 1


def test_a_tracker_that_hangs_keeps_nothing_waiting(tmp_path, untracked, monkeypatch, caplog):
    from accelerate.tracking import TensorBoardTracker

    let_go = threading.Event()
    monkeypatch.setattr(TensorBoardTracker, "log", lambda *_, **__: let_go.wait())
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.1)
    run = create(tmp_path, "tensorboard")
    train(run)
    let_go.set()
    assert result(run) == result(untracked)
    assert "did not finish uploading within 0.1 s; giving up" in caplog.text


# --- the recipe's section ---------------------------------------------------------------------------


def test_a_recipe_names_trackers_shortly_or_in_full_and_nothing_else():
    for short in ("tensorboard", ["tensorboard"], {"trackers": ["tensorboard"]}):
        assert parse(Tracking, short, where="test") == Tracking(trackers=("tensorboard",))
    assert load_recipe("quickstart", ["tracking=[wandb, trackio]"]).tracking.trackers == ("wandb", "trackio")
    with pytest.raises(MoemixError, match="unknown key `api_key`"):
        parse(Tracking, {"trackers": ["wandb"], "api_key": KEY}, where="test")
    with pytest.raises(MoemixError, match="valid: tensorboard, trackio, wandb"):
        parse(Tracking, ["mlflow"], where="test")
