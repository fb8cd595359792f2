"""Attacks on a board by name: what a stranger does, to which class it belongs, and how it has to end.

Each of them lays something into the folder of a board on which alice's honest submission stands. Where files are
changed, hashes and id are made to fit again, as a forger would.

``refused``  it is never read as a submission: files, records, names or owner are not what a board takes
``failed``   it is read, and a check of its content finds it out
``flagged``  nothing proves it wrong, so it stands there with a mark for readers and reviewers
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from board_records import (  # type: ignore[import-not-found]
    SIZES,
    digest,
    edit_json,
    edit_samples,
    reseal,
    write_judging,
    write_submission,
)

from leaderboards.board.folder import BoardFolder, SubmissionFolder
from leaderboards.board.judgings import pin_judging
from leaderboards.board.submissions import ReplayRecord

Folder = SubmissionFolder
Run = Callable[[BoardFolder, Folder], object]


@dataclass(frozen=True)
class Attack:
    """What is done, and the check whose verdict ends it, with some of its words."""

    kind: str
    name: str
    end: str
    check: str
    said: str
    run: Run


def forged(board: BoardFolder, model: str = "forged", **stated: Any) -> Folder:
    """A submission of mallory's that would pass."""
    return write_submission(board, board.asked, model, seed=2, **({"owner": "mallory"} | stated))


def with_files(change: Callable[[Folder], object], *, fitting: bool = True) -> Run:
    """Change the files of such a submission, and by default make its hashes fit again."""

    def run(board: BoardFolder, honest: Folder) -> None:
        where = forged(board)
        change(where)
        if fitting:
            reseal(board, where)

    return run


def stating(**fields: Any) -> Run:
    """State something in a submission, without an id that covers it."""
    return with_files(lambda w: edit_json(w.path / "submission.json", lambda s: s.update(fields)), fitting=False)


def summary_of(where: Folder) -> Path:
    return where.path / "evals" / "made@1" / "summary.json"


# --- history: what came first, and who replaces whom ----------------------------------------------------------------


def copied(board: BoardFolder, honest: Folder) -> Folder:
    folder = board.path / "submissions" / "forged" / "copy"
    shutil.copytree(honest.path, folder)
    return SubmissionFolder("forged", "copy", folder)


def backdated_copy(board, honest):
    reseal(board, copied(board, honest), owner="mallory", created="2020-01-01T00:00:00+00:00")


def near_copy(board, honest):
    where = copied(board, honest)

    def change(lines):
        for line in lines[::3]:
            line["filtered_resps"] = [[str(float(v) - 0.25), flag] for v, flag in line["filtered_resps"]]
            line["resps"] = [[pair] for pair in line["filtered_resps"]]

    edit_samples(where, "pick", change)
    reseal(board, where, owner="mallory")


def supersede_another(board, honest):
    forged(board, "honest", supersedes=honest.name)


def supersede_nothing(board, honest):
    forged(board, supersedes="0" * 12)


# --- identity: in whose name ----------------------------------------------------------------------------------------


def write_withdrawal(where, **fields):
    text = {"submission_id": where.name, "reason": "it is bad", "date": "2026-03-01", **fields}
    (where.path / "withdrawn.json").write_text(json.dumps(text))


def withdraw_another(board, honest):
    write_withdrawal(honest, by="mallory")


def withdraw_as_nobody(board, honest):
    write_withdrawal(honest)


def withdraw_with_nonsense(board, honest):
    (honest.path / "withdrawn.json").write_text("{")


def withdraw_by_the_id_of_another(board, honest):
    where = forged(board)
    write_withdrawal(where, submission_id=honest.name, by="mallory")


def of_nobody(board, honest):
    forged(board, owner=None)


def named(model: str) -> Run:
    return lambda board, honest: forged(board, model)


# --- files ----------------------------------------------------------------------------------------------------------


def touched(name: str, data: bytes = b"x") -> Callable[[Folder], None]:
    def change(where):
        path = where.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return change


