"""A board with what lm-eval really wrote: submitted by command, verified, forged, and answered again."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_evaluations import run, samples  # type: ignore[import-not-found]
from tiny_checkpoint import make_checkpoint  # type: ignore[import-not-found]

from harness.cli import main
from harness.records import EvalSummary
from leaderboards.board.cli import board as board_command


def moemix(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "harness.cli", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def verdicts(board: Path, *options: object, here: bool = False) -> tuple[int, dict[str, str]]:
    """Exit status, and check → verdict of the only submission; a process of its own where it starts others."""
    arguments = ["verify", str(board), "--format", "json", *map(str, options)]
    if options and not here:
        done = moemix("board", *arguments)
        status, text = done.returncode, done.stdout
    else:
        result = CliRunner().invoke(board_command, arguments, standalone_mode=False)
        status, text = result.return_value, result.stdout
    found = json.loads(text)
    assert all(entry.keys() == {"submission", "check", "verdict", "detail"} for entry in found)
    return status, {entry["check"]: entry["verdict"] for entry in found}


@pytest.fixture(scope="module")
def pinned(checkpoint, mini_suite, tmp_path_factory) -> Path:
    """A board that pins the mini suite, and a submission of a checkpoint that was evaluated for it."""
    folder = tmp_path_factory.mktemp("board")
    shutil.copytree(checkpoint, folder / "mine")
    run(make_checkpoint(folder / "other", seed=5), mini_suite, "transformers", folder / "pinned")
    assert moemix("board", "init", folder / "board", "--pin", folder / "pinned").returncode == 0
    done = moemix("submit", folder / "mine", "--board", folder / "board", "--name", "tiny", "--licence", "MIT")
    assert done.returncode == 0, done.stderr
    assert "mini@1: evaluating" in done.stderr
    return folder / "board"


@pytest.fixture
def board(pinned, tmp_path) -> Path:
    shutil.copytree(pinned, tmp_path / "board")
    return tmp_path / "board"


def folder_of(board: Path) -> Path:
    (found,) = board.glob("submissions/tiny/*/evals/mini@1")
    return found


def test_an_honest_submission_of_real_samples_passes(board):
    status, found = verdicts(board)
    assert status == 0
    assert set(found.values()) <= {"pass", "warn", "skip"}
    assert found["samples"] == found["scores"] == found["questions"] == found["statistics"] == "pass"
    assert "execution" not in found  # every score of this suite can be recomputed


def test_the_same_checkpoint_again_evaluates_nothing_and_lies_there_once(checkpoint, board):
    done = moemix("submit", checkpoint, "--board", board, "--name", "tiny", "--contact", "me@example.org")
    assert done.returncode == 0, done.stderr
    assert "evaluating" not in done.stderr
    (found,) = board.glob("submissions/*/*/submission.json")
    assert json.loads(found.read_text())["contact"] == "me@example.org"


@pytest.mark.parametrize(("task", "metric"), [("mini_choice", "acc"), ("mini_text", "exact_match")])
def test_a_raised_real_sample_is_caught(board, task, metric):
    path = folder_of(board) / f"samples_{task}.jsonl"
    text = path.read_text()
    assert f'"{metric}": 0.0' in text
    path.write_text(text.replace(f'"{metric}": 0.0', f'"{metric}": 1.0', 1))
    status, found = verdicts(board)
    assert status == 1
    assert found["samples"] == found["hashes"] == "fail"
    assert found["scores"] == "pass"  # they are computed from the responses, which are as they were


def test_a_raised_real_score_is_caught(board):
    path = folder_of(board) / "summary.json"
    record = json.loads(path.read_text())
    record["columns"]["average"]["value"] += 0.01
    path.write_text(json.dumps(record))
    status, found = verdicts(board)
    assert status == 1
    assert found["scores"] == found["hashes"] == "fail"
    assert found["samples"] == "pass"


def test_a_dropped_real_question_is_caught(board):
    path = folder_of(board) / "samples_mini_choice.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    status, found = verdicts(board)
    assert status == 1
    assert found["questions"] == "fail"


def test_the_checkpoint_answers_again_as_submitted(checkpoint, board):
    status, found = verdicts(board, "--replay", 7, "--replay-seed", 3, "--checkpoint", checkpoint)
    assert status == 0
    assert found["replay"] == "pass"


@pytest.fixture
def replays_here(monkeypatch):
    """The replay's evaluation in this process, where everything that it imports is loaded already."""

    def run(*words: str) -> int:
        with contextlib.redirect_stdout(sys.stderr), pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code

    monkeypatch.setattr("leaderboards.board.pins.run_moemix", run)


