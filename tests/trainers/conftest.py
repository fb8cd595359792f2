"""What the published code computes, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_models import Published


@pytest.fixture
def llama_moe_fixture(published: Path) -> Published:
    return Published(published / "llama_moe_tiny.safetensors")


@pytest.fixture
def molm_fixture(published: Path) -> Published:
    return Published(published / "molm_tiny.safetensors")
