"""Write ``transcript.html``: every judgment with its question and answers, to read and filter.

The page needs no build step, no server and no other file. Every string is escaped. The content security policy allows
only our script, by its hash, so nothing inside an answer can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import jinja2

from evals.judge.journal import Journal, journal_path
from evals.judge.records import Answers, Judging, Line, Question

TEMPLATE = Path(__file__).with_name("transcript.html.jinja")


def write_transcript(judging: Judging, title: str) -> None:
    """Write the page judgment by judgment, so that only one is in memory at a time."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"sha256": _sha256, "token": _token}
    request = judging.request
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).generate(
        title=f"{title} · {', '.join(request.answers)}",
        filters={
            "category": list(dict.fromkeys(question.category for question in judging.bench.questions)),
            "turn": [str(turn + 1) for turn in range(max(len(question.turns) for question in judging.bench.questions))],
            "model": list(request.answers),
            "judge": [judge.name for judge in request.judges],
            "state": ["judged", "failed", "flagged"],
        },
        judgments=_in_order(judging),
    )
    temporary = judging.out / ".transcript.html.tmp"
    with open(temporary, "w", encoding="utf-8", errors="replace") as file:
        file.writelines(page)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, judging.out / "transcript.html")


def _in_order(judging: Judging) -> Iterator[tuple[Line, Question, Mapping[str, Answers]]]:
    """Yield the judgments by question, turn, models, judge, repeat and game; read each from its place."""
    questions = {question.id: question for question in judging.bench.questions}
    order = {identity: number for number, identity in enumerate(questions)}
    places = []
    for number, judge in enumerate(judging.request.judges):
        path = journal_path(judging.out, judge.name, judging.request.mode)
        with closing(Journal(path)) as journal:
            for place, line in journal.places():
                models = (line.get("model", ""), line.get("model_1", ""), line.get("model_2", ""))
                key = (order[line["question_id"]], line["turn"], models, number, line["repeat"], line.get("game", 0))
                places.append((key, path, place))
    for _, path, place in sorted(places):
        with open(path, "rb") as file:
            file.seek(place)
            line = json.loads(file.readline())
        yield line, questions[line["question_id"]], judging.answers


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def _token(text: str) -> str:
    """Return a name as one word, so that a filter can match it among several."""
    return "_".join(text.split())
