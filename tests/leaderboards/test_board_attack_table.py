"""Every attack of the table ends as it should, and harms no honest entry."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from attacks import ATTACKS, Attack  # type: ignore[import-not-found]
from board_records import SIZES, commit, make_board, write_submission  # type: ignore[import-not-found]

from leaderboards.board.folder import BoardFolder
from leaderboards.board.standings import rank_submissions
from leaderboards.board.submissions import Rules
from leaderboards.board.verify import verify

KINDS = ("history", "identity", "files", "judge", "numbers", "replay", "code")


@pytest.fixture(scope="module")
def honest_board(tmp_path_factory) -> tuple[Path, dict]:
    """A board on whose main branch an honest submission of ``alice`` lies, and which asks for logins."""
    board, asked = make_board(tmp_path_factory.mktemp("honest") / "board", SIZES)
    board.update(rules=Rules(owners="login", maintainers=("boss",)))
    write_submission(board, asked, "honest", seed=1, owner="alice")
    commit(board)
    return board.path, asked


def test_every_class_is_attacked():
    assert set(Counter(attack.kind for attack in ATTACKS)) == set(KINDS)
    assert len({(attack.kind, attack.name) for attack in ATTACKS}) == len(ATTACKS) >= 57


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}: {attack.name}: {attack.end}")
def test_an_attack_ends_as_it_should(honest_board, tmp_path, attack: Attack):
    if attack.kind == "code" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (make sandbox)")
    shutil.copytree(honest_board[0], tmp_path / "board")
    board = BoardFolder(tmp_path / "board")
    board.asked = honest_board[1]
    (honest,) = board.submissions()
    attack.run(board, honest)

    checked = verify(board, executing=attack.kind == "code", jobs=1)
    standings = rank_submissions(board, checked)
    current = [standings.submission(row).owner for row in range(len(standings.checked))
               if standings.status[row][0] == "current"]  # fmt: skip
    assert "alice" in current
    assert honest.label not in standings.refused
    theirs = [verdict for one in checked for verdict in one.verdicts
              if verdict.check == attack.check and attack.said in verdict.detail]  # fmt: skip
    expected = ("warn", "skip") if attack.end == "flagged" else ("fail",)
    said = [f"{v.submission} {v.check} {v.verdict}: {v.detail}" for one in checked for v in one.verdicts]
    assert [verdict.verdict in expected for verdict in theirs] == [True], said
    assert (attack.end == "refused") <= (attack.check in ("layout", "schema", "owner", "names"))
    if attack.end != "flagged":
        assert current == ["alice"]  # nothing of the attacker's is shown, so nothing of it ranks higher
        assert len(standings.refused) == 1