def test_answers_of_another_checkpoint_do_not_survive_a_replay(checkpoint, pinned, tmp_path, replays_here):
    """Samples that were made by a better model, with every hash true, under this checkpoint's name."""
    board = tmp_path / "board"
    shutil.copytree(pinned, board)
    shutil.rmtree(next(board.glob("submissions/tiny")))
    (work,) = board.glob(".moemix/evals/*/*")
    for task in ("mini_choice", "mini_text"):
        shutil.copy(pinned.parent / "pinned" / f"samples_{task}.jsonl", work)
    summary = EvalSummary.read(pinned.parent / "pinned" / "summary.json")
    mine = EvalSummary.read(work / "summary.json")
    mine.model_copy(update={"results": summary.results, "columns": summary.columns}).write(work / "summary.json")
    assert moemix("submit", checkpoint, "--board", board, "--name", "tiny").returncode == 0
    assert verdicts(board)[0] == 0  # nothing but the model itself can tell
    status, found = verdicts(board, "--replay", 6, "--replay-seed", 1, "--checkpoint", checkpoint, here=True)
    assert status == 1
    assert found["replay"] == "fail"


def test_a_replay_without_the_checkpoint_is_said_to_be_left_out(pinned, board):
    (pinned.parent / "mine").rename(pinned.parent / "gone")
    try:
        status, found = verdicts(board, "--replay", 2)
    finally:
        (pinned.parent / "gone").rename(pinned.parent / "mine")
    assert status == 0
    assert found["replay"] == "skip"


# --- asking some questions only ---------------------------------------------------------------------------------


def test_chosen_questions_have_the_prompts_and_answers_that_they_have_among_all(checkpoint, mini_suite, tmp_path):
    """Few-shot examples are drawn one question after the other, so those of a question depend on the ones before."""
    folder = tmp_path / "shots"
    shutil.copytree(mini_suite.parent, folder)
    suite = folder / "mini.yaml"
    text = suite.read_text().replace("shots: 0", "shots: 2").replace("[mini_text]", "[mini_text], shots: 1")
    suite.write_text(text)
    for file in ("choice", "text"):
        path = folder / "tasks" / f"{file}.yaml"
        path.write_text(path.read_text() + "fewshot_split: test\n")
    run(checkpoint, suite, "transformers", tmp_path / "all")
    chosen = {"mini_choice": (3, 4, 17), "mini_text": (0, 23)}
    summary = run(checkpoint, suite, "transformers", tmp_path / "some", questions=chosen)
    assert {result.n for result in summary.results} == {3, 2}
    for task, numbers in chosen.items():
        every = {sample["doc_id"]: sample for sample in samples(tmp_path / "all", task)}
        some = samples(tmp_path / "some", task)
        assert [sample["doc_id"] for sample in some] == list(numbers)
        for sample in some:
            assert sample["arguments"] == every[sample["doc_id"]]["arguments"]
            assert sample["doc_hash"] == every[sample["doc_id"]]["doc_hash"]
        assert len({str(sample["arguments"]) for sample in every.values()}) == len(every)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[1]", "task → list"), ('{"mini_choice": []}', "task → list"),
     ('{"mini_choise": [1]}', "did you mean 'mini_choice'"),
     ('{"mini_choice": [24]}', "mini_choice has no question 24: it has 24")],
)  # fmt: skip
def test_questions_that_do_not_exist_are_named(checkpoint, mini_suite, tmp_path, text, said):
    from evals.cli import eval_command

    (tmp_path / "q.json").write_text(text)
    arguments = [str(checkpoint), "--suite", str(mini_suite), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(eval_command, [*arguments, "--questions", str(tmp_path / "q.json")])
    assert said in str(result.exception)
