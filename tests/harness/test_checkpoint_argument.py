"""A checkpoint argument: a folder, or a repository that the hub or its cache holds."""

from __future__ import annotations

import json

import pytest

from harness.checkpoint_argument import CheckpointArgument, checkpoint_name
from harness.errors import MoemixError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def given(text):
    return CheckpointArgument().convert(text, None, None)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache with one repository, and no way to the hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--lab--tiny-moe"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"weights")
    return snapshot


def test_a_folder_goes_before_a_repository(hub, tmp_path, monkeypatch):
    folder = tmp_path / "lab" / "tiny-moe"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.chdir(tmp_path)
    assert given("lab/tiny-moe").resolve() == tmp_path / "lab" / "tiny-moe"


@pytest.mark.parametrize("text", ["lab/tiny-moe", "lab/tiny-moe@main", f"lab/tiny-moe@{COMMIT}"])
def test_a_repository_becomes_a_folder_that_is_called_after_it(hub, text):
    assert given(text) == hub
    assert checkpoint_name(given(text)) == "lab--tiny-moe"


def test_what_is_neither_is_told_by_name(hub):
    with pytest.raises(MoemixError, match="no such folder") as error:
        given("/nowhere/at all")
    assert "ORG/NAME" in str(error.value)
    with pytest.raises(MoemixError, match="lab/other: there is no such folder, and the hub did not return it"):
        given("lab/other")
    with pytest.raises(MoemixError, match="lab/tiny-moe@v2: there is no such folder"):
        given("lab/tiny-moe@v2")


def test_pickled_weights_are_no_weights(hub):
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(MoemixError, match="no safetensors weights"):
        given("lab/tiny-moe")


def test_a_run_s_checkpoint_is_called_after_the_run(tmp_path):
    (tmp_path / "dynamic-1a2b" / "checkpoint").mkdir(parents=True)
    assert checkpoint_name(tmp_path / "dynamic-1a2b" / "checkpoint") == "dynamic-1a2b"
    assert checkpoint_name(tmp_path / "dynamic-1a2b") == "dynamic-1a2b"
