"""States are whole or absent, checked when read, and never the reason that older ones are lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forked import Forked
from small_runs import small_disk

from harness.errors import StageError
from trainers.training.state import State, States

FILES = ("model.safetensors", "optimizer.safetensors", "arrays.npz", "facts.json", "manifest.json")


def state(step: int, size: int = 10) -> State:
    return State(
        step,
        {"weight": torch.arange(float(size)) / 3 + step},
        {"weight/exp_avg": torch.full((3,), 0.1), "weight/step": torch.tensor(float(step))},
        {"counts": np.arange(6).reshape(2, 3), "loss": np.array([0.1, np.nan]), "one": np.array(np.pi)},
        {"history": [[0, [1 / 3, 2 / 3]]], "files": {}},
    )


def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path):
    States(tmp_path / "state").save(state(7))
    read = States(tmp_path / "state").newest()
    assert read.step == 7
    for part in ("model", "optimizer"):
        expected = getattr(state(7), part)
        assert getattr(read, part).keys() == expected.keys()
        assert all(torch.equal(getattr(read, part)[name], tensor) for name, tensor in expected.items())
    for name, array in state(7).arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)
        assert read.arrays[name].dtype == array.dtype
    assert read.facts["history"][0][1] == [1 / 3, 2 / 3]


def test_the_newest_states_are_kept_and_older_ones_removed(tmp_path):
    states = States(tmp_path / "state", keep=3)
    for step in (10, 20, 30, 40, 50):
        states.save(state(step))
    assert states.steps() == [30, 40, 50]
    states.clear()
    assert states.newest() is None
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(tmp_path, caplog, name, damage):
    states = States(tmp_path / "state")
    states.save(state(10))
    states.save(state(20))
    file = tmp_path / "state" / "step-00000020" / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        middle = len(data) // 2
        file.write_bytes(data[:middle] if damage == "cut" else data[:middle] + b"\xff" + data[middle + 1 :])
    assert states.newest().step == 10
    assert "step-00000020 is damaged" in caplog.text
    states.save(state(20))
    assert states.newest().step == 20


def test_a_state_whose_metrics_file_lost_lines_is_not_used(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text("one line\n")
    states = States(tmp_path / "state")
    for step, size in ((10, 5), (20, 500)):
        made = state(step)
        made.facts["files"]["metrics.jsonl"] = size
        states.save(made)
    assert states.newest().step == 10
    assert "metrics.jsonl: the file is shorter than when the state of step" in caplog.text


def test_what_a_killed_writer_left_behind_is_ignored_and_cleaned_up(tmp_path):
    states = States(tmp_path / "state")
    states.save(state(10))
    leftover = tmp_path / "state" / ".step-00000020.abc.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert states.newest().step == 10
    assert not leftover.exists()


FILL = """
import resource
from test_state import state
from trainers.training.state import States
states = States(folder)
states.save(state(10))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
states.save(state(20, size=1 << 20))
"""


def test_a_write_that_fails_is_told_in_words_and_leaves_the_last_good_state(tmp_path):
    process = Forked(exec, FILL, {"folder": tmp_path / "state"}).wait()
    assert "StageError" in process.stderr
    assert "cannot write" in process.stderr
    assert "make room, then start the same command again" in process.stderr
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000010"]
    assert States(tmp_path / "state").newest().step == 10


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as resize:
        states = States(tmp_path / "disk" / "state")
        states.save(state(10))
        with pytest.raises(StageError, match=r"(?i)cannot write: .*no space left"):
            states.save(state(20, size=1 << 20))
        assert [path.name for path in states.folder.iterdir()] == ["step-00000010"]
        assert states.newest().step == 10
        resize("20m")
        states.save(state(20, size=1 << 20))
        assert states.newest().step == 20
