"""What version 0.1 wrote is still read: its run store, its board and its FastChat folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


def moemix(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "store_0_1", tmp_path / "store"))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "board_0_1", tmp_path / "board"))


def scores(comparison: dict) -> dict[tuple[str, str], float | None]:
    [table] = comparison["comparisons"][0]["tables"]
    return {
        (row["strategy"], name): cell["score"] and cell["score"]["value"]
        for row in table["rows"]
        for name, cell in row["cells"].items()
    }


def test_a_store_of_0_1_gives_the_scores_that_its_own_table_shows(store: Path) -> None:
    result = moemix("table", *sorted((store / "quickstart").glob("*-s0-*")), "--format", "json")
    assert result.returncode == 0, result.stderr
    recorded = scores(json.loads((store / "quickstart" / "table.json").read_text()))
    shown = scores(json.loads(result.stdout))
    # Judgings are found by the plan, and folders given by hand come without one.
    expected = {key: value for key, value in recorded.items() if not key[1].startswith("judge:")}
    assert expected
    assert {key: shown[key] for key in expected} == expected


def test_a_board_of_0_1_is_verified_and_built(board: Path, tmp_path: Path) -> None:
    verified = moemix("board", "verify", board)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "0 fail" in verified.stdout
    built = moemix("board", "build", board, "--out", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    names = {
        entry["submission"]["strategy"]
        for entry in json.loads((tmp_path / "site" / "board.json").read_text())["entries"]
    }
    assert names == {"uniform", "dynamic"}


@pytest.mark.parametrize("strategy", ["uniform", "dynamic"])
def test_fastchat_answers_of_0_1_are_judged_as_they_were(strategy: str, tmp_path: Path) -> None:
    [answers] = (DATA / "fastchat_0_1/data/quickstart/model_answer").glob(f"tiny-{strategy}-*.jsonl")
    result = moemix(
        "judge", "--bench", "quickstart", "--answers", answers, "--limit", "1", "--out", tmp_path / "judged"
    )
    assert result.returncode == 0, result.stderr
    [recorded] = DATA.glob(f"store_0_1/quickstart/{strategy}-s0-*/judge/quickstart/summary.json")
    summary, before = (json.loads(path.read_text()) for path in (tmp_path / "judged" / "summary.json", recorded))
    assert {key: summary["average"][key] for key in before["average"]} == before["average"]
    assert summary["judged"] == before["judged"] > 0
