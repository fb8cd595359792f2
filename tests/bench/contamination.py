"""What looking for evaluation questions in millions of training rows costs, and how many reworded ones are found."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.contamination import Question, QuestionIndex, words_of
from evals.contamination_check import suite_questions
from tests.bench.report import Report, options, real_data
from tests.evals.reworded import reworded

SUITE = "paper_kr"
PLANTED = 1000  # one row in so many holds a question, by turns word by word and reworded
MESSAGES = 3
LENGTHS = ((30, 10_000), (15, 30), (8, 15))  # words of a question, from and below
SAMPLE = 1000


def main() -> None:
    given = options(rows={"type": int, "default": 2_000_000, "help": "of the largest source"})
    root = real_data(given)
    sizes = [500, 2000] if given.quick else [given.rows // 100, given.rows // 10, given.rows]
    report = Report(
        "contamination",
        "Evaluation questions in millions of training rows",
        f"`moemix data check FILE --suite {SUITE}`, in one process, on generated JSONL sources: each row is three "
        "messages of sentences drawn from real role play and code instructions, and one row in "
        f"{PLANTED:,} has an evaluation question planted in it, by turns word by word and reworded (one word in ten "
        "replaced, dropped or followed by another). Processor time and peak memory are the process's own and hold "
        "everything: loading the suite, hashing and reading the file, comparing, reporting.",
        quick=given.quick,
    )
    every = ("gsm8k", "arc_e") if given.quick else ()
    questions, _ = suite_questions(SUITE, only=every, root=root)
    print(f"{len(questions):,} questions", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        world = _World(sentences(root), questions)
        costs = [checked(world, rows, every, root, Path(scratch)) for rows in sizes]
        fewer = [checked(world, rows, ("gsm8k",), root, Path(scratch)) for rows in sizes[:2]]
    report.table(
        [cost.told() for cost in (*costs, *fewer)],
        ("questions", "rows", "MB", "wall s", "processor s", "peak MB", "planted and found", "reworded and found"),
    )
    last = costs[-1]
    report.say(
        "Each further row costs "
        + ", ".join(
            f"{(more.processor - less.processor) / (more.rows - less.rows) * 1e6:.0f} µs of processor time from "
            f"{less.rows:,} to {more.rows:,} rows with {more.questions:,} questions"
            for less, more in (*itertools.pairwise(costs), (fewer[0], fewer[1]))
        )
        + f"; the rest is the start: loading the tasks and indexing their questions. From {costs[0].rows:,} to "
        f"{last.rows:,} rows the peak moves by {last.peak - costs[0].peak:+.0f} MB."
    )
    report.table(recalls(questions, 50 if given.quick else SAMPLE), ("words", "questions", "found reworded", "share"))
    report.say(
        "Recall: questions of the suite drawn at random, one word in ten replaced, dropped or followed by another, "
        "each in a row of its own behind another message."
    )
    report.save()


@dataclass(frozen=True)
class _Cost:
    rows: int
    megabytes: float
    questions: int
    wall: float
    processor: float
    peak: float
    exact: str
    near: str

    def told(self) -> tuple[str, ...]:
        figures = f"{self.megabytes:.0f}", f"{self.wall:.0f}", f"{self.processor:.0f}", f"{self.peak:.0f}"
        return f"{self.questions:,}", f"{self.rows:,}", *figures, self.exact, self.near


class _World:
    """Rows that are made as they are written, the same for the same count."""

    def __init__(self, texts: Sequence[str], questions: Sequence[Question]) -> None:
        self.sentences = texts
        self.questions = [question for question in questions if len(words_of(question.text)) >= LENGTHS[0][0]]
        self.vocabulary = [word for question in self.questions[:500] for word in words_of(question.text)]

    def rows(self, count: int) -> Iterator[tuple[list[str], Question | None, bool]]:
        """Messages, the question that is planted in them, and whether word by word."""
        rng = random.Random(count)
        for number in range(count):
            messages = [" ".join(rng.choices(self.sentences, k=rng.randint(1, 6))) for _ in range(MESSAGES)]
            question, exact = None, number // PLANTED % 2 == 0
            if number % PLANTED == PLANTED // 2:
                question = rng.choice(self.questions)
                messages[0] += "\n" + (question.text if exact else reworded(question.text, rng, self.vocabulary))
            yield messages, question, exact


def sentences(root: Path) -> list[str]:
    """Of training sets that share no source with the questions."""
    files = ("codegen-instruct.json", "roleplay-simple-deduped-roleplay-instruct.json")
    rows = [row for file in files for row in json.loads((root / "gpteacher" / file).read_text(encoding="utf-8"))]
    pieces = (piece.strip() for row in rows for text in row.values() for piece in text.replace("\n", ". ").split(". "))
    return [piece for piece in pieces if len(piece.split()) >= 4]


def checked(world: _World, rows: int, tasks: Sequence[str], root: Path, folder: Path) -> _Cost:
    """The command on a source of so many rows, in a process of its own."""
    file = folder / "train.jsonl"
    planted: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
    with file.open("w", encoding="utf-8") as out:
        for messages, question, exact in world.rows(rows):
            out.write(json.dumps({"conversations": messages}) + "\n")
            if question is not None:
                planted[exact].add((question.task, question.doc_id))
    command = ["data", "check", str(file), "--suite", SUITE, "--data-root", str(root), "--format", "json"]
    if tasks:
        command += ["--tasks", ",".join(tasks)]
    (record,), usage, wall = run(command)
    found = {(task, doc) for task, hits in record["tasks"].items() for doc in (*hits["exact"], *hits["near"])}
    checked_tasks = set(record["tasks"])
    shares = [
        f"{len(mine & found)} of {len(mine)}"
        for mine in ({pair for pair in planted[exact] if pair[0] in checked_tasks} for exact in (True, False))
    ]
    print(f"{rows:,} rows: {wall:.0f} s wall, {usage.ru_utime + usage.ru_stime:.0f} s processor", flush=True)
    assert record["rows"] == rows
    return _Cost(
        rows=rows,
        megabytes=file.stat().st_size / 1e6,
        questions=sum(hits["questions"] for hits in record["tasks"].values()),
        wall=wall,
        processor=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss / 1024,
        exact=shares[0],
        near=shares[1],
    )


def run(command: Sequence[str]) -> tuple[Any, Any, float]:
    """What the command prints as JSON, what it used, and its wall seconds."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen((sys.executable, "-m", "harness.cli", *command), stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if status:
            sys.exit(f"`moemix {' '.join(command)}` failed")
        out.seek(0)
        return json.load(out), usage, wall


def recalls(questions: Sequence[Question], sample: int) -> list[tuple[str, int, int, str]]:
    """By length: how many reworded questions are found."""
    index, rng, rows = QuestionIndex(questions), random.Random(1), []
    vocabulary = [word for question in questions[:500] for word in words_of(question.text)]
    for shortest, longest in LENGTHS:
        some = [question for question in questions if shortest <= len(words_of(question.text)) < longest]
        some = rng.sample(some, min(sample, len(some)))
        texts = [["Please answer.", reworded(question.text, rng, vocabulary)] for question in some]
        found = sum(
            any(match.question == question for match in matches)
            for question, matches in zip(some, index.matches_of(texts), strict=True)
        )
        words = f"{shortest} and more" if longest > 1000 else f"{shortest} to {longest - 1}"
        rows.append((words, len(some), found, f"{100 * found / len(some):.0f} %"))
    return rows


if __name__ == "__main__":
    main()
