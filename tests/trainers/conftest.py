"""What the published code computes, and the log, for the tests of this folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from published_models import Published


@pytest.fixture
def llama_moe_fixture(published: Path) -> Published:
    return Published(published / "llama_moe_tiny.safetensors")


@pytest.fixture
def molm_fixture(published: Path) -> Published:
    return Published(published / "molm_tiny.safetensors")


@pytest.fixture(autouse=True)
def _notes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The command line shows notes as well as warnings; so do tests."""
    caplog.set_level(logging.INFO, logger="moemix")
