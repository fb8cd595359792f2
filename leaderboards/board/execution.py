"""Scores that come from running a program: the programs in a submission's samples are run again, in the sandbox.

They run in a process of their own (``moemix execute``), with the tests that the board pinned, as an evaluation runs
them; this module reads text and compares numbers. What was run once is kept beside the other verdicts.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MoemixError
from harness.files import read_jsonl, write_text
from harness.submissions import Outcome, Scorer, Verdict
from leaderboards.board.checks import few
from leaderboards.board.folder import BoardFolder
from leaderboards.board.rescoring import Contradiction, filtered_programs, known_filter
from leaderboards.board.untrusted import read_lines
from leaderboards.board.verify import Checked, Vector, executed_before, remember_executed
from leaderboards.scores import TOLERANCE

METRIC = "pass_at_1"  # of MBPP and the quickstart's world


@dataclass(frozen=True)
class _Question:
    """What a question's score comes from: the share of its programs that pass."""

    where: str
    recorded: float
    codes: tuple[str, ...]
    tests: str


def execute(board: BoardFolder, found: Sequence[Checked]) -> list[Checked]:
    """The submissions with the verdict ``execution`` from running their programs, where that can be done."""
    pending = [checked for checked in found if not checked.failed and _skipped(checked) and _runnable(board, checked)]
    folders = {where.label: where for where in board.submissions()} if pending else {}
    verdicts = executed_before(board, [folders[checked.label] for checked in pending])
    for checked in pending:
        if checked.label not in verdicts:
            verdict = verdicts[checked.label] = _execute(board, checked)
            if verdict.verdict in ("pass", "fail"):
                remember_executed(board, folders[checked.label], verdict)
    return [_with(checked, board, verdicts.get(checked.label)) for checked in found]


def _with(checked: Checked, board: BoardFolder, verdict: Verdict | None) -> Checked:
    """The verdict in the place of the one that said that nothing was run; that one stays for what cannot be run."""
    if verdict is None:
        return checked
    kept: list[Verdict] = []
    for held in checked.verdicts:
        if held.check != "execution":
            kept.append(held)
            continue
        kept.append(verdict)
        if others := _believed(board, checked, runnable=False):
            names = [f"{vector.metric} of {vector.task} ({vector.n} questions)" for _, vector in others]
            kept.append(held.model_copy(update={"detail": f"{few(names)}: not computed again; as recorded"}))
    return checked.model_copy(update={"verdicts": tuple(kept)})


def _skipped(checked: Checked) -> bool:
    return any(verdict.check == "execution" and verdict.verdict == "skip" for verdict in checked.verdicts)


def _runnable(board: BoardFolder, checked: Checked) -> bool:
    return bool(_believed(board, checked, runnable=True))


def _believed(board: BoardFolder, checked: Checked, *, runnable: bool) -> list[tuple[str, Vector]]:
    """Suite and scores of what no response alone can tell, as far as running programs can tell it, or cannot."""
    found = []
    for suite_key, vectors in checked.vectors.items():
        for vector in vectors:
            scorer = board.suite(suite_key).tasks[vector.task].scorer
            if f"{vector.metric},{vector.filter}" not in scorer.recomputed:
                generated = scorer.output_type.startswith("generate_until")
                can = vector.metric == METRIC and generated and known_filter(scorer.filters.get(vector.filter))
                if can == runnable:
                    found.append((suite_key, vector))
    return found


def _execute(board: BoardFolder, checked: Checked) -> Verdict:
    def say(verdict: Outcome, detail: str) -> Verdict:
        return Verdict(submission=checked.label, check="execution", verdict=verdict, detail=detail)

    folder = board.path / "submissions" / checked.label
    questions: list[_Question] = []
    try:
        for suite_key, vector in _believed(board, checked, runnable=True):
            scorer = board.suite(suite_key).tasks[vector.task].scorer
            questions += _questions(folder / "evals" / suite_key / f"samples_{vector.task}.jsonl", vector, scorer)
    except (Contradiction, MoemixError) as error:
        return say("fail", str(error).replace(f"{folder}/", "").replace("\n  ", "; "))
    verdicts = _run([(code, question.tests) for question in questions for code in question.codes])
    if isinstance(verdicts, str):
        return say("skip", f"{len(questions)} scores as recorded: {verdicts}")
    wrong, late, rest = [], [], iter(verdicts)
    for question in questions:
        mine = [next(rest) for _ in question.codes]
        score = sum(bool(verdict["passed"]) for verdict in mine) / len(mine)
        reasons = [str(verdict["reason"]) for verdict in mine if not verdict["passed"]]
        if math.isclose(score, question.recorded, abs_tol=TOLERANCE):
            continue
        if "timeout" in reasons:
            late.append(question.where)
        else:
            why = f" ({reasons[0][:60]})" if reasons else ""
            wrong.append(f"{question.where}: {METRIC} is {score:g} by running its program{why},"
                         f" {question.recorded:g} as recorded")  # fmt: skip
    if wrong:
        return say("fail", few(wrong))
    if late:
        return say("warn", f"ran out of time here, other than recorded: {few(late)}")
    return say("pass", f"{len(questions)} scores are those of running their programs again")


def _questions(path: Path, vector: Vector, scorer: Scorer) -> list[_Question]:
    """The programs of a task, in the order of its questions."""
    found: dict[int, _Question] = {}
    for _, sample in read_lines(path):
        if sample["filter"] == vector.filter:
            where = f"question {sample['doc_id']} of {vector.task}"
            codes = filtered_programs(sample, scorer.filters[vector.filter], where)
            recorded = float(sample[vector.metric])
            found[sample["doc_id"]] = _Question(where, recorded, tuple(codes), str(sample["target"]))
    return [found[number] for number in sorted(found)]


def _run(programs: Sequence[tuple[str, str]]) -> list[dict[str, Any]] | str:
    """The verdicts on programs with their tests, or why there are none."""
    with tempfile.TemporaryDirectory(prefix="moemix-execute-") as scratch:
        asked, out = Path(scratch) / "programs.jsonl", Path(scratch) / "verdicts.jsonl"
        write_text(asked, "".join(json.dumps({"code": code, "tests": tests}) + "\n" for code, tests in programs))
        command = (sys.executable, "-m", "harness.cli", "execute", str(asked), "--out", str(out))
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            said = [line for line in process.stderr.splitlines() if line.startswith("moemix: ")]
            return (said[-1] if said else "the programs could not be run").removeprefix("moemix: ")
        return list(read_jsonl(out))
