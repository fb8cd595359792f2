"""What a board finds out about a submission: an honest one passes, and copies, oddities and programs are found out."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from attacks import raise_sample  # type: ignore[import-not-found]
from board_records import (  # type: ignore[import-not-found]
    SIZES,
    commit,
    detail,
    edit_json,
    edit_samples,
    failing,
    make_board,
    outcomes,
    reseal,
    write_submission,
)

from harness.samples import Sample
from leaderboards.board import execution
from leaderboards.board.rescoring import ContradictionError, filtered_programs
from leaderboards.board.verify import check_one, verify


def test_an_honest_submission_passes_every_check(made):
    board, _, where = made
    (checked,) = verify(board)
    assert outcomes(checked) == {
        "layout": "pass", "schema": "pass", "owner": "pass", "hashes": "pass", "suite": "pass", "questions": "pass",
        "samples": "pass",
        "execution": "skip", "scores": "pass", "statistics": "pass", "outputs": "pass", "contamination": "skip",
        "duplicates": "pass",
    }  # fmt: skip
    assert {verdict.submission for verdict in checked.verdicts} == {where.label}


def test_a_file_that_is_missing_changed_or_not_listed_is_caught_by_the_hashes(made):
    board, _, where = made
    (where.path / "mixture.jsonl").write_text((where.path / "mixture.jsonl").read_text() + "\n")
    (where.path / "contamination.json").write_text('{"method": "13-grams", "tasks": {}}')
    (where.path / "evals" / "made@1" / "results.json").unlink()
    said = detail(check_one(board, where), "hashes")
    assert "contamination.json is not listed" in said
    assert "results.json is listed but missing" in said
    assert "mixture.jsonl was changed after the submission" in said


def test_an_edited_hash_is_caught(made):
    board, _, where = made
    edit_json(where.path / "submission.json", lambda s: s["files"]["mixture.jsonl"].update(sha256="0" * 64))
    checked = check_one(board, where)
    assert failing(checked) == ["hashes"]
    assert "the id is not the hash of the content" in detail(checked, "hashes")


def test_what_runs_code_is_said_to_be_as_recorded(made):
    """A score that only running a program could check is believed at first, and that is never left unsaid."""
    board, _, where = made
    checked = check_one(board, where)
    assert outcomes(checked)["execution"] == "skip"
    assert "pass_at_1 of run (20 questions)" in detail(checked, "execution")


# --- programs are run again -----------------------------------------------------------------------------


@pytest.fixture
def sandbox():
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed (make sandbox)")


def executed(board):
    (checked,) = verify(board, executing=True)
    return checked


def test_honest_programs_pass_when_they_are_run_again_and_are_not_run_twice(made, sandbox, monkeypatch):
    board, _, _ = made
    checked = executed(board)
    assert outcomes(checked)["execution"] == "pass", detail(checked, "execution")
    assert detail(checked, "execution") == "20 scores agree with running their programs again"
    monkeypatch.setattr("leaderboards.board.execution._run", lambda programs: pytest.fail("run again"))
    assert executed(board).verdicts == checked.verdicts


def test_of_several_programs_a_question_each_counts_and_each_is_a_response():
    fields = {"resps": [["a", "b"]], "filtered_resps": [["a", "b"]]}
    sample = Sample("file:1", 3, "none", fields)
    assert filtered_programs(sample, [{"function": "take_first"}], "question 3") == ["a", "b"]
    with pytest.raises(ContradictionError, match="question 3: the programs are not the responses"):
        filtered_programs(
            Sample("file:1", 3, "none", fields | {"resps": [["a", "c"]]}), [{"function": "take_first"}], "question 3"
        )


def test_without_a_sandbox_programs_are_left_as_recorded_and_the_verdict_says_why(made, monkeypatch):
    board, _, _ = made
    monkeypatch.setenv("PATH", "/nowhere")
    code = "import evals.sandbox_kinds as k; k.sandlock_installed = lambda: False; from harness.cli import main; main()"
    monkeypatch.setattr(execution, "moemix_command", lambda *words: [sys.executable, "-c", code, *words])
    checked = executed(board)
    assert outcomes(checked)["execution"] == "skip"
    assert "20 scores as recorded: programs cannot run here: bubblewrap" in detail(checked, "execution")


# --- copies and oddities --------------------------------------------------------------------------------


def test_a_copy_under_another_name_fails_and_the_original_does_not(made):
    """The copy is backdated; what counts is when each came into the repository."""
    board, _, where = made
    commit(board)
    copy = board.path / "submissions" / "mine" / "copy"
    shutil.copytree(where.path, copy)
    edit_json(copy / "submission.json", lambda s: s.update(model="mine", created="2025-02-01T00:00:00+00:00"))
    from leaderboards.board.folder import SubmissionFolder

    copied = reseal(board, SubmissionFolder("mine", "copy", copy))
    found = {checked.label: checked for checked in verify(board)}
    assert failing(found[copied.label]) == ["duplicates"]
    assert f"every response is also in {where.label}" in detail(found[copied.label], "duplicates")
    assert failing(found[where.label]) == []
    commit(board)
    found = {checked.label: checked for checked in verify(board)}
    assert (failing(found[copied.label]), failing(found[where.label])) == (["duplicates"], [])
    assert outcomes(found[where.label])["duplicates"] == "warn"


def test_a_submission_may_repeat_the_one_that_it_supersedes(made):
    board, _, where = made
    again = board.path / "submissions" / "honest" / "again"
    shutil.copytree(where.path, again)
    edit_json(again / "submission.json", lambda s: s.update(supersedes=where.name, checkpoint_hash="e" * 64))
    edit_json(again / "evals/made@1/summary.json", lambda s: s.update(checkpoint_hash="e" * 64))
    from leaderboards.board.folder import SubmissionFolder

    reseal(board, SubmissionFolder("honest", "again", again))
    assert all(not checked.failed for checked in verify(board))


def test_equal_scores_by_other_responses_are_for_the_reviewer(tmp_path):
    board, asked = make_board(tmp_path / "board", SIZES)
    first, second = (write_submission(board, asked, name, seed=1) for name in ("one", "two"))

    def reword(lines):
        for line in lines:
            line["resps"] = [["Well! " + line["resps"][0][0]]]

    def other_likelihoods(lines):
        for line in lines:
            for pair in line["filtered_resps"]:
                pair[0] = str(float(pair[0]) - 0.5)
            line["resps"] = [[pair] for pair in line["filtered_resps"]]

    edit_samples(second, "count", reword)
    edit_samples(second, "pick", other_likelihoods)
    reseal(board, second)
    found = {checked.submission.model: checked for checked in verify(board)}
    assert outcomes(found["two"])["duplicates"] == "warn"
    assert "every score is also in" in detail(found["two"], "duplicates")
    assert first.label in detail(found["two"], "duplicates")


def test_equal_wrong_texts_are_for_the_reviewer(tmp_path):
    """A copy with other log-likelihoods and a few other texts: nobody is wrong in the same words by chance."""
    board, asked = make_board(tmp_path / "board", SIZES)
    first, second = (write_submission(board, asked, name, seed=1, ability=-1.0) for name in ("one", "two"))

    def other_likelihoods(lines):
        for line in lines:
            line["filtered_resps"] = [[str(float(value) - 0.5), flag] for value, flag in line["filtered_resps"]]
            line["resps"] = [[pair] for pair in line["filtered_resps"]]

    edit_samples(second, "pick", other_likelihoods)
    edit_samples(second, "count", lambda lines: [line.update(resps=[["Well! " + line["resps"][0][0]]])
                                                 for line in lines[::15]])  # fmt: skip
    reseal(board, second)
    found = {checked.submission.model: checked for checked in verify(board)}
    assert outcomes(found["two"])["duplicates"] == "warn"
    assert "of the wrong texts are also in" in detail(found["two"], "duplicates")
    assert first.label in detail(found["two"], "duplicates")


def test_a_constant_answer_is_for_the_reviewer(made):
    board, _, where = made

    def constant(lines):
        for line in lines:
            line.update(resps=[["#### 0"]], filtered_resps=["0"], exact_match=float(line["target"] == "0"))

    edit_samples(where, "count", constant)
    edit_samples(where, "run", lambda lines: [line.update(resps=[["pass"]], filtered_resps=["pass"]) for line in lines])
    checked = check_one(board, reseal(board, where))
    assert outcomes(checked)["outputs"] == "warn"
    assert "count: the same answer to every question ('#### 0')" in detail(checked, "outputs")


@pytest.mark.parametrize(
    ("report", "verdict", "said"),
    [
        ({"pick": {"questions": 40}, "count": {"questions": 30}, "run": {"questions": 20}}, "pass", "nothing found"),
        ({"pick": {"questions": 40, "found": [3, 4]}}, "warn", "pick: 2 of 40; not reported: count, run"),
        ({"pick": {"questions": 40, "found": [300]}}, "fail", "pick: question 300"),
        ({"arc": {"questions": 1}}, "fail", "arc"),
    ],
)
def test_a_contamination_report_is_read(made, report, verdict, said):
    board, _, where = made
    (where.path / "contamination.json").write_text(json.dumps({"method": "13-grams", "tasks": report}))
    checked = check_one(board, reseal(board, where))
    assert outcomes(checked)["contamination"] == verdict
    assert said in detail(checked, "contamination")


# --- verified once ----------------------------------------------------------------------------------------


def test_a_change_after_verification_is_seen(made):
    board, _, where = made
    assert not verify(board)[0].failed
    raise_sample(where)
    assert "samples" in failing(verify(board)[0])


def test_several_processes_find_the_same(tmp_path):
    board, asked = make_board(tmp_path / "board", {"pick": 10, "count": 10})
    for i in range(36):
        write_submission(board, asked, f"model-{i}", seed=i)
    alone = verify(board, jobs=1)
    shutil.rmtree(board.work)
    assert verify(board, jobs=2) == alone


def test_a_withdrawn_submission_is_told_of_and_stops_nobody(made):
    board, _, where = made
    raise_sample(where)
    text = {"schema_version": 1, "submission_id": where.name, "reason": "wrong checkpoint", "date": "2026-03-01"}
    (where.path / "withdrawn.json").write_text(json.dumps(text))
    (checked,) = verify(board)
    assert not checked.failed
    assert detail(checked, "hashes").startswith("withdrawn; ")
