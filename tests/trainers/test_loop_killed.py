"""Killed at any moment with ``kill -9`` and started again, a run ends in the same bits as one left alone."""

from __future__ import annotations

import random
import signal

import pytest
from forked import Forked, moemix
from small_runs import create_run, lines, wait_until

from harness.files import hash_tree
from trainers.training.run import train

STEPS = {"steps": 30, "save_every": 4, "log_every": 1, "max_length": 96}


def result(run):
    """Hash of the final weights, mixture trace and losses, without what tells time."""
    return (
        hash_tree(run.checkpoint, "*.safetensors"),
        lines(run.mixture, without="cost"),
        lines(run.metrics, without="seconds"),
    )


def create(folder):
    return create_run(folder / "store", changes=STEPS, interval=5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = create(tmp_path_factory.mktemp("undisturbed"))
    process = moemix("train", "--run", str(run.folder))
    assert process.returncode == 0, process.stderr
    return result(run)


def kill_when(run, condition, step=0):
    """Start training and kill it once ``condition()`` holds, which is not before ``step``; false if it ended first."""
    process = Forked(train, run)
    wait_until(lambda: logged(run) >= step or process.poll() is not None)
    wait_until(lambda: condition() or process.poll() is not None, pause=0.0005)
    process.send_signal(signal.SIGKILL)
    code = process.wait().returncode
    assert code in (-signal.SIGKILL, 0)
    return code == -signal.SIGKILL


def finish(run, threads=1):
    process = Forked(train, run, OMP_NUM_THREADS=str(threads)).wait()
    assert process.returncode == 0, process.stderr
    assert run.trained
    assert not run.state.exists(), "states of a finished run are only weight"


def logged(run):
    return len(run.metrics.read_bytes().splitlines()) if run.metrics.exists() else 0


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_steps(tmp_path, undisturbed, seed):
    moments = sorted(random.Random(seed).sample(range(1, STEPS["steps"]), 2))
    run = create(tmp_path)
    for moment in moments:
        assert kill_when(run, lambda: True, moment)
    if moments[-1] > STEPS["save_every"]:
        assert any(run.state.glob("step-*")), "there was something to go on from"
    finish(run)
    assert result(run) == undisturbed


@pytest.mark.parametrize("file", ["", "/optimizer.safetensors", "/manifest.json"], ids=["begun", "half", "almost done"])
def test_killed_while_a_state_is_written(tmp_path, undisturbed, file):
    run = create(tmp_path)
    assert kill_when(run, lambda: any(run.state.glob(f".step-00000008.*.tmp{file}")), step=7)
    finish(run)
    assert result(run) == undisturbed


def test_killed_while_the_checkpoint_is_written(tmp_path, undisturbed):
    run = create(tmp_path)
    kill_when(run, lambda: any(run.folder.glob(".checkpoint.*.tmp")), step=29)
    finish(run)
    assert result(run) == undisturbed
    assert not list(run.folder.glob(".checkpoint.*"))


def test_killed_and_finished_with_another_number_of_threads(tmp_path, undisturbed):
    """Sums are split over threads, so another count would end in other bits."""
    run = create(tmp_path)
    assert kill_when(run, lambda: True, 10)
    assert any(run.state.glob("step-*"))
    finish(run, threads=2)
    assert result(run) == undisturbed