def hidden_folder(board, honest):
    where = forged(board)
    shutil.move(where.path, board.path / "submissions" / ".hidden" / where.name)


def linked_model(board, honest):
    where = forged(board)
    shutil.move(where.path.parent, board.path / "elsewhere")
    (board.path / "submissions" / "forged").symlink_to(board.path / "elsewhere")


def case_collision(where):
    touched("judge/Bench/x.json")(where)
    touched("judge/bench/x.json")(where)


def large_record(where):
    touched("judge/b/summary.json")(where)
    os.truncate(where.path / "judge/b/summary.json", 900_000_000)  # sparse


def link(where):
    (where.path / "run.json").symlink_to("/etc/passwd")


def hard_link(where):
    (where.path.parent / "secret").write_text("{}")
    os.link(where.path.parent / "secret", where.path / "run.json")
    (where.path.parent / "secret").rename(where.path.parents[3] / "secret")


def bomb(where):
    with zipfile.ZipFile(where.path / "evals" / "made@1" / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples_pick.jsonl", b"0" * (1 << 20))


def many_files(where):
    (where.path / "judge" / "b").mkdir(parents=True)
    for i in range(2001):
        (where.path / "judge" / "b" / f"{i}.json").touch()


def other_line_ends(where):
    path = where.path / "mixture.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def unlisted(where):
    touched("contamination.json", b'{"method": "13-grams", "tasks": {}}')(where)


# --- numbers: scores, questions, mixtures ---------------------------------------------------------------------------


def mixture(**changes: Any) -> Run:
    def edit(where):
        path = where.path / "mixture.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1].update(changes)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return with_files(edit)


def infinite(where):
    path = where.path / "mixture.jsonl"
    path.write_text(path.read_text().replace('"step": 10', '"step": 1e999', 1))


def infinite_request(where):
    path = where.path / "evals/made@1/samples_count.jsonl"
    path.write_text(path.read_text().replace('"do_sample": false', '"do_sample": 1e999', 1))


def wrong(line):
    return line["acc"] == 0.0


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
    def change(lines):
        doc = lines[0]["doc"] | {"prompt": "how much is 1 + 1?"}
        lines[0].update(doc=doc, doc_hash=digest(json.dumps(doc, indent=2, ensure_ascii=False)))

    edit_samples(where, "pick", change)


def other_target(where):
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


# --- judge ----------------------------------------------------------------------------------------------------------


def judged(change: Callable[[Path], object], *, pinned: bool = True, **claimed: Any) -> Run:
    """A judging of mallory's; the board pins one with the same questions and judge."""

    def run(board: BoardFolder, honest: Folder) -> None:
        where = forged(board)
        write_judging(where)
        folder = where.path / "judge" / "mt_bench"
        if pinned:
            board.update(rules=board.board.rules.model_copy(update={"judgings": {"mt_bench": pin_judging(folder)}}))
        if claimed:
            edit_json(folder / "summary.json", lambda s: s.update(claimed))
        change(folder)
        reseal(board, where)

    return run


def judgments(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def edit(folder):
        path = folder / "judgments-j.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        change(lines)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return edit


def unchanged(folder):
    pass


def perfect(lines):
    for line in lines:
        line.update(score=10)


# --- code and replay ------------------------------------------------------------------------------------------------


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


def right_programs_after_the_filter(where):
    def change(lines):
        for i, line in enumerate(lines):
            line.update(filtered_resps=[f"def f(x): return {7 * i} * x"])

    edit_samples(where, "run", change)
    claim_passes(where)


def answers_equal_to_everything(where):
    """Programs return something that equals whatever their tests expect; recorded as passed, as outside a sandbox."""
    code = "class Yes:\n    def __eq__(self, other):\n        return True\n\ndef f(x):\n    return Yes()\n"
    edit_samples(where, "run", lambda lines: [line.update(resps=[[code]], filtered_resps=[code]) for line in lines])
    claim_passes(where)


def same_answer_always(where):
    def change(lines):
        for line in lines:
            line.update(resps=[["#### 0"]], filtered_resps=["0"], exact_match=float(line["target"] == "0"))

    edit_samples(where, "count", change)

    def fit(summary):
        columns, n = summary["columns"], SIZES["count"]
        error = (1 / n * (1 - 1 / n) / (n - 1)) ** 0.5
        summary["results"][1].update(value=1 / n, stderr=error)
        columns["count"].update(value=1 / n, stderr=error)
        parts = [columns[name] for name in ("pick", "count", "run")]
        columns["average"]["value"] = sum(part["value"] for part in parts) / 3
        columns["average"]["stderr"] = sum((part["stderr"] / 3) ** 2 for part in parts) ** 0.5

    edit_json(summary_of(where), fit)


def require(what: str, then: Run) -> Run:
    def run(board: BoardFolder, honest: Folder) -> None:
        then(board, honest)
        board.update(rules=board.board.rules.model_copy(update={"require": (what,)}))
        replay_of(board, honest, 0)

    return run


def replay_of(board: BoardFolder, where: Folder, moved: int) -> None:
    found = {"submission_id": where.name, "engine": "transformers", "dtype": "float32", "seed": 1, "questions": 25,
             "moved": moved, "allowed": 2, "detail": f"{moved} of 25 scores moved", "date": "2026-03-01",
             "verdict": "fail" if moved > 2 else "pass"}  # fmt: skip
    ReplayRecord.model_validate(found).write(board.replay_path(where.name))


def answers_that_the_checkpoint_does_not_give(board, honest):
    replay_of(board, forged(board), 9)


def replay_of_another(board, honest):
    where = forged(board)
    replay_of(board, honest, 0)
    board.replay_path(honest.name).rename(board.replay_path(where.name))


def submit(board, honest):
    forged(board)


CREATED = "2026-02-02T00:00:00+00:00"
ATTACKS = [
    Attack("history", "a copy with an earlier date", "failed", "duplicates", "every response is also in honest/",
           backdated_copy),
    Attack("history", "a copy with a third of its numbers moved", "failed", "duplicates",
           "% of the log-likelihoods are also in honest/", near_copy),
    Attack("history", "superseding another's submission", "refused", "owner", "another owner", supersede_another),
    Attack("history", "superseding nothing", "refused", "owner", "there is no submission", supersede_nothing),
    Attack("identity", "withdrawing another's submission", "flagged", "owner", "is ignored: mallory", withdraw_another),
    Attack("identity", "withdrawing it as nobody", "flagged", "owner", "is ignored: nobody", withdraw_as_nobody),
    Attack("identity", "withdrawing it with a broken file", "flagged", "owner", "is ignored", withdraw_with_nonsense),
    Attack("identity", "a withdrawal that names another's id", "flagged", "owner", "is about the submission",
           withdraw_by_the_id_of_another),
    Attack("identity", "no owner", "refused", "owner", "no owner is stated", of_nobody),
    Attack("identity", "another's name in other letters", "refused", "names", "looks like 'honest'", named("Honest")),
    Attack("identity", "a name that looks like another's", "refused", "names", "looks like 'honest'", named("h0nest")),
    Attack("identity", "an owner changed afterwards", "failed", "hashes", "not the hash of the content",
           stating(owner="alice")),
    Attack("identity", "a licence changed afterwards", "failed", "hashes", "not the hash of the content",
           stating(licence="ours")),
    Attack("identity", "a strategy changed afterwards", "failed", "hashes", "not the hash of the content",
           stating(strategy="uniform")),
    Attack("identity", "a date changed afterwards", "failed", "hashes", "not the hash of the content",
           stating(created=CREATED)),
    Attack("identity", "a strategy in look-alike letters", "refused", "schema", "is not allowed in a name",
           stating(strategy="unif\u043erm")),
    Attack("identity", "text that turns the direction of reading", "refused", "schema", "U+202E is not allowed",
           stating(description="\u202e")),
    Attack("files", "a hidden folder", "refused", "layout", "not the folder of a submission", hidden_folder),
    Attack("files", "a linked folder", "refused", "layout", "not the folder of a submission", linked_model),
    Attack("files", "a hidden file", "refused", "layout", "is not a file of a submission",
           with_files(touched(".hidden"), fitting=False)),
    Attack("files", "names that differ in the case of letters", "refused", "layout", "differ only in the case",
           with_files(case_collision)),
    Attack("files", "a name that Windows reserves", "refused", "layout", "is not a file of a submission",
           with_files(touched("judge/aux/x.json"))),
    Attack("files", "900 MB under a judge's name", "refused", "layout", "the limit is 4,194,304",
           with_files(large_record, fitting=False)),
    Attack("files", "a symbolic link", "refused", "layout", "is a symbolic link", with_files(link, fitting=False)),
    Attack("files", "a hard link", "refused", "layout", "is a hard link", with_files(hard_link, fitting=False)),
    Attack("files", "a pipe", "refused", "layout", "is not a regular file",
           with_files(lambda where: os.mkfifo(where.path / "metrics.jsonl"), fitting=False)),
    Attack("files", "an archive", "refused", "layout", "is not a file of a submission", with_files(bomb)),
    Attack("files", "weights", "refused", "layout", "is not a file", with_files(touched("model.safetensors"))),
    Attack("files", "a program", "refused", "layout", "is not a file of a submission", with_files(touched("run.py"))),
    Attack("files", "2,001 files", "refused", "layout", "more than 2000 files", with_files(many_files, fitting=False)),
    Attack("files", "a path out of the folder", "failed", "hashes", "is listed but missing",
           with_files(lambda where: edit_json(where.path / "submission.json", lambda s: s["files"].update(
               {"../../escape.json": {"bytes": 1, "sha256": "0" * 64}})), fitting=False)),
    Attack("files", "other line ends", "failed", "hashes", "has other line ends",
           with_files(other_line_ends, fitting=False)),
    Attack("files", "a file that is not listed", "failed", "hashes", "is not listed",
           with_files(unlisted, fitting=False)),
    Attack("judge", "another judge", "failed", "judge", "not the judging that the board pins",
           judged(judgments(lambda lines: [line["judge"].__setitem__(0, "mine") for line in lines]))),
    Attack("judge", "easier categories", "failed", "judge", "not the judging that the board pins",
           judged(judgments(lambda lines: lines[2].update(category="easy")))),
    Attack("judge", "a lost question left out", "failed", "judge", "not the judging that the board pins",
           judged(judgments(lambda lines: lines.pop()))),
    Attack("judge", "a higher average", "failed", "judge", "by the judgments, 10 as claimed",
           judged(unchanged, average={"value": 10.0, "stderr": 0.1, "n": 3})),
    Attack("judge", "scores of 10 for all, and the old words", "failed", "judge", "by the judgments",
           judged(judgments(perfect))),
    Attack("judge", "a score of 11", "failed", "judge", "is not between 1 and 10",
           judged(judgments(lambda lines: lines[0].update(score=11)))),
    Attack("judge", "judgments of another checkpoint", "failed", "judge", "another checkpoint",
           judged(unchanged, checkpoint_hash="d" * 64)),
    Attack("judge", "a judging that the board does not pin", "flagged", "judge", "not shown",
           judged(unchanged, pinned=False)),
    Attack("judge", "words to the judge", "flagged", "judge", "talks to the judge in 2 questions",
           judged(unchanged, flags={"talks to the judge": [81, 82]})),
    Attack("numbers", "one parameter", "refused", "schema", "parameters", stating(parameters=1)),
    Attack("numbers", "a quintillion of parameters", "refused", "schema", "parameters", stating(parameters=10**18)),
    Attack("numbers", "more active parameters than there are", "refused", "schema", "more than parameters",
           stating(parameters=1000, active_parameters=2000)),
    Attack("numbers", "a negative seed", "refused", "schema", "seed", stating(seed=-1)),
    Attack("numbers", "a date in 2099", "refused", "schema", "not in the future", stating(created="2099-01-01")),
    Attack("numbers", "weights of 500 %", "refused", "schema", "not shares of 100 %", mixture(after=[3.0, 1.0, 1.0])),
    Attack("numbers", "a negative weight", "refused", "schema", "not shares of 100 %", mixture(after=[1.5, -0.5, 0.0])),
    Attack("numbers", "weights of fewer sources", "refused", "schema", "not shares of 100 %",
           mixture(after=[0.5, 0.5])),
    Attack("numbers", "steps out of order", "refused", "schema", "is out of order", mixture(step=1)),
    Attack("numbers", "another source", "refused", "schema", "the sources are not",
           mixture(names=["chat", "code", "secret"])),
    Attack("numbers", "an infinite step", "refused", "schema", "not a mixture update", with_files(infinite)),
    Attack("numbers", "an infinite option of a request", "failed", "questions", "read as infinity",
           with_files(infinite_request)),
    Attack("numbers", "a higher score", "failed", "scores", "as claimed; column pick", with_files(raise_score)),
    Attack("numbers", "a higher average", "failed", "scores", "column average", with_files(raise_average)),
    Attack("numbers", "a wrong answer that counts", "failed", "samples", "is 0 by its response, 1 as recorded",
           with_files(raise_sample)),
    Attack("numbers", "another response", "failed", "samples", "is 0 by its response, 1 as recorded",
           with_files(change_response)),
    Attack("numbers", "another filtered answer", "failed", "samples", "does not make", with_files(change_filtered)),
    Attack("numbers", "another log-likelihood", "failed", "samples", "the filtered responses are not the responses",
           with_files(change_likelihood)),
    Attack("numbers", "a question less", "failed", "questions", "29 questions, and 30 are pinned; missing: 5",
           with_files(drop_question)),
    Attack("numbers", "a question twice", "failed", "questions", "question 5 comes twice", with_files(repeat_question)),
    Attack("numbers", "an easier question", "failed", "questions", "is not the pinned one",
           with_files(easier_question)),
    Attack("numbers", "another right answer", "failed", "questions", "is not the pinned one", with_files(other_target)),
    Attack("numbers", "an edited question", "failed", "questions", "question 0 does not have the recorded hash",
           with_files(edited_document)),
    Attack("numbers", "a hint in the prompt", "failed", "questions", "the hash of the prompts",
           with_files(hint_in_prompt)),
    Attack("numbers", "a smaller error", "failed", "statistics", "standard error of column average",
           with_files(shrink_error)),
    Attack("numbers", "another suite", "failed", "suite", "suite hash", with_files(other_suite)),
    Attack("numbers", "fewer questions by a limit", "failed", "suite", "questions per task is 10",
           with_files(own_limit)),
    Attack("numbers", "an average of its own", "failed", "suite", "is not the pinned one", with_files(own_column)),
    Attack("numbers", "the answers of another checkpoint", "failed", "suite", "another checkpoint",
           with_files(other_checkpoint)),
    Attack("numbers", "the same answer to every question", "flagged", "outputs", "the same answer to every question",
           with_files(same_answer_always)),
    Attack("code", "programs that are said to pass", "failed", "execution", "is 0 by running its program",
           with_files(claim_passes)),
    Attack("code", "answers that equal whatever is expected", "failed", "execution", "is 0 by running its program",
           with_files(answers_equal_to_everything)),
    Attack("code", "right programs after the filter", "failed", "execution", "does not make",
           with_files(right_programs_after_the_filter)),
    Attack("replay", "answers that the checkpoint does not give", "failed", "replay", "9 of 25 scores moved",
           answers_that_the_checkpoint_does_not_give),
    Attack("replay", "no replay where the board requires one", "failed", "replay", "no replay is recorded",
           require("replay", submit)),
    Attack("replay", "the replay of another submission", "failed", "replay", "no replay is recorded",
           require("replay", replay_of_another)),
]  # fmt: skip
