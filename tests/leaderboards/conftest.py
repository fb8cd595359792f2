"""Fixtures of the leaderboards' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from board_records import SIZES, make_board, write_submission  # type: ignore[import-not-found]
from run_records import Bench  # type: ignore[import-not-found]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def new_bench(tmp_path: Path) -> Callable[[str], Bench]:
    """Another store, by name."""
    return lambda name: Bench(tmp_path / name)


@pytest.fixture
def answers() -> Callable[[int, int, float], list[float]]:
    """0/1 scores of ``n`` questions, ``share`` of them right, spread by a seed."""

    def make(seed: int, n: int, share: float) -> list[float]:
        generator = np.random.default_rng(seed)
        scores = np.zeros(n)
        scores[generator.permutation(n)[: round(share * n)]] = 1.0
        return [float(score) for score in scores]

    return make


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Callable[[Path], Path]:
    """A store, by its folder, that shares the generated data with all others of these tests: made once."""
    shared = tmp_path_factory.mktemp("worlds")

    def store(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "_cache").symlink_to(shared)
        return folder

    return store


@pytest.fixture
def made(tmp_path):
    """A board, the questions it asks, and an honest submission to it."""
    board, asked = make_board(tmp_path / "board", SIZES)
    return board, asked, write_submission(board, asked, "honest", seed=1)
