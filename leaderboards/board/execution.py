"""Recompute scores that come from running programs: run the programs of a submission's samples again, in the sandbox.

They run in a process of their own (``moemix execute``), with the tests that the board pinned, as an evaluation runs
them. This module only reads text and compares numbers. Results are cached beside the other verdicts.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MoemixError
from harness.files import read_jsonl, write_text
from harness.launch import moemix_command
from harness.samples import parse_samples
from leaderboards.board.checked import Cache, Checked, Vector
from leaderboards.board.checks import summarise, within
from leaderboards.board.folder import BoardFolder
from leaderboards.board.rescoring import ContradictionError, filtered_programs, known_filter
from leaderboards.board.submissions import Outcome, Scorer, Verdict
from leaderboards.board.untrusted import read_lines
from leaderboards.scores import TOLERANCE

METRIC = "pass_at_1"  # the metric of MBPP and of the quickstart's world


@dataclass(frozen=True)
class _Question:
    """A question whose score is the share of its programs that pass."""

    where: str
    recorded: float
    programs: tuple[str, ...]
    tests: str


@dataclass(frozen=True)
class _Execution:
    """The result of running one program with its tests."""

    passed: bool
    reason: str


def execute(board: BoardFolder, submissions: Sequence[Checked]) -> list[Checked]:
    """Return the submissions with the verdict ``execution`` from running their programs, where that is possible."""
    pending = [c for c in submissions if not c.failed and c.as_recorded and _recorded_scores(board, c, runnable=True)]
    if not pending:
        return list(submissions)
    verdicts: dict[str, Verdict] = {}
    with Cache(board) as cache:
        keys = {checked.label: f"executed {cache.key(checked.label)}" for checked in pending}
        known = cache.read(keys.values())
    for checked in pending:
        key = keys[checked.label]
        if key in known:
            verdicts[checked.label] = Verdict.model_validate_json(known[key])
            continue
        outcome, detail = _execute(board, checked)
        verdict = Verdict(submission=checked.label, check="execution", verdict=outcome, detail=detail)
        verdicts[checked.label] = verdict
        if outcome in ("pass", "fail"):
            with Cache(board) as cache:
                cache.write(key, verdict.model_dump_json().encode())
    return [_with_verdict(c, board, verdicts[c.label]) if c.label in verdicts else c for c in submissions]


def _with_verdict(checked: Checked, board: BoardFolder, executed: Verdict) -> Checked:
    """Replace the verdict that nothing was run; it stays for the scores that cannot be recomputed by running code."""
    verdicts: list[Verdict] = []
    others = _recorded_scores(board, checked, runnable=False)
    for verdict in checked.verdicts:
        if verdict.check != "execution":
            verdicts.append(verdict)
            continue
        verdicts.append(executed)
        if others:
            names = [f"{vector.metric} of {vector.task} ({vector.n} questions)" for _, vector in others]
            verdicts.append(verdict.model_copy(update={"detail": f"{summarise(names)}: not recomputed; as recorded"}))
    changes: dict[str, object] = {"verdicts": tuple(verdicts)}
    if executed.verdict == "pass":
        changes["as_recorded"] = tuple((suite, *vars(vector.key).values()) for suite, vector in others)
    return checked.model_copy(update=changes)


def _recorded_scores(board: BoardFolder, checked: Checked, *, runnable: bool) -> list[tuple[str, Vector]]:
    """Return suite and score vector of what no response alone shows, and running programs shows (or does not)."""
    vectors = []
    for suite_key, held in checked.vectors.items():
        for vector in held:
            scorer = board.suite(suite_key).tasks[vector.task].scorer
            if f"{vector.metric},{vector.filter}" not in scorer.recomputed:
                generated = scorer.output_type.startswith("generate_until")
                can_run = vector.metric == METRIC and generated and known_filter(scorer.filters.get(vector.filter))
                if can_run == runnable:
                    vectors.append((suite_key, vector))
    return vectors


def _execute(board: BoardFolder, checked: Checked) -> tuple[Outcome, str]:
    folder = board.path / "submissions" / checked.label
    questions: list[_Question] = []
    try:
        for suite_key, vector in _recorded_scores(board, checked, runnable=True):
            scorer = board.suite(suite_key).tasks[vector.task].scorer
            questions += _questions(folder / "evals" / suite_key / f"samples_{vector.task}.jsonl", vector, scorer)
    except (ContradictionError, MoemixError) as error:
        return "fail", within(error, folder)
    executions = _run([(program, question.tests) for question in questions for program in question.programs])
    if isinstance(executions, str):
        return "skip", f"{len(questions)} scores as recorded: {executions}"
    wrong, timeouts, rest = [], [], iter(executions)
    for question in questions:
        own = [next(rest) for _ in question.programs]
        score = sum(execution.passed for execution in own) / len(own)
        reasons = [execution.reason for execution in own if not execution.passed]
        if math.isclose(score, question.recorded, abs_tol=TOLERANCE):
            continue
        if "timeout" in reasons:
            timeouts.append(question.where)
        else:
            reason = f" ({reasons[0][:60]})" if reasons else ""
            wrong.append(f"{question.where}: {METRIC} is {score:g} by running its program{reason},"
                         f" {question.recorded:g} as recorded")  # fmt: skip
    if wrong:
        return "fail", summarise(wrong)
    if timeouts:
        return "warn", f"programs timed out here, and the recorded scores differ: {summarise(timeouts)}"
    return "pass", f"{len(questions)} scores agree with running their programs again"


def _questions(path: Path, vector: Vector, scorer: Scorer) -> list[_Question]:
    """Return the questions of a task, by number, with their programs."""
    questions: dict[int, _Question] = {}
    for sample in parse_samples(read_lines(path)):
        if sample.filter == vector.filter:
            name = f"question {sample.doc_id} of {vector.task}"
            programs = filtered_programs(sample, scorer.filters[vector.filter], name)
            recorded = sample.score(vector.metric)
            questions[sample.doc_id] = _Question(name, recorded, tuple(programs), str(sample.target))
    return [questions[number] for number in sorted(questions)]


def _run(programs: Sequence[tuple[str, str]]) -> list[_Execution] | str:
    """Run programs with their tests; return the results, or why they could not be run."""
    with tempfile.TemporaryDirectory(prefix="moemix-execute-") as scratch:
        source, out = Path(scratch) / "programs.jsonl", Path(scratch) / "verdicts.jsonl"
        write_text(source, "".join(json.dumps({"code": code, "tests": tests}) + "\n" for code, tests in programs))
        command = moemix_command("execute", str(source), "--out", str(out))
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            messages = [line for line in process.stderr.splitlines() if line.startswith("moemix: ")]
            return (messages[-1] if messages else "the programs could not be run").removeprefix("moemix: ")
        return [_Execution(bool(line["passed"]), str(line["reason"])) for line in read_jsonl(out)]
