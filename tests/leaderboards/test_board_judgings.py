"""What a submission's judgings say is computed again from its judgments, of scores and of pairs."""

from __future__ import annotations

import json

import pytest
from board_records import (  # type: ignore[import-not-found]
    detail,
    edit_json,
    failing,
    outcomes,
    reseal,
    write_judging,
)

from harness.judging import JudgeTest
from leaderboards.board.judgings import pin_judging
from leaderboards.board.submissions import PinnedJudging, Rules
from leaderboards.board.verify import check_one

# Two games a pair, the models changing places: won, lost, contradicting games, a tie, and one game without a verdict.
GAMES = [(81, 1, "model_1", "model_1"), (81, 2, "model_2", "model_2"), (82, 1, "model_1", "model_2"),
         (82, 2, "tie", "tie"), (83, 1, "model_1", "error")]  # fmt: skip


def write_pairs(where, **changes):
    """A judging of pairs against a baseline, with the file of judgments in FastChat's shape."""
    outcome = {"win": 1, "loss": 1, "tie": 2, "adjusted_win_rate": 0.5}
    score = {"value": 0.5, "stderr": 0.2, "n": 4}
    write_judging(where, **({"average": score, "scale": [0, 1]} | outcome | changes))
    folder = where.path / "judge" / "mt_bench"
    edit_json(folder / "summary.json", lambda s: s["request"].update(mode="pairwise", baseline="other"))
    lines = [
        {"question_id": q, "turn": turn, "model_1": "tiny", "model_2": "other", "g1_winner": one, "g2_winner": two,
         "judge": ["j", "pair-v2"], "category": "writing"}
        for q, turn, one, two in GAMES
    ]  # fmt: skip
    (folder / "judgments-j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("write", [write_judging, write_pairs])
def test_what_the_judgments_say_is_computed_again(made, write):
    board, _, where = made
    write(where)
    unpinned = check_one(board, where := reseal(board, where))
    assert (outcomes(unpinned)["judge"], unpinned.judged) == ("skip", {})
    board.update(rules=Rules(judgings={"mt_bench": pin_judging(where.path / "judge" / "mt_bench")}))
    checked = check_one(board, where)
    assert outcomes(checked)["judge"] == "pass", detail(checked, "judge")
    name, value, _, turns = checked.judged["mt_bench"].scores[0]
    assert (name, turns) == ("average", 3 if write is write_judging else 4)
    assert value == pytest.approx(20 / 3 if write is write_judging else 0.5)


@pytest.mark.parametrize(
    ("write", "changes", "said"),
    [
        (write_judging, {"average": {"value": 7.5, "stderr": 1.0, "n": 3}},
         "the average is 6.66667 by the judgments, 7.5 as claimed"),
        (write_judging, {"average": {"value": 6.67, "stderr": 1.0, "n": 4}},
         "there are 3 judged turns, and the summary claims 4"),
        (write_judging, {"checkpoint_hash": "d" * 64}, "another checkpoint (dddddddddddd)"),
        (write_judging, {"average": None}, "average"),
        (write_pairs, {"win": 2, "loss": 0}, "won/lost/tied are 1/1/2 by the judgments, 2/0/2 as claimed"),
        (write_pairs, {"adjusted_win_rate": 0.75}, "the win rate is 0.5 by the judgments, 0.75 as claimed"),
        (write_pairs, {"average": {"value": 0.75, "stderr": 0.2, "n": 4}},
         "the average is 0.5 by the judgments, 0.75 as claimed"),
    ],
)  # fmt: skip
def test_a_summary_that_is_not_its_judgments_fails(made, write, changes, said):
    board, _, where = made
    write(where, **changes)
    checked = check_one(board, reseal(board, where))
    assert failing(checked) == ["judge"]
    assert said in detail(checked, "judge")


@pytest.mark.parametrize(
    "line", ['{"question_id": 81, "turns": "ask", "answers": {}}', '{"turns": ["ask"], "answers": 7}']
)
def test_conversations_that_are_none_fail(made, line):
    board, _, where = made
    write_judging(where)
    board.update(rules=Rules(judgings={"mt_bench": pin_judging(where.path / "judge" / "mt_bench")}))
    with open(where.path / "judge" / "mt_bench" / "conversations.jsonl", "a") as file:
        file.write(line + "\n")
    checked = check_one(board, reseal(board, where))
    assert (failing(checked), checked.judged) == (["judge"], {})
    assert "judge/mt_bench/conversations.jsonl:3" in detail(checked, "judge")


def test_games_that_nobody_won_as_said_are_no_judgments(made):
    board, _, where = made
    write_pairs(where)
    path = where.path / "judge" / "mt_bench" / "judgments-j.jsonl"
    path.write_text(path.read_text().replace('"tie"', '"tiny"'))
    checked = check_one(board, reseal(board, where))
    assert failing(checked) == ["judge"]
    assert "the winner of a game is 'tiny'" in detail(checked, "judge")


def test_a_board_can_require_qualified_judges(made):
    pinned = PinnedJudging(
        title="t", bench_hash="b", mode="single", protocol="strict", protocol_hash="p", judges=("gpt",), repeats=1,
        temperature=0.0, rows=1, row_hash="a" * 64,
    )  # fmt: skip
    passed = pinned.model_copy(update={"tested": {"gpt": JudgeTest(scores=True, pairs=False)}})
    assert Rules(judgings={"mt": passed}, require=("qualified",)).judgings["mt"].qualified
    assert Rules(judgings={"mt": pinned}).require == ()
    for judging in (pinned, passed.model_copy(update={"mode": "pairwise"})):
        with pytest.raises(ValueError, match="requires qualified judges, and those of mt are not"):
            Rules(judgings={"mt": judging}, require=("qualified",))


def test_flags_of_the_judge_are_told(made):
    board, _, where = made
    write_judging(where, flags={"talks to the judge": [81, 82], "empty": []})
    checked = check_one(board, reseal(board, where))
    assert outcomes(checked)["judge"] == "warn"
    assert detail(checked, "judge") == "mt_bench: talks to the judge in 2 questions"
