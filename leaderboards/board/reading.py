"""Give a board's samples and judged conversations to people who read them, in small pages of short texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.judging import CONVERSATIONS
from harness.samples import Sample, parse_samples
from leaderboards.board.judgings import judgings
from leaderboards.board.standings import Standing, Standings
from leaderboards.board.untrusted import read_lines
from leaderboards.conversations import Question, read_conversations

PAGE = 25  # questions
LONGEST = 2000  # characters of a text; the rest is in the submission's files
MOST = 200_000  # answers of a suite version; a larger board has no pages of samples
JUDGED_PAGE = 10  # judged questions
MOST_TURNS = 50_000  # judged turns of all submissions; a larger board has no pages of conversations
MOST_JUDGMENTS = 10  # judgments of a turn
Data = dict[str, object]


def has_sample_pages(standing: Standing) -> bool:
    """Return whether the site holds the answers of these submissions."""
    return len(standing.rows) * sum(task.questions for task in standing.suite.tasks.values()) <= MOST


def sample_data(standings: Standings, standing: Standing) -> Iterator[tuple[str, Data]]:
    """Yield the pages of a suite version: ``q-<task>-<page>`` questions, ``<submission>-<task>-<page>`` answers."""
    keys = {key.task: key for key in standing.keys}
    for row in standing.rows:
        folder = standings.folder(row) / "evals" / standing.suite.key
        for task, key in keys.items():
            lines = parse_samples(read_lines(folder / f"samples_{task}.jsonl"))
            samples = sorted((one for one in lines if one.filter == key.filter), key=lambda one: one.doc_id)
            for page, start in enumerate(range(0, len(samples), PAGE)):
                held = samples[start : start + PAGE]
                if row == standing.rows[0]:
                    yield f"q-{task}-{page}", _questions(held)
                scores = [one.score(key.metric) for one in held]
                name = standings.submission(row).submission_id
                yield f"{name}-{task}-{page}", {"answers": [_answer(one) for one in held], "scores": scores}


def _questions(samples: Sequence[Sample]) -> Data:
    prompts = [one.requests[0][0] for one in samples]
    return {"numbers": [one.doc_id for one in samples], "prompts": [_text(prompt, end=True) for prompt in prompts],
            "choices": [[_text(choice) for choice in one.choices] for one in samples],
            "gold": [_text(one.right) for one in samples]}  # fmt: skip


def _answer(sample: Sample) -> str:
    """Return the choice with the highest log-likelihood, or the first generated text."""
    first = sample.responses
    while isinstance(first, list):
        first = first[0] if first else ""
    return _text(first if sample.chosen is None else sample.chosen)


def conversation_rows(standings: Standings) -> dict[str, list[int]]:
    """Return bench → positions in ``standings.checked`` of the submissions whose conversations the site holds."""
    found: dict[str, list[int]] = {}
    turns = 0
    for row, checked in enumerate(standings.checked):
        for bench, judging in checked.judged.items():
            if f"judge/{bench}/{CONVERSATIONS}" in standings.submission(row).files:
                found.setdefault(bench, []).append(row)
                turns += judging.scores[0][3]
    return found if turns <= MOST_TURNS else {}


def conversation_data(standings: Standings, row: int) -> Iterator[tuple[str, list[Data]]]:
    """Yield each bench of a submission with its pages: the judged questions, in the same order for all submissions."""
    folder = standings.folder(row)
    for bench, summary in judgings(standings.submission(row), folder):
        if bench in standings.checked[row].judged:
            found = read_conversations(folder / "judge" / bench, summary.model, read_lines)
            judged = sorted((key for key, one in found.questions.items() if one.judgments), key=_by_number)
            pages = (judged[start : start + JUDGED_PAGE] for start in range(0, len(judged), JUDGED_PAGE))
            yield (
                bench,
                [
                    {"questions": [_conversation(key, found.questions[key], found.model) for key in page]}
                    for page in pages
                ],
            )


def _by_number(key: str) -> tuple[int, str]:
    return (len(key) if key.isdecimal() else 1 << 20), key


def _conversation(key: str, question: Question, model: str) -> Data:
    """Return the category and the turns of a question, each with its answers (the judged one first) and judgments."""
    models = sorted(question.answers, key=lambda name: name != model)[:2]  # it, and the other side of a pair
    return {
        "id": _text(key),
        "category": _text(question.category),
        "turns": [
            {
                "asked": _text(asked),
                "answers": [
                    ["" if name == model else _text(name), _text(question.answers[name][turn])]
                    for name in models
                    if len(question.answers[name]) > turn
                ],
                "judgments": [
                    [_text(one.judge), _text(one.verdict), _text(one.text)]
                    for one in question.judgments.get(turn + 1, [])[:MOST_JUDGMENTS]
                ],
            }
            for turn, asked in enumerate(question.turns)
        ],
    }


def _text(value: object, *, end: bool = False) -> str:
    """Return a text that is short enough for a page; of a prompt the end, where the question is."""
    text = str(value)
    if len(text) <= LONGEST:
        return text
    return f"… {text[-LONGEST:]}" if end else f"{text[:LONGEST]} …"
