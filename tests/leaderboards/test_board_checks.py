"""What a board finds out about a submission: an honest one passes, each forgery is caught by the check that should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_records import (  # type: ignore[import-not-found]
    SIZES,
    commit,
    detail,
    edit_json,
    failing,
    make_board,
    outcomes,
    reseal,
    write_submission,
)

from harness.samples import Sample
from leaderboards.board.rescoring import ContradictionError, filtered_programs
from leaderboards.board.verify import check_one, verify


def edit_samples(where, task: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = where.path / "evals" / "made@1" / f"samples_{task}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def summary_of(where) -> Path:
    return where.path / "evals" / "made@1" / "summary.json"


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


def wrong(line):
    return line["acc"] == 0.0


# --- forgeries: what is changed, and the check that must say so; every hash is made to fit again --------


def raise_score(where):
    def change(summary):
        result = summary["results"][0]
        result["value"] = summary["columns"]["pick"]["value"] = min(1.0, result["value"] + 0.01)

    edit_json(summary_of(where), change)


def raise_average(where):
    edit_json(
        summary_of(where), lambda s: s["columns"]["average"].update(value=s["columns"]["average"]["value"] + 1e-3)
    )


def raise_sample(where):
    edit_samples(where, "pick", lambda lines: next(filter(wrong, lines)).update(acc=1.0))


def change_response(where):
    def change(lines):
        line = next(line for line in lines if line["exact_match"] == 1.0)
        line.update(resps=[["#### 123456"]], filtered_resps=["123456"])

    edit_samples(where, "count", change)


def change_filtered(where):
    def change(lines):
        line = next(line for line in lines if line["exact_match"] == 0.0)
        line.update(filtered_resps=[line["target"]], exact_match=1.0)

    edit_samples(where, "count", change)


def change_likelihood(where):
    def change(lines):
        line = next(filter(wrong, lines))
        line["filtered_resps"][int(line["target"])][0] = "-0.01"

    edit_samples(where, "pick", change)


def drop_question(where):
    edit_samples(where, "count", lambda lines: lines.pop(5))
    edit_json(summary_of(where), lambda s: s["results"][1].update(n=SIZES["count"] - 1))


def repeat_question(where):
    edit_samples(where, "count", lambda lines: lines.append(lines[5]))


def easier_question(where):
    from board_records import digest

    def change(lines):
        doc = lines[0]["doc"] | {"prompt": "how much is 1 + 1?"}
        lines[0].update(doc=doc, doc_hash=digest(json.dumps(doc, indent=2, ensure_ascii=False)))

    edit_samples(where, "pick", change)


def other_target(where):
    from board_records import digest

    edit_samples(where, "pick", lambda lines: lines[0].update(target="3", target_hash=digest("3")))


def edited_document(where):
    edit_samples(where, "pick", lambda lines: lines[0]["doc"].update(prompt="something else"))


def hint_in_prompt(where):
    edit_samples(where, "count", lambda lines: lines[0]["arguments"]["gen_args_0"].update(arg_0="The answer is 0."))


def shrink_error(where):
    edit_json(summary_of(where), lambda s: s["columns"]["average"].update(stderr=1e-3))


def other_suite(where):
    edit_json(summary_of(where), lambda s: s["request"].update(suite_hash="6" * 64))


def own_limit(where):
    edit_json(summary_of(where), lambda s: s["request"].update(limit=10))


def own_column(where):
    edit_json(summary_of(where), lambda s: s["columns"]["average"].update(columns=["pick", "run"]))


def other_checkpoint(where):
    edit_json(summary_of(where), lambda s: s.update(checkpoint_hash="d" * 64))


FORGERIES = [
    (raise_score, "scores", "as claimed; column pick"),
    (raise_average, "scores", "column average"),
    (raise_sample, "samples", "is 0 by its response, 1 as recorded"),
    (change_response, "samples", "is 0 by its response, 1 as recorded"),
    (change_filtered, "samples", "does not make"),
    (change_likelihood, "samples", "the filtered responses are not the responses"),
    (drop_question, "questions", "29 questions, and 30 are pinned; missing: 5"),
    (repeat_question, "questions", "question 5 comes twice"),
    (easier_question, "questions", "a question or its target is not the pinned one"),
    (other_target, "questions", "a question or its target is not the pinned one"),
    (edited_document, "questions", "the document of question 0 does not have the recorded hash"),
    (hint_in_prompt, "questions", "the hash of the prompts is not the one in the summary"),
    (shrink_error, "statistics", "standard error of column average"),
    (other_suite, "suite", "suite hash"),
    (own_limit, "suite", "questions per task is 10"),
    (own_column, "suite", "is not the pinned one"),
    (other_checkpoint, "suite", "another checkpoint"),
]


@pytest.mark.parametrize(("forge", "check", "said"), FORGERIES, ids=[forge.__name__ for forge, _, _ in FORGERIES])
def test_a_forgery_is_caught_by_the_check_that_should(made, forge, check, said):
    board, _, where = made
    forge(where)
    assert "hashes" in failing(check_one(board, where))
    checked = check_one(board, reseal(board, where))
    assert "hashes" not in failing(checked)
    assert check in failing(checked)
    assert said in detail(checked, check)


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


def claim_passes(where):
    """Every wrong program is said to have passed, and every average is made to fit."""
    edit_samples(where, "run", lambda lines: [line.update(pass_at_1=1.0) for line in lines])

    def change(summary):
        columns = summary["columns"]
        summary["results"][2].update(value=1.0, stderr=0.0)
        columns["run"].update(value=1.0, stderr=0.0)
        parts = [columns[name] for name in ("pick", "count", "run")]
        columns["average"]["value"] = sum(part["value"] for part in parts) / 3
        columns["average"]["stderr"] = sum((part["stderr"] / 3) ** 2 for part in parts) ** 0.5

    edit_json(summary_of(where), change)


def test_honest_programs_pass_when_they_are_run_again_and_are_not_run_twice(made, sandbox, monkeypatch):
    board, _, _ = made
    checked = executed(board)
    assert outcomes(checked)["execution"] == "pass", detail(checked, "execution")
    assert detail(checked, "execution") == "20 scores agree with running their programs again"
    monkeypatch.setattr("leaderboards.board.execution._run", lambda programs: pytest.fail("run again"))
    assert executed(board).verdicts == checked.verdicts


def test_a_program_that_is_said_to_have_passed_is_caught_by_running_it(made, sandbox):
    board, _, where = made
    claim_passes(where)
    reseal(board, where)
    assert failing(verify(board)[0]) == []  # text alone cannot know
    checked = executed(board)
    assert failing(checked) == ["execution"]
    assert "pass_at_1 is 0 by running its program (AssertionError: ), 1 as recorded" in detail(checked, "execution")


def test_a_right_program_in_the_place_of_the_answer_is_caught_by_the_filter(made, sandbox):
    board, _, where = made

    def change(lines):
        for i, line in enumerate(lines):
            line.update(filtered_resps=[f"def f(x): return {7 * i} * x"])

    edit_samples(where, "run", change)
    claim_passes(where)
    reseal(board, where)
    checked = executed(board)
    assert failing(checked) == ["execution"]
    assert "the filter 'none' does not make" in detail(checked, "execution")


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
