"""Comparisons of a board's strategies are computed once, and again when something that they depend on changes."""

from __future__ import annotations

import shutil

import pytest
from board_records import make_board, write_submission

from leaderboards.board import strategies
from leaderboards.board.standings import rank_submissions
from leaderboards.board.verify import verify

SIZES = {"pick": 30, "count": 20}
ABILITY = {"uniform": 0.3, "dynamic": 0.9, "datasize": 0.2}


@pytest.fixture
def counted(monkeypatch):
    """The groups that were compared, and not read from the cache."""
    groups = []
    compare = strategies._group
    monkeypatch.setattr(strategies, "_group", lambda *args: groups.append(args[2][0]) or compare(*args))
    return groups


def models(board) -> dict[str, dict]:
    standings = rank_submissions(board, verify(board))
    return {data["model"]: data for data in strategies.strategy_data(standings, standings.suites[0])}


def test_a_group_is_compared_again_only_when_a_member_changes(tmp_path, counted):
    board, asked = make_board(tmp_path / "board", SIZES)
    for k, model in enumerate(("one", "two")):
        for i, (strategy, ability) in enumerate(ABILITY.items()):
            for seed in range(3):
                write_submission(board, asked, f"{model}-{strategy}-{seed}", seed=seed, draw=100 * k + 10 * i + seed,
                                 ability=ability, strategy=strategy, base_model=model)  # fmt: skip
    first = models(board)
    assert counted == ["one", "two"]
    assert models(board) == first
    assert counted == ["one", "two"]
    shutil.rmtree(board.path / "submissions" / "two-datasize-2")
    write_submission(board, asked, "two-datasize-2", seed=2, draw=999, ability=0.8, strategy="datasize",
                     base_model="two")  # fmt: skip
    second = models(board)
    assert counted == ["one", "two", "two"]
    assert second["one"] == first["one"]
    at = second["two"]["strategies"].index("datasize")
    assert second["two"]["columns"]["average"]["v"][at] != first["two"]["columns"]["average"]["v"][at]
    shutil.rmtree(board.path / ".moemix")
    assert models(board) == second  # what is cached is what is computed
